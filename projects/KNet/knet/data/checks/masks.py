"""The objects of one image of an instance data set: masks, boxes, areas."""

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from ...errors import Tell
from ..objects import CROWD, NARROW, NO_MASK, OUTSIDE, is_box, why_left_out
from ..polygons import check_polygons, extent
from ..run_lengths import check_rle

__all__ = ["check_objects"]

_REACH = 0.02  # of a side, by which a mask may reach out of its image
_SAME, _ELSEWHERE = 0.9, 0.5  # IoU of box and mask's box
_AREA_FACTOR, _AREA_PIXELS = 2.0, 10  # by which an area may differ

Box = Sequence[float]  # x, y, width, height


def check_objects(
    dataset_dict: Dict, size: Tuple[int, int], tell: Tell
) -> Tuple[List[Tuple[int, int]], int]:
    """
    Args:
        dataset_dict: with ``annotations``.
        size: (H, W) of the image as its json tells it, or of the file.
        tell: told of each fault.

    Returns:
        (contiguous class, pixels) of each object that is learned from; how many others there are.
    """
    used, seen = [], {}
    for annotation in dataset_dict["annotations"]:
        where = f"the object {annotation.get('id', '?')} of {_name(dataset_dict)}"
        try:
            rle = _check_mask(annotation, size, where, tell)
        except (IndexError, KeyError, TypeError, ValueError) as error:  # of data made in Python
            tell("polygon", f"{where} has a segmentation that {error}")
            continue
        if rle is None:
            continue
        area = int(mask_util.area(rle))
        _check_box(annotation, mask_util.toBbox(rle).tolist(), where, tell)
        _check_area(annotation, area, where, tell)
        key = (annotation["category_id"], rle["counts"])
        if key in seen:
            tell("doubled", f"{where} has class and mask of the object {seen[key]}")
        seen.setdefault(key, annotation.get("id", "?"))
        used.append((annotation["category_id"], area))
    return used, len(dataset_dict["annotations"]) - len(used)


def _name(dataset_dict: Dict) -> str:
    return dataset_dict.get("file_name", f"image {dataset_dict.get('image_id')}")


def _check_mask(annotation: Dict, size: Tuple[int, int], where: str, tell: Tell) -> Optional[Dict]:
    """The mask of an object that is learned from, as a compressed RLE.

    Raises:
        ValueError and others: it cannot be drawn.
    """
    segmentation = annotation.get("segmentation")
    polygons = isinstance(segmentation, (list, tuple)) and len(segmentation) > 0
    if polygons:
        check_polygons(segmentation, size)
    elif isinstance(segmentation, dict):
        check_rle(segmentation, size)
    reason = why_left_out(annotation, size)
    if reason == CROWD:
        return None
    if reason is not None:
        tell({NO_MASK: "no mask", NARROW: "tiny", OUTSIDE: "outside"}[reason], where)
        return None
    if polygons:
        _check_reach(extent(segmentation), size, where, tell)
    rle = _rle(segmentation, size)
    area = int(mask_util.area(rle))
    if area <= 1:
        tell("tiny", f"{where} has a mask of {area} pixels")
        return None if area == 0 else rle
    return rle


def _rle(segmentation: Any, size: Tuple[int, int]) -> Dict:
    if isinstance(segmentation, np.ndarray):
        return mask_util.encode(np.asfortranarray(segmentation > 0, dtype=np.uint8))
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], (list, tuple)):
            return mask_util.frPyObjects(segmentation, *size)
        counts = segmentation["counts"]
        return {**segmentation, "counts": counts.encode() if isinstance(counts, str) else counts}
    polygons = [np.asarray(polygon, dtype=np.float64).tolist() for polygon in segmentation]
    return mask_util.merge(mask_util.frPyObjects(polygons, *size))


def _check_reach(limits: Tuple, size: Tuple[int, int], where: str, tell: Tell) -> None:
    left, top, right, bottom = limits
    height, width = size
    beyond_x, beyond_y = max(-left, right - width), max(-top, bottom - height)
    if beyond_x > max(2, _REACH * width) or beyond_y > max(2, _REACH * height):
        tell(
            "over border",
            f"{where} spans x {left:g} to {right:g} and y {top:g} to {bottom:g}, its image is "
            f"{width} x {height}",
        )


def _check_box(annotation: Dict, of_mask: Box, where: str, tell: Tell) -> None:
    box = annotation.get("bbox")
    if box is None:
        return
    mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
    if mode in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        box = list(BoxMode.convert(list(box), mode, BoxMode.XYWH_ABS))
    if not is_box(box):
        tell("box zero", f"{where} has the box {box}")
        return
    x, y, *corner = box
    as_corners = [x, y, corner[0] - x, corner[1] - y]
    overlap = _iou(box, of_mask)
    if overlap < _SAME <= _iou(as_corners, of_mask):
        tell("box notation", f"{where} has the box {box}, its mask spans {of_mask}")
    elif overlap < _ELSEWHERE:
        tell("box elsewhere", f"{where} has the box {box}, its mask spans {of_mask}")


def _iou(first: Box, second: Box) -> float:
    """Of two boxes, each a pixel larger to all sides: small ones are often off by one."""
    sides = []
    for place in (0, 1):
        low = max(first[place], second[place]) - 1
        high = min(first[place] + first[place + 2], second[place] + second[place + 2]) + 1
        sides.append(max(0.0, high - low))
    shared = sides[0] * sides[1]
    areas = [max(0.0, box[2] + 2) * max(0.0, box[3] + 2) for box in (first, second)]
    return shared / max(sum(areas) - shared, 1e-9)


def _check_area(annotation: Dict, pixels: int, where: str, tell: Tell) -> None:
    area = annotation.get("area")
    if isinstance(area, bool) or not isinstance(area, (int, float)):
        return  # none is counted from the mask
    wrong = not math.isfinite(area) or area <= 0
    if not wrong and abs(area - pixels) > _AREA_PIXELS:
        wrong = not 1 / _AREA_FACTOR <= area / pixels <= _AREA_FACTOR
    if wrong:
        tell("area", f"{where} has the area {area:g}, its mask {pixels} pixels")
