"""How the true and the predicted segments of one image relate: overlaps, and which was found.

Shape shorthand: T true segments, P predicted ones.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..visualization.segmentation import Segmentation

__all__ = ["FOUND_IOU", "NOT_FOUND", "SegmentPairs", "pair_segments"]

FOUND_IOU = 0.5
NOT_FOUND = -1


@dataclass(frozen=True)
class SegmentPairs:
    """The segments of one image, pair by pair. Void pixels are left out of all predicted areas.

    Attributes:
        truth, prediction: the segments.
        iou: (T, P).
        covered: (T, P) the share of the true segment that the predicted one has.
        inside: (T, P) the share of the predicted segment that lies in the true one.
        same_class: (T, P) bool.
        is_crowd: (T,) bool: nothing to find.
        true_by_object, predicted_by_object: (T,), (P,) bool: one of its class, counted one by one;
            else all that the image has of the class.
        match: (T,) the predicted segment that found it, or ``NOT_FOUND``.
        ignored: (P,) bool: found nothing, but lies mostly on void or on crowd of its class.
    """

    truth: Segmentation
    prediction: Segmentation
    iou: np.ndarray
    covered: np.ndarray
    inside: np.ndarray
    same_class: np.ndarray
    is_crowd: np.ndarray
    true_by_object: np.ndarray
    predicted_by_object: np.ndarray
    match: np.ndarray
    ignored: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """(T,) bool."""
        return self.match != NOT_FOUND

    @property
    def is_right(self) -> np.ndarray:
        """(P,) bool: the predicted segments that found a true one."""
        right = np.zeros(len(self.prediction.masks), dtype=bool)
        right[self.match[self.found]] = True
        return right

    @property
    def matched_iou(self) -> np.ndarray:
        """(T,) IoU with the predicted segment that found it, 0 without one."""
        result = np.zeros(len(self.match))
        rows = np.flatnonzero(self.found)
        result[rows] = self.iou[rows, self.match[rows]]
        return result

    def above(self, score_threshold: float) -> "SegmentPairs":
        """The same without predicted segments of a lower score (those without one stay).

        A higher score goes first when segments are matched, so what is left out took nothing away.
        """
        scores = _scores(self.prediction, without=1.0)
        kept = np.flatnonzero(scores >= score_threshold)
        number = np.full(len(scores) + 1, NOT_FOUND)  # the last is that of NOT_FOUND
        number[kept] = np.arange(len(kept))
        return replace(
            self,
            prediction=self.prediction.take(kept),
            iou=self.iou[:, kept],
            covered=self.covered[:, kept],
            inside=self.inside[:, kept],
            same_class=self.same_class[:, kept],
            predicted_by_object=self.predicted_by_object[kept],
            match=number[self.match],
            ignored=self.ignored[kept],
        )


def pair_segments(truth: Segmentation, prediction: Segmentation, kind: str) -> SegmentPairs:
    """Match the segments of one image as the evaluators do.

    Panoptic and semantic: a predicted segment finds a true one of its class where their IoU is
    above 0.5, which it can be with one alone; pixels without a true segment are void. Instance:
    from 0.5 on, the best scored first, each the one that it overlaps most of those left.

    Args:
        truth, prediction: of one size.
        kind: "panoptic", "instance" or "semantic".
    """
    shared = truth.shared_with(prediction)
    true_areas, predicted_areas = truth.areas(), prediction.areas()
    overlapping = kind == "instance"
    void = np.zeros(len(predicted_areas)) if overlapping else predicted_areas - shared.sum(0)
    areas = predicted_areas - void
    is_crowd = np.array([bool(s.get("iscrowd", 0)) for s in truth.segments], dtype=bool)
    same_class = _classes(truth)[:, None] == _classes(prediction)
    iou = shared / np.maximum(true_areas[:, None] + areas - shared, 1)
    match = _match(iou, same_class & ~is_crowd[:, None], _scores(prediction), overlapping)
    on_crowd = np.zeros(len(areas))
    for row in np.flatnonzero(is_crowd):  # of several of a class the last counts, as in COCO's tool
        on_crowd = np.where(same_class[row], shared[row], on_crowd)
    nothing = (void + on_crowd) / np.maximum(predicted_areas, 1)
    ignored = nothing >= FOUND_IOU if overlapping else nothing > FOUND_IOU
    ignored[match[match != NOT_FOUND]] = False
    return SegmentPairs(
        truth,
        prediction,
        iou,
        shared / np.maximum(true_areas, 1)[:, None],
        shared / np.maximum(areas, 1),
        same_class,
        is_crowd,
        *(_by_object(each, kind) for each in (truth, prediction)),
        match,
        ignored,
    )


def _match(iou: np.ndarray, possible: np.ndarray, scores: np.ndarray, from_on: bool) -> np.ndarray:
    """(T,) the predicted segment of each true one.

    Args:
        iou: (T, P).
        possible: (T, P) bool: the pairs that count.
        scores: (P,).
        from_on: an IoU of exactly 0.5 counts too.
    """
    enough = possible & (iou >= FOUND_IOU if from_on else iou > FOUND_IOU)
    match = np.full(len(iou), NOT_FOUND)
    for j in np.argsort(-scores, kind="stable"):
        rows = np.flatnonzero(enough[:, j] & (match == NOT_FOUND))
        if len(rows):
            best = iou[rows, j].max()
            match[rows[iou[rows, j] == best][-1]] = j  # as COCO's tool: the last of equal ones
    return match


def _classes(segmentation: Segmentation) -> np.ndarray:
    return np.array([s["category_id"] for s in segmentation.segments], dtype=int)


def _scores(segmentation: Segmentation, without: float = 0.0) -> np.ndarray:
    return np.array([s.get("score", without) for s in segmentation.segments], dtype=float)


def _by_object(segmentation: Segmentation, kind: str) -> np.ndarray:
    counted = [bool(s["isthing"]) and kind != "semantic" for s in segmentation.segments]
    return np.array(counted, dtype=bool)
