"""The segments of one image, to be drawn: from a model's result, or made of any masks.

Shape shorthand: S segments of one image, H x W its size in pixels, K classes.
"""

from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.structures import Instances

from ..errors import UsageError

__all__ = ["RESULT_KEYS", "Segmentation", "find_kind", "read_result"]

# Of a result that holds several kinds the first is drawn
RESULT_KEYS = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "sem_seg"}


@dataclass
class Segmentation:
    """The segments of one image; they may overlap.

    Attributes:
        masks: S of (h, w) bool, each cut to its box: hundreds of objects take little memory.
        boxes: (S, 4) int of top, left, bottom, right, the last two exclusive; zeros for an empty
            mask.
        segments: S dicts with the contiguous ``category_id``, ``isthing``, perhaps ``score`` (0..1)
            and ``iscrowd``.
        size: (H, W).
    """

    masks: List[np.ndarray]
    boxes: np.ndarray
    segments: List[Dict]
    size: Tuple[int, int]

    @classmethod
    def from_masks(
        cls, masks: Iterable[np.ndarray], segments: List[Dict], size: Tuple[int, int]
    ) -> "Segmentation":
        """
        Args:
            masks: S of (H, W), bool or 0 and 1.
            segments: what they are.
            size: H and W, which no mask tells where S is 0.
        """
        boxes = np.zeros((len(segments), 4), dtype=int)
        cut = []
        for box, mask in zip(boxes, masks):
            mask = np.asarray(mask, dtype=bool)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if len(rows):
                box[:] = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
            cut.append(mask[box[0] : box[2], box[1] : box[3]].copy())
        return cls(cut, boxes, segments, (int(size[0]), int(size[1])))

    def areas(self) -> np.ndarray:
        """(S,) pixels of each segment."""
        return np.array([mask.sum() for mask in self.masks], dtype=int)

    def take(self, rows: Sequence[int]) -> "Segmentation":
        """Some of the segments, in this order."""
        rows = np.asarray(rows, dtype=int)
        masks, segments = ([each[i] for i in rows] for each in (self.masks, self.segments))
        return Segmentation(masks, self.boxes[rows], segments, self.size)

    def resized(self, size: Tuple[int, int]) -> "Segmentation":
        """The same at another (height, width), by the nearest pixel."""
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, self.size)
        )
        boxes, masks = np.zeros_like(self.boxes), []
        for box, (top, left, bottom, right), mask in zip(boxes, self.boxes, self.masks):
            box[:] = (
                *(np.searchsorted(lines, first) for lines, first in ((rows, top), (columns, left))),
                *(np.searchsorted(x, end) for x, end in ((rows, bottom), (columns, right))),
            )
            own_rows = rows[box[0] : box[2], None] - top
            masks.append(mask[own_rows, columns[box[1] : box[3]] - left])
        return Segmentation(masks, boxes, self.segments, size)

    def shared_with(self, other: "Segmentation") -> np.ndarray:
        """(S, other's S) pixels that a segment has in common with one of another segmentation."""
        shared = np.zeros((len(self.masks), len(other.masks)))
        first = np.maximum(self.boxes[:, None, :2], other.boxes[:, :2])
        last = np.minimum(self.boxes[:, None, 2:], other.boxes[:, 2:])
        for i, j in np.argwhere((first < last).all(axis=-1)):
            box = (*first[i, j], *last[i, j])
            shared[i, j] = (self._part(i, box) & other._part(j, box)).sum()
        return shared

    def iou(self, other: "Segmentation") -> np.ndarray:
        """(S, other's S) intersection over union with the segments of another segmentation."""
        shared = self.shared_with(other)
        union = self.areas()[:, None] + other.areas() - shared
        return shared / np.maximum(union, 1)

    def paint(self, values: Iterable, background) -> np.ndarray:
        """(H, W) the value of each pixel's segment, of the last one where they overlap.

        Args:
            values: S numbers.
            background: of pixels without a segment.
        """
        canvas = np.full(self.size, background)
        for value, mask, (top, left, bottom, right) in zip(values, self.masks, self.boxes):
            canvas[top:bottom, left:right][mask] = value
        return canvas

    def _part(self, i: int, box: Tuple[int, ...]) -> np.ndarray:
        top, left = self.boxes[i, :2]
        return self.masks[i][box[0] - top : box[2] - top, box[1] - left : box[3] - left]


# ----------------------------------------------------------------------------- from model's results


def find_kind(result: Dict, kind: Optional[str] = None) -> str:
    """The kind of result to draw: the one wanted, or the first that there is.

    Raises:
        UsageError: there is none, or not the one wanted.
    """
    present = [each for each, key in RESULT_KEYS.items() if key in result]
    if kind is not None and kind not in RESULT_KEYS:
        raise UsageError(f"no results are of the kind '{kind}': give {_listed(RESULT_KEYS)}")
    if not present:
        raise UsageError("the result is empty: switch on a kind of result (MODEL.KNET.TEST)")
    if kind is not None and kind not in present:
        raise UsageError(f"the model gives no {kind} result: draw {_listed(present)}")
    return kind or present[0]


def read_result(
    result: Dict, kind: str, size: Tuple[int, int], score_threshold: float = 0.0
) -> Segmentation:
    """The segments of a model's result, on whatever device it lies.

    Args:
        result: of one image, in Detectron2's form.
        kind: a key of ``RESULT_KEYS`` that it has.
        size: (H, W) of the image.
        score_threshold: things below it (0..1) are left out; stuff has no threshold.

    Raises:
        UsageError: the result is of another size.
    """
    content = result[RESULT_KEYS[kind]]
    if kind == "panoptic":
        _check_size(content[0].shape, size)
        return _from_panoptic(*content, score_threshold)
    if kind == "instance":
        _check_size(content.image_size, size)
        return _from_instances(content, score_threshold)
    _check_size(content.shape[1:], size)
    return _from_class_scores(content)


def _from_panoptic(
    ids: torch.Tensor, segments_info: List[Dict], score_threshold: float
) -> Segmentation:
    ids = ids.cpu().numpy()
    segments = [
        segment
        for segment in segments_info
        if not segment["isthing"] or segment.get("score", 1.0) >= score_threshold
    ]
    return Segmentation.from_masks((ids == s["id"] for s in segments), segments, ids.shape)


def _from_instances(instances: Instances, score_threshold: float) -> Segmentation:
    instances = instances[instances.scores >= score_threshold].to("cpu")
    segments = [
        {"category_id": category, "isthing": True, "score": score}
        for category, score in zip(instances.pred_classes.tolist(), instances.scores.tolist())
    ]
    return Segmentation.from_masks(instances.pred_masks.numpy(), segments, instances.image_size)


def _from_class_scores(scores: torch.Tensor) -> Segmentation:
    labels = scores.argmax(dim=0).cpu().numpy()  # (K, H, W) -> (H, W)
    ids = np.unique(labels).tolist()
    segments = [{"category_id": i, "isthing": False} for i in ids]
    return Segmentation.from_masks((labels == i for i in ids), segments, labels.shape)


def _check_size(found: Tuple[int, ...], size: Tuple[int, int]) -> None:
    if tuple(found) != tuple(size):
        raise UsageError(
            f"the result is {found[1]} x {found[0]}, its image {size[1]} x {size[0]}: give the "
            "image that it was made on"
        )


def _listed(words: Iterable[str]) -> str:
    return " or ".join(words)
