"""One image's results in the formats of COCO's files, with the data set's own class ids.

Shape shorthand: H x W an image's size, N instances, S segments.
"""

from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from panopticapi.utils import id2rgb
from scipy.ndimage import find_objects

from ..data.classes import ModelClass
from ..errors import UsageError

__all__ = [
    "bbox_of",
    "images_and_categories",
    "instance_annotations",
    "kernels_of",
    "label_map",
    "panoptic_png_and_annotation",
    "segment_annotations",
]


def images_and_categories(
    images: Iterable[Tuple[int, str, int, int]], classes: Sequence[ModelClass]
) -> Dict[str, Iterable[Dict]]:
    """The lists of a COCO json that say what ids are, made as they are iterated over.

    Args:
        images: id, file name, height, width of each.
        classes: the model's.
    """
    return {
        "images": (
            {"id": image_id, "file_name": name, "width": width, "height": height}
            for image_id, name, height, width in images
        ),
        "categories": (
            {
                "id": c.dataset_id,
                "name": c.name,
                "isthing": int(c.isthing),
                **({"color": list(c.color)} if c.color else {}),
            }
            for c in sorted(classes, key=lambda c: c.dataset_id)
        ),
    }


def panoptic_png_and_annotation(
    result: Dict, classes: Sequence[ModelClass], *, file_name: str, image_id: int
) -> Tuple[np.ndarray, Dict]:
    """A panoptic result as COCO keeps it: a picture of segment ids, and what the segments are.

    Args:
        result: of one image, with ``panoptic_seg``.
        classes: the model's.
        file_name: of the PNG that the picture will be saved as.
        image_id: of the image.

    Returns:
        (H, W, 3) uint8 RGB, the segment id in base 256 (red is the lowest digit), 0 for void; and
        {"image_id", "file_name", "segments_info": S of {"id", "category_id", "isthing", "area",
        "bbox" (x, y, width, height), "iscrowd", "score"}}.
    """
    segments = segment_annotations(result, classes)
    annotation = {"image_id": image_id, "file_name": file_name, "segments_info": segments}
    return id2rgb(result["panoptic_seg"][0].cpu().numpy()), annotation


def segment_annotations(result: Dict, classes: Sequence[ModelClass]) -> List[Dict]:
    """The ``segments_info`` of :func:`panoptic_png_and_annotation`."""
    segments, infos = result["panoptic_seg"]
    segments = segments.cpu().numpy()
    areas, boxes = np.bincount(segments.ravel()), find_objects(segments)  # by id; by id - 1
    dataset_ids = _dataset_ids(classes)
    return [
        {
            "id": info["id"],
            "category_id": dataset_ids[info["category_id"]],
            "isthing": bool(info["isthing"]),
            "area": int(areas[info["id"]]),
            "bbox": bbox_of(*boxes[info["id"] - 1]),
            "iscrowd": 0,
            "score": float(info.get("score", 1.0)),
        }
        for info in infos
        # COCO's tool refuses a segment without a pixel
        if info["id"] < len(areas) and areas[info["id"]] > 0
    ]


def instance_annotations(
    result: Dict,
    classes: Sequence[ModelClass],
    *,
    image_id: int,
    score_threshold: float = 0.0,
) -> List[Dict]:
    """Instances as COCO's server takes them, in the order of the result.

    Args:
        result: of one image, with ``instances``.
        classes: the model's.
        image_id: of the image.
        score_threshold: instances below it (0..1) are left out; for AP keep all.

    Returns:
        at most N of {"image_id", "category_id", "segmentation" (compressed RLE), "bbox" (x, y,
        width, height), "score"}.
    """
    instances = result["instances"]
    instances = instances[instances.scores >= score_threshold].to("cpu")
    dataset_ids = _dataset_ids(classes)
    annotations = instances_to_coco_json(instances, image_id)
    for annotation in annotations:
        annotation["category_id"] = dataset_ids[annotation["category_id"]]
    return annotations


def kernels_of(instances: Instances) -> List[Optional[int]]:
    """The kernel that made each instance; None where the model, such as Mask R-CNN, has none."""
    if instances.has("pred_kernels"):
        return instances.pred_kernels.tolist()
    return [None] * len(instances)


def label_map(result: Dict, classes: Sequence[ModelClass]) -> np.ndarray:
    """The class of each pixel, by the data set's ids.

    Args:
        result: of one image, with ``sem_seg`` or else ``panoptic_seg``.
        classes: the model's.

    Returns:
        (H, W) uint8, 255 where there is no class; uint16 with 65535 if an id exceeds 254.

    Raises:
        UsageError: a class id that 16 bits do not hold.
    """
    ids = [c.dataset_id for c in classes]
    if min(ids) < 0 or max(ids) > 65534:
        raise UsageError(
            f"the class ids {min(ids)} to {max(ids)} do not fit into a label map, whose pixels "
            "hold 0 to 65534: write another kind of results"
        )
    dtype = np.uint8 if max(ids) <= 254 else np.uint16
    table = np.full(max(c.id for c in classes) + 2, np.iinfo(dtype).max, dtype)
    table[[c.id for c in classes]] = ids
    return table[_pixel_classes(result, classes)]  # the last entry is of -1, no class


def _pixel_classes(result: Dict, classes: Sequence[ModelClass]) -> np.ndarray:
    """(H, W) contiguous class id of each pixel, -1 for none."""
    if "sem_seg" in result:
        scores = result["sem_seg"]
        ids = torch.tensor([c.id for c in classes], device=scores.device)
        if len(ids) < len(scores):  # rows between them are of no class
            scores = scores[ids]
            return ids[scores.argmax(0)].cpu().numpy()
        return scores.argmax(0).cpu().numpy()
    segments, infos = result["panoptic_seg"]
    segments = segments.cpu().numpy()
    of_segment = np.full(max([int(segments.max()), *(info["id"] for info in infos)]) + 1, -1)
    for info in infos:
        of_segment[info["id"]] = info["category_id"]
    return of_segment[segments]


def _dataset_ids(classes: Sequence[ModelClass]) -> Dict[int, int]:
    """Contiguous id -> the data set's."""
    return {c.id: c.dataset_id for c in classes}


def bbox_of(rows: slice, columns: slice) -> List[int]:
    """COCO's (x, y, width, height)."""
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
