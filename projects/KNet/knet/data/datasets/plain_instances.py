"""COCO instance jsons as tools write them -> the plain form that training and COCO's tool read.

What is plain in another notation is used, an object without a mask gets an empty one, and what
cannot be drawn is told with its file, annotation and image.
"""

import atexit
import json
import os
import tempfile
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from detectron2.utils.file_io import PathManager

from ...encoding import json_for_locale
from ...errors import DatasetError
from ..polygons import are_near_numbers, check_polygons, plain_polygons
from ..run_lengths import check_rle
from .plain_numbers import number_ids, plain_crowd, plain_size

__all__ = ["plain_instances", "plain_instances_json"]

# path, size and time of a json -> the plain one; several evaluators read it
_copies: Dict[Tuple[str, int, float], str] = {}


def plain_instances_json(instances_json: str, content: Optional[Dict] = None) -> str:
    """The path of a json that training and COCO's tool can read.

    Args:
        instances_json: path or address of a COCO instance json.
        content: what it holds, if that has been read already; it is changed.

    Returns:
        the path itself where it is plain, else that of a copy, removed when the program ends.

    Raises:
        DatasetError: a value of it cannot be used.
    """
    path = PathManager.get_local_path(instances_json)
    mark = (os.path.realpath(path), os.path.getsize(path), os.path.getmtime(path))
    if mark not in _copies:
        if content is None:
            with open(path, encoding="utf-8-sig") as file:
                content = json.load(file)
        if plain_instances(content, instances_json):
            handle, copy = tempfile.mkstemp(suffix=".json")
            atexit.register(os.remove, copy)
            with open(handle, "w", encoding="ascii") as file:
                json.dump(content, file)
            _copies[mark] = copy
        else:
            _copies[mark] = json_for_locale(path)
    return _copies[mark]


def plain_instances(content: Dict, instances_json: str) -> bool:
    """Bring the content of a COCO instance json into the plain form, in place.

    Args:
        content: with ``images``, ``categories``, ``annotations`` as far as they are there.
        instances_json: its path, for the sentence.

    Returns:
        whether something was changed.

    Raises:
        DatasetError: a value cannot be used.
    """
    annotations = content.get("annotations") or []
    changed = number_ids([(content.get("images", ()), "id"), (annotations, "image_id")])
    changed |= number_ids([(content.get("categories", ()), "id"), (annotations, "category_id")])
    changed |= _number_annotations(annotations)
    images = {}
    for image in content.get("images", ()):
        changed |= plain_size(image, instances_json)
        images[image["id"]] = image
    for annotation in annotations:
        image = images.get(annotation.get("image_id"), {})
        where = (
            f"the annotation {annotation.get('id')} of {instances_json} (image "
            f"{image.get('file_name', annotation.get('image_id'))})"
        )
        changed |= _plain_flags(annotation, where)
        changed |= _plain_mask(annotation, (image.get("height"), image.get("width")), where)
    return changed


def _number_annotations(annotations: List[Dict]) -> bool:
    """Ids from 1 on: COCO's tool takes an object of the id 0 for none, and text for nothing."""
    if all(type(a.get("id")) is int and a["id"] > 0 for a in annotations):
        return False
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return True


def _plain_flags(annotation: Dict, where: str) -> bool:
    """``iscrowd`` 0 or 1; a box that is none is left out."""
    changed = plain_crowd(annotation, where)
    box = annotation.get("bbox", ())
    if "bbox" in annotation and not _is_four_numbers(box):
        del annotation["bbox"]
        changed = True
    return changed


def _is_four_numbers(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(side, (int, float)) for side in box)
        and bool(np.isfinite(box).all())
    )


def _plain_mask(annotation: Dict, size: Tuple[Optional[int], Optional[int]], where: str) -> bool:
    segmentation = annotation.get("segmentation")
    if are_near_numbers(segmentation, size):
        return False
    try:
        if isinstance(segmentation, dict):
            check_rle(segmentation, size)
            return False
        polygons = [] if segmentation is None else plain_polygons(segmentation)
        check_polygons(polygons, size)
    except ValueError as error:
        raise DatasetError(f"the 'segmentation' of {where} {error}") from error
    if not polygons and None not in size:  # COCO's tool fails on a mask that is not there
        annotation["segmentation"] = {"size": list(size), "counts": [size[0] * size[1]]}
    elif polygons:
        annotation["segmentation"] = polygons
    return annotation.get("segmentation") != segmentation
