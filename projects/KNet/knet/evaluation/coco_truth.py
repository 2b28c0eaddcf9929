"""Instance ground truth in COCO's form: written where a data set has none, and made fit for use."""

import contextlib
import io
import json
import logging
import math
import os
from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..data.classes import ModelClass
from ..data.datasets.plain_instances import plain_instances_json
from ..data.ground_truth import decode_mask, read_panoptic_rows
from ..data.image_reading import ImageReader
from ..data.objects import has_mask, is_box
from ..data.run_lengths import rle_area
from ..errors import DatasetError
from .classes import thing_classes, thing_ids
from .images import ImageIds, is_measured
from .outputs import GROUND_TRUTH, IMAGE_INFO, has_json_file

__all__ = [
    "check_ground_truth",
    "ground_truth_json",
    "objects_of",
    "reading",
    "restrict_to_dataset",
]

logger = logging.getLogger(__name__)


def check_ground_truth(dataset_name: str, dicts: Sequence[Dict]) -> None:
    """Look whether a data set has ground truth that COCO's tool can work with.

    Args:
        dataset_name: registered, instance or panoptic.
        dicts: its images, as loaded.

    Raises:
        DatasetError: see :func:`restrict_to_dataset`.
    """
    _by_image(dataset_name, dicts)
    metadata = MetadataCatalog.get(dataset_name)
    if has_json_file(metadata):
        with reading(metadata.json_file):
            coco = COCO(plain_instances_json(metadata.json_file))
        restrict_to_dataset(coco, dataset_name, dicts, metadata.json_file)


def _by_image(dataset_name: str, dicts: Sequence[Dict]) -> Dict:
    """{image id: dict} of a data set; without ground truth see :class:`.images.ImageIds`.

    Raises:
        DatasetError: there is ground truth, and an image has no id, or that of another one.
    """
    if not is_measured(dicts):
        return dict(zip(ImageIds(dicts).all, dicts))
    by_id = {d["image_id"]: d for d in dicts if "image_id" in d}
    if len(by_id) < len(dicts):
        raise DatasetError(
            f"the images of the data set '{dataset_name}' need an 'image_id' each, by which mask "
            "AP finds their ground truth, and no two the same"
        )
    return by_id


# ------------------------------------------------------------------------------------------ writing


def ground_truth_json(
    dataset_name: str, dicts: Sequence[Dict], folder: str, reader: ImageReader
) -> str:
    """The COCO json of a data set's objects: the ``json_file`` of its metadata, or one made now.

    Args:
        dataset_name: registered, instance or panoptic.
        dicts: its images, as loaded.
        folder: where to write it if the metadata name no file that exists; without ground truth it
            has images and categories, but no annotations.
        reader: as the model wants its images, for the sizes of those that tell none.

    Raises:
        DatasetError: a panoptic PNG or an annotation cannot be used.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if has_json_file(metadata):
        with reading(metadata.json_file):
            return plain_instances_json(metadata.json_file)
    measured = is_measured(dicts)
    path = os.path.join(folder, GROUND_TRUTH if measured else IMAGE_INFO)
    if comm.get_local_rank() == 0:  # on each machine, as they may not share their disks
        what = "objects" if measured else "images"
        logger.info("Writing the %s of '%s' in COCO's form into %s ...", what, dataset_name, path)
        content = _coco_content(dataset_name, _by_image(dataset_name, dicts), reader)
        PathManager.mkdirs(folder)
        with PathManager.open(path, "w", encoding="utf-8") as f:
            json.dump(content, f)
    comm.synchronize()
    return path


def _coco_content(dataset_name: str, dicts: Dict, reader: ImageReader) -> Dict:
    """COCO instances content from the panoptic PNGs, or from the dicts' ``annotations``."""
    things = thing_classes(MetadataCatalog.get(dataset_name))
    dataset_ids = {thing.id: thing.dataset_id for thing in things}
    images, annotations = [], []
    if not is_measured(list(dicts.values())):
        keys = ("file_name", "height", "width")
        images = [{"id": i, **{k: d[k] for k in keys if k in d}} for i, d in dicts.items()]
        return {"info": {}, "images": images, "categories": _categories(things)}
    for image_id, d in dicts.items():
        if not {"height", "width"} <= d.keys():
            d = {**d, **dict(zip(("height", "width"), reader.read(d["file_name"]).shape))}
        size = {key: int(d[key]) for key in ("height", "width")}
        images.append({"id": image_id, "file_name": d["file_name"], **size})
        for source, mask in objects_of(d):
            if source["category_id"] not in dataset_ids:
                raise DatasetError(
                    f"{d['file_name']} has an object of the class {source['category_id']}, which "
                    f"the metadata of the data set '{dataset_name}' do not name"
                )
            annotation = _coco_annotation(source, mask)
            annotation["category_id"] = dataset_ids[source["category_id"]]
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": _categories(things),
    }


def objects_of(dataset_dict: Dict) -> Iterator[Tuple[Dict, np.ndarray]]:
    """Each object of an image, crowd too.

    Args:
        dataset_dict: with ``height``, ``width`` and a panoptic PNG or ``annotations``.

    Returns:
        its segment info or annotation, with the contiguous ``category_id``, and its (H, W) mask.

    Raises:
        DatasetError: the PNG or an annotation cannot be used.
    """
    is_panoptic = "pan_seg_file_name" in dataset_dict
    return _panoptic_things(dataset_dict) if is_panoptic else _annotated(dataset_dict)


def _panoptic_things(dataset_dict: Dict) -> Iterator[Tuple[Dict, np.ndarray]]:
    """The thing segments of a panoptic PNG that have a pixel."""
    rows = read_panoptic_rows(dataset_dict)
    for i, segment in enumerate(dataset_dict["segments_info"], start=1):  # row 0 is void
        mask = rows == i
        if segment["isthing"] and mask.any():
            yield segment, mask


def _annotated(dataset_dict: Dict) -> Iterator[Tuple[Dict, np.ndarray]]:
    """The annotations whose mask has a pixel, their masks as training reads them."""
    size = (dataset_dict["height"], dataset_dict["width"])
    for annotation in dataset_dict.get("annotations", ()):
        if has_mask(annotation.get("segmentation")):
            mask = decode_mask(annotation["segmentation"], size, dataset_dict["file_name"])
            if mask.any():
                yield annotation, mask


def _coco_annotation(source: Dict, mask: np.ndarray) -> Dict:
    """Mask, area, box (that of the mask unless the annotation has one) and ``iscrowd``."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    box, mode = source.get("bbox"), source.get("bbox_mode")
    if box is not None and len(box) == 4 and mode is not None:
        box = BoxMode.convert(list(box), mode, BoxMode.XYWH_ABS)
    if mode is None or not is_box(box):
        box = mask_util.toBbox(rle)
    return {
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "area": int(mask_util.area(rle)),
        "bbox": [float(side) for side in box],
        "iscrowd": int(source.get("iscrowd", 0)),
    }


def _categories(things: Sequence[ModelClass]) -> List[Dict]:
    return [{"id": thing.dataset_id, "name": thing.name} for thing in things]


# ------------------------------------------------------------------------------------------ reading


@contextlib.contextmanager
def reading(json_file: str) -> Iterator[None]:
    """Around pycocotools' reading of a json: no word on the terminal, and a sentence if it fails.

    Raises:
        DatasetError: it is no json of COCO's kind.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except DatasetError:
        raise
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{json_file} is no COCO instances json: {error!r}") from error


def restrict_to_dataset(
    coco: COCO, dataset_name: str, dicts: Sequence[Dict], json_file: str
) -> None:
    """Leave in a ground truth, in place, the images and the thing classes of a data set.

    What COCO's tool reads and files often lack is added: ``info``, ``iscrowd``, ``area``, ``bbox``.
    Objects without a pixel are left out, as in training.

    Args:
        coco: the content of ``json_file``.
        dataset_name: registered, instance or panoptic.
        dicts: its images, as loaded.

    Raises:
        DatasetError: no image or no class is in both, an image has two sizes, or a class id means
            two classes.
    """
    content = coco.dataset
    for key in ("images", "categories"):
        if key not in content:
            raise DatasetError(f"{json_file} is no COCO instances json: it has no {key}")
    by_image = _by_image(dataset_name, dicts)
    images = _common_images(content["images"], by_image, dataset_name, json_file)
    metadata = MetadataCatalog.get(dataset_name)
    things = thing_classes(metadata)
    _check_names(content["categories"], things, dataset_name, json_file)
    known_images = {image["id"] for image in images}
    dataset_ids = {thing.id: thing.dataset_id for thing in things}
    # a class may have several category ids: all become its first
    category = {k: dataset_ids[i] for k, i in thing_ids(metadata).items()}
    coco.dataset = {"info": {}, **content, "images": images, "categories": _categories(things)}
    if "annotations" in content:  # a test set has none
        coco.dataset["annotations"] = [
            {"iscrowd": 0, **annotation, "category_id": category[annotation["category_id"]]}
            for annotation in content["annotations"]
            if annotation["category_id"] in category
            and annotation["image_id"] in known_images
            and not _is_empty(annotation)
        ]
    with reading(json_file):
        coco.createIndex()
        for annotation in coco.anns.values():
            if not _is_area(annotation.get("area")):
                annotation["area"] = int(mask_util.area(coco.annToRLE(annotation)))
            if not is_box(annotation.get("bbox")):
                annotation["bbox"] = mask_util.toBbox(coco.annToRLE(annotation)).tolist()


def _is_empty(annotation: Dict) -> bool:
    """Has it no pixel that a prediction could find?"""
    mask = annotation.get("segmentation")
    return isinstance(mask, dict) and rle_area(mask) == 0


def _is_area(area) -> bool:
    return isinstance(area, (int, float)) and math.isfinite(area)


def _common_images(
    images: List[Dict], dicts: Dict, dataset_name: str, json_file: str
) -> List[Dict]:
    """The json's images that the data set has too, by their ids."""
    common = [image for image in images if image["id"] in dicts]
    if not common:
        raise DatasetError(
            f"{json_file} has no image of the data set '{dataset_name}': their image ids must agree"
        )
    if len(common) < len(dicts):
        logger.warning(
            "%d of %d images of '%s' are not in %s: mask AP leaves them out",
            len(dicts) - len(common),
            len(dicts),
            dataset_name,
            json_file,
        )
    for image in common:
        sizes = [(i.get("width"), i.get("height")) for i in (image, dicts[image["id"]])]
        if None not in sizes[0] + sizes[1] and sizes[0] != sizes[1]:
            (width, height), (other_width, other_height) = sizes
            raise DatasetError(
                f"{json_file} says that the image {image['id']} is {width} x {height}, in the data "
                f"set '{dataset_name}' it is {other_width} x {other_height}: an image id must mean "
                "the same image in both"
            )
    return common


def _check_names(
    categories: List[Dict], things: Sequence[ModelClass], dataset_name: str, json_file: str
) -> None:
    """The json must number the classes as the data set does; a name may be spelled otherwise."""
    names = {thing.dataset_id: thing.name for thing in things}
    if not any(category["id"] in names for category in categories):
        raise DatasetError(
            f"{json_file} has none of the thing classes of the data set '{dataset_name}', whose "
            f"category ids are {sorted(names)}: both must number them alike"
        )
    for category in categories:
        ours, theirs = names.get(category["id"]), category.get("name")
        if ours not in (None, theirs) and theirs in names.values():
            raise DatasetError(
                f"{json_file} gives the category {category['id']} the name {theirs}, in the data "
                f"set '{dataset_name}' it is {ours}: both must number them alike"
            )
