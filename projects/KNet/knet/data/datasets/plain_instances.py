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
from ...errors import Tell, refuse
from ..polygons import are_near_numbers, check_polygons, plain_polygons
from ..run_lengths import check_rle
from .plain_numbers import number_ids, plain_crowd, plain_size

__all__ = ["keep_plain_instances", "plain_instances", "plain_instances_json"]

# path, size and time of a json -> the plain one; several evaluators read it
_copies: Dict[Tuple[str, int, float], str] = {}


def plain_instances_json(instances_json: str) -> str:
    """The path of a json that training and COCO's tool can read.

    Args:
        instances_json: path or address of a COCO instance json.

    Returns:
        the path itself where it is plain, else that of a copy, removed when the program ends.

    Raises:
        DatasetError: a value of it cannot be used.
    """
    path, mark = _path_and_mark(instances_json)
    if mark not in _copies:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
        keep_plain_instances(instances_json, content, plain_instances(content, instances_json))
    return _copies[mark]


def keep_plain_instances(instances_json: str, content: Dict, changed: bool) -> None:
    """Let :func:`plain_instances_json` know what has been read already.

    Args:
        instances_json: path or address.
        content: in the plain form.
        changed: whether the file itself is not.
    """
    path, mark = _path_and_mark(instances_json)
    if mark not in _copies:
        if changed:
            handle, copy = tempfile.mkstemp(suffix=".json")
            atexit.register(os.remove, copy)
            with open(handle, "w", encoding="ascii") as file:
                json.dump(content, file)
            _copies[mark] = copy
        else:
            _copies[mark] = json_for_locale(path)


def _path_and_mark(instances_json: str) -> Tuple[str, Tuple[str, int, float]]:
    path = PathManager.get_local_path(instances_json)
    return path, (os.path.realpath(path), os.path.getsize(path), os.path.getmtime(path))


def plain_instances(content: Dict, instances_json: str, tell: Tell = refuse) -> bool:
    """Bring the content of a COCO instance json into the plain form, in place.

    Args:
        content: with ``images``, ``categories``, ``annotations`` as far as they are there.
        instances_json: its path, for the sentence.
        tell: told of a value that cannot be used; an annotation whose mask it is is taken out.

    Returns:
        whether something was changed.
    """
    annotations = content.get("annotations") or []
    changed = number_ids([(content.get("images", ()), "id"), (annotations, "image_id")])
    changed |= number_ids([(content.get("categories", ()), "id"), (annotations, "category_id")])
    changed |= _number_annotations(annotations)
    images = {}
    for image in content.get("images", ()):
        changed |= plain_size(image, instances_json, tell)
        images[image["id"]] = image
    unusable = set()
    for annotation in annotations:
        image = images.get(annotation.get("image_id"), {})
        where = (
            f"the annotation {annotation.get('id')} of {instances_json} (image "
            f"{image.get('file_name', annotation.get('image_id'))})"
        )
        changed |= _plain_flags(annotation, where, tell)
        try:
            changed |= _plain_mask(annotation, (image.get("height"), image.get("width")))
        except ValueError as error:
            kind = "rle" if isinstance(annotation["segmentation"], dict) else "polygon"
            tell(kind, f"the 'segmentation' of {where} {error}")
            unusable.add(id(annotation))
    if unusable:
        content["annotations"] = [a for a in annotations if id(a) not in unusable]
    return changed


def _number_annotations(annotations: List[Dict]) -> bool:
    """Ids from 1 on: COCO's tool takes an object of the id 0 for none, and text for nothing."""
    if all(type(a.get("id")) is int and a["id"] > 0 for a in annotations):
        return False
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return True


def _plain_flags(annotation: Dict, where: str, tell: Tell) -> bool:
    """``iscrowd`` 0 or 1; a box that is none is left out."""
    changed = plain_crowd(annotation, where, tell)
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


def _plain_mask(annotation: Dict, size: Tuple[Optional[int], Optional[int]]) -> bool:
    """
    Raises:
        ValueError: it cannot be drawn.
    """
    segmentation = annotation.get("segmentation")
    if are_near_numbers(segmentation, size):
        return False
    if isinstance(segmentation, dict):
        check_rle(segmentation, size)
        return False
    polygons = [] if segmentation is None else plain_polygons(segmentation)
    check_polygons(polygons, size)
    if not polygons and None not in size:  # COCO's tool fails on a mask that is not there
        annotation["segmentation"] = {"size": list(size), "counts": [size[0] * size[1]]}
    elif polygons:
        annotation["segmentation"] = polygons
    return annotation.get("segmentation") != segmentation
