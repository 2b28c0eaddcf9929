"""A table of what was found: a row for each segment, instance or class of an image."""

from typing import Dict, List, Sequence

import numpy as np
from scipy.ndimage import find_objects

from ..data.classes import ModelClass
from .coco import bbox_of, kernels_of, label_map, segment_annotations

__all__ = ["COLUMNS", "table_rows"]

# "file", "image_id" and these. Boxes are COCO's: the upper left corner and the size, in pixels
COLUMNS = ("class", "class_id", "score", "area", "x", "y", "width", "height", "kernel")


def table_rows(
    result: Dict, classes: Sequence[ModelClass], kind: str, score_threshold: float = 0.0
) -> List[List]:
    """The rows of one image.

    Args:
        result: of the image.
        classes: the model's.
        kind: "panoptic" (a row a segment), "instance" or "semantic" (a row a class that occurs).
        score_threshold: instances below it (0..1) are left out, and those without a pixel.

    Returns:
        rows of ``COLUMNS``; None for what there is not, as a class has no kernel.
    """
    if kind == "panoptic":
        return _segment_rows(result, classes)
    if kind == "instance":
        return _instance_rows(result["instances"], classes, score_threshold)
    return _class_rows({"sem_seg": result["sem_seg"]}, classes)


def _segment_rows(result: Dict, classes: Sequence[ModelClass]) -> List[List]:
    kernels = {info["id"]: info.get("kernel") for info in result["panoptic_seg"][1]}
    names = {c.dataset_id: c.name for c in classes}
    return [
        [
            names[segment["category_id"]],
            segment["category_id"],
            round(segment["score"], 4),
            segment["area"],
            *segment["bbox"],
            kernels[segment["id"]],
        ]
        for segment in segment_annotations(result, classes)
    ]


def _instance_rows(instances, classes: Sequence[ModelClass], threshold: float) -> List[List]:
    instances = instances[instances.scores >= threshold].to("cpu")
    by_id = {c.id: c for c in classes}
    areas = instances.pred_masks.flatten(1).sum(1).tolist()
    kernels = kernels_of(instances)
    rows = []
    for i, (x0, y0, x1, y1) in enumerate(instances.pred_boxes.tensor.int().tolist()):
        if areas[i] > 0:
            found, score = by_id[int(instances.pred_classes[i])], float(instances.scores[i])
            place = [areas[i], x0, y0, x1 - x0, y1 - y0]
            rows.append([found.name, found.dataset_id, round(score, 4), *place, kernels[i]])
    return rows


def _class_rows(result: Dict, classes: Sequence[ModelClass]) -> List[List]:
    labels = label_map(result, classes)
    boxes = find_objects(labels.astype(np.int32) + 1)  # by label
    areas = np.bincount(labels.ravel(), minlength=len(boxes))
    return [
        [c.name, c.dataset_id, None, int(areas[c.dataset_id]), *bbox_of(*boxes[c.dataset_id]), None]
        for c in sorted(classes, key=lambda c: c.dataset_id)
        if c.dataset_id < len(boxes) and areas[c.dataset_id] > 0
    ]
