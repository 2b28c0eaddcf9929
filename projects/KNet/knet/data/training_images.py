"""Which images of the training sets are trained on."""

import contextlib
import logging
from collections import Counter
from contextvars import ContextVar
from typing import Dict, Iterator, List, Optional, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import DatasetError, UsageError
from .datasets.coco_panoptic import read_panoptic_json
from .ground_truth import is_annotated

__all__ = [
    "load_dicts",
    "load_to_check",
    "load_training_sets",
    "loading_once",
    "usable_for_training",
]

logger = logging.getLogger(__name__)

# what Detectron2's loaders raise
_OF_LOADERS = (AssertionError, AttributeError, KeyError, OSError, TypeError, ValueError)


# {name: images} of what was loaded to be checked; None where nobody takes it
_checked: ContextVar[Optional[Dict[str, List[Dict]]]] = ContextVar("checked", default=None)


@contextlib.contextmanager
def loading_once() -> Iterator[Dict[str, List[Dict]]]:
    """Let a training that is begun in the block take what :func:`load_to_check` has loaded there.

    COCO's training set takes seconds to load.

    Returns:
        {name: images}, to be cleared where another process trains.
    """
    checked: Dict[str, List[Dict]] = {}
    token = _checked.set(checked)
    try:
        yield checked
    finally:
        _checked.reset(token)


def load_to_check(name: str) -> List[Dict]:
    """:func:`load_dicts` of a data set that is checked, and may be trained on afterwards.

    Raises:
        DatasetError, UsageError: see :func:`load_dicts`.
    """
    dicts, checked = load_dicts(name), _checked.get()
    if checked is not None:
        checked[name] = dicts
    return dicts


def load_training_sets(cfg) -> List[Tuple[str, List[Dict]]]:
    """Load ``DATASETS.TRAIN`` and leave out what the recipe leaves out, with a line in the log.

    Left out are images with a side below ``DATALOADER.MIN_IMAGE_SIDE`` pixels, where the data set
    tells the sizes, and, with ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, those without any thing
    segment or instance (crowd counts). A semantic model (``MODEL.MASK_ON`` False) learns from
    images without things too.

    Returns:
        (name of the data set, its images) in the order of the config.

    Raises:
        UsageError: no data set is named.
        DatasetError: a data set of another kind than the model learns from, or nothing is left.
    """
    if not cfg.DATASETS.TRAIN:
        raise UsageError("DATASETS.TRAIN is (): name a data set to train on")
    mask_on = cfg.MODEL.MASK_ON
    need_thing = mask_on and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    min_side = cfg.DATALOADER.MIN_IMAGE_SIDE
    kept = []
    for name in cfg.DATASETS.TRAIN:
        dicts = (_checked.get() or {}).pop(name, None) or load_dicts(name)
        dicts = _of_kind(name, dicts, mask_on)
        _add_image_sizes(dicts, MetadataCatalog.get(name))
        reasons = [why_image_left_out(d, min_side, need_thing) for d in dicts]
        usable = [d for d, reason in zip(dicts, reasons) if reason is None]
        logger.info("'%s': %d of %d images are trained on", name, len(usable), len(dicts))
        for reason, count in Counter(filter(None, reasons)).items():
            first = dicts[reasons.index(reason)]["file_name"]
            told = "%d of %d images have %s and are left out (%s, ...)"
            logger.info(told, count, len(dicts), reason, first)
        kept.append((name, usable))
    if not any(usable for _, usable in kept):
        raise DatasetError(
            f"no image of DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} has "
            f"{'a thing and ' if need_thing else ''}sides of {min_side} pixels: look at its "
            "annotations, or set DATALOADER.FILTER_EMPTY_ANNOTATIONS False, or a smaller "
            "DATALOADER.MIN_IMAGE_SIDE"
        )
    return kept


def load_dicts(name: str) -> List[Dict]:
    """Load a registered data set.

    Segments that do not tell whether they are things get it from the metadata, as Detectron2's
    documentation has it.

    Raises:
        DatasetError: its loader found a file missing or malformed, or no image at all.
        UsageError: its metadata do not tell things from stuff either.
    """
    try:
        dicts = DatasetCatalog.get(name)
    except (DatasetError, UsageError):
        raise
    except _OF_LOADERS as error:
        raise DatasetError(
            f"the data set '{name}' cannot be loaded: {' '.join(str(error).split())} is missing "
            "or not as expected; look at DETECTRON2_DATASETS and the files below it"
        ) from error
    if not dicts:
        raise DatasetError(f"the data set '{name}' has no images: look at its files")
    return _tell_things(dicts, MetadataCatalog.get(name), name)


def usable_for_training(dataset_dict: Dict, min_side: int, need_thing: bool) -> bool:
    """Is the image large enough, and does it have a thing if it needs one?"""
    return why_image_left_out(dataset_dict, min_side, need_thing) is None


def why_image_left_out(dataset_dict: Dict, min_side: int, need_thing: bool) -> Optional[str]:
    """What the image has, for which it is not trained on; None: it is."""
    sides = (dataset_dict.get("height", min_side), dataset_dict.get("width", min_side))
    if min(sides) < min_side:
        return f"a side below {min_side} pixels (DATALOADER.MIN_IMAGE_SIDE)"
    if not need_thing or dataset_dict.get("annotations"):
        return None
    if any(s["isthing"] for s in dataset_dict.get("segments_info", ())):
        return None
    return "no object of a thing class (DATALOADER.FILTER_EMPTY_ANNOTATIONS)"


def _tell_things(dicts: List[Dict], metadata, name: str) -> List[Dict]:
    """``isthing`` of each segment, from the metadata where a data set leaves it out."""
    lacking = any("isthing" not in s for d in dicts for s in d.get("segments_info", ()))
    if not lacking:
        return dicts
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    if things is None or metadata.get("stuff_dataset_id_to_contiguous_id") is None:
        raise UsageError(
            f"the data set '{name}' does not tell things from stuff: set isthing in its "
            "segments_info, or thing_ and stuff_dataset_id_to_contiguous_id in its metadata"
        )
    thing_ids = set(things.values())
    return [
        {
            **d,
            "segments_info": [
                {"isthing": s["category_id"] in thing_ids, **s} for s in d["segments_info"]
            ],
        }
        if "segments_info" in d
        else d
        for d in dicts
    ]


def _of_kind(name: str, dicts: List[Dict], mask_on: bool) -> List[Dict]:
    """The images that have ground truth of a kind that the model learns from.

    Raises:
        DatasetError: none has.
    """
    if mask_on:
        keys, lack, kind = ("pan_seg_file_name", "annotations"), "masks", "an instance"
    else:
        keys, lack, kind = ("pan_seg_file_name", "sem_seg_file_name"), "a label map", "a semantic"
    kept = [d for d in dicts if any(key in d for key in keys)]
    if not kept:
        why = f"neither {' nor '.join(keys)}"
        json_file = MetadataCatalog.get(name).get("panoptic_json")
        if json_file and not any(map(is_annotated, dicts)):
            why = f"{json_file} has no annotations"
        raise DatasetError(
            f"'{name}' in DATASETS.TRAIN has images without {lack}, as {dicts[0].get('file_name')} "
            f"({why}): choose a panoptic or {kind} data set"
        )
    if len(kept) < len(dicts):
        logger.warning(
            "%d of %d images of '%s' have no ground truth and are not trained on",
            len(dicts) - len(kept),
            len(dicts),
            name,
        )
    return kept


def _add_image_sizes(dicts: List[Dict], metadata) -> None:
    """Detectron2's own panoptic loader drops the sizes that the json has."""
    if not dicts or "height" in dicts[0] or metadata.get("panoptic_json") is None:
        return
    images = {i["id"]: i for i in read_panoptic_json(metadata.panoptic_json)["images"]}
    for d in dicts:
        image = images.get(d["image_id"])
        if image is not None:
            d["height"], d["width"] = image["height"], image["width"]
