"""Which images of the training sets are trained on."""

import logging
from typing import Dict, List

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import DatasetError
from .coco_panoptic import read_panoptic_json

__all__ = ["load_dicts", "load_training_dicts", "usable_for_training"]

logger = logging.getLogger(__name__)


def load_training_dicts(cfg) -> List[Dict]:
    """Load ``DATASETS.TRAIN`` and leave out what the recipe leaves out, with a line in the log.

    Left out are images with a side below ``DATALOADER.MIN_IMAGE_SIDE`` pixels and, with
    ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, those without any thing segment (crowd counts).

    Raises:
        DatasetError: nothing is left.
    """
    kept = []
    for name in cfg.DATASETS.TRAIN:
        dicts = load_dicts(name)
        if any("pan_seg_file_name" not in d for d in dicts):
            raise DatasetError(
                f"'{name}' in DATASETS.TRAIN has images without a panoptic PNG: choose a panoptic "
                "data set"
            )
        _add_image_sizes(dicts, MetadataCatalog.get(name))
        usable = [
            d
            for d in dicts
            if usable_for_training(
                d, cfg.DATALOADER.MIN_IMAGE_SIDE, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
            )
        ]
        logger.info(
            "'%s': %d of %d images are trained on (the others have no thing, or a side below %d)",
            name,
            len(usable),
            len(dicts),
            cfg.DATALOADER.MIN_IMAGE_SIDE,
        )
        kept += usable
    if not kept:
        raise DatasetError(
            f"no image of DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} has a thing and sides of "
            f"{cfg.DATALOADER.MIN_IMAGE_SIDE} pixels: look at its segments_info, or set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False, or a smaller DATALOADER.MIN_IMAGE_SIDE"
        )
    return kept


def load_dicts(name: str) -> List[Dict]:
    """Load a registered data set.

    Raises:
        DatasetError: its loader found a file missing or malformed.
    """
    try:
        return DatasetCatalog.get(name)
    except DatasetError:
        raise
    except (AssertionError, KeyError, OSError) as error:  # what Detectron2's loaders raise
        raise DatasetError(
            f"the data set '{name}' cannot be loaded: {' '.join(str(error).split())} is missing "
            "or not as expected; look at DETECTRON2_DATASETS and the files below it"
        ) from error


def usable_for_training(dataset_dict: Dict, min_side: int, need_thing: bool) -> bool:
    """Is the image large enough, and does it have a thing if it needs one?"""
    sides = (dataset_dict.get("height", min_side), dataset_dict.get("width", min_side))
    has_thing = any(s["isthing"] for s in dataset_dict.get("segments_info", ()))
    return min(sides) >= min_side and (has_thing or not need_thing)


def _add_image_sizes(dicts: List[Dict], metadata) -> None:
    """Detectron2's own panoptic loader drops the sizes that the json has."""
    if not dicts or "height" in dicts[0] or metadata.get("panoptic_json") is None:
        return
    images = {i["id"]: i for i in read_panoptic_json(metadata.panoptic_json)["images"]}
    for d in dicts:
        image = images.get(d["image_id"])
        if image is not None:
            d["height"], d["width"] = image["height"], image["width"]
