"""What is counted over a data set: confusion of classes, calibration of scores, sizes.

Shape shorthand: C classes, B bins, T true segments, P predicted ones.
"""

import itertools
from typing import List, NamedTuple, Optional, Sequence

import numpy as np

from .segment_pairs import FOUND_IOU, SegmentPairs

__all__ = ["LEAST_SCORE", "Calibration", "Confusion", "Sizes", "segment_classes"]

CALIBRATION_BINS = 10
LEAST_SCORE = 0.05  # of objects: thousands of lower ones, all rightly so, would hide the others
# Sides of a square of the object's area, in pixels
SIDES = (0, 8, 16, 32, 64, 128, 256, 512, 1024)


class Confusion:
    """How often each true class was predicted as each class; the last row and column are "nothing".

    Attributes:
        counts: (C + 1, C + 1) of true x predicted.
    """

    def __init__(self, num_classes: int):
        self.counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)

    def add(self, true: np.ndarray, predicted: np.ndarray) -> None:
        """Count pairs of class indices, C for nothing; arrays of one shape."""
        cells = true.astype(np.int64).ravel() * len(self.counts) + predicted.ravel()
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def most_frequent(self, limit: int) -> List[tuple]:
        """(true, predicted, count) of the mistakes, the most frequent first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        cells = zip(*np.unravel_index(order, wrong.shape))
        return [(int(i), int(j), int(wrong[i, j])) for i, j in cells if wrong[i, j]]


def segment_classes(pairs: SegmentPairs, index: np.ndarray, nothing: int):
    """True and predicted class of each segment of an image, for :class:`Confusion`.

    A true segment that was not found counts as the class of the prediction of another class that
    has an IoU above 0.5 with it, or as nothing; a prediction that is in no such pair has nothing
    as its true class. Crowd, and what lies on it, is not counted.

    Args:
        index: class index by contiguous id.
        nothing: the index of none.
    """
    true_ids, predicted_ids = (
        index[[s["category_id"] for s in each.segments]] if each.segments else np.zeros(0, int)
        for each in (pairs.truth, pairs.prediction)
    )
    free = ~pairs.is_right & ~pairs.ignored
    true, predicted = [], []
    for i in np.flatnonzero(~pairs.is_crowd):
        j = pairs.match[i]
        if not pairs.found[i]:
            others = np.where(free & ~pairs.same_class[i], pairs.iou[i], 0.0)
            j = int(others.argmax()) if others.max(initial=0) > FOUND_IOU else -1
            if j >= 0:
                free[j] = False
        true.append(true_ids[i])
        predicted.append(predicted_ids[j] if j >= 0 else nothing)
    rest = predicted_ids[free].tolist()
    return np.array(true + [nothing] * len(rest), int), np.array(predicted + rest, int)


class Bin(NamedTuple):
    """Predictions of similar scores: their number, mean score and the share that is right."""

    count: int
    score: float
    right: float


class Calibration:
    """Do scores say how often predictions are right? Of equally wide bins of the score."""

    def __init__(self, plain: Optional[List[List[float]]] = None):
        """
        Args:
            plain: of :meth:`to_plain`; None: nothing is counted yet.
        """
        shape = (CALIBRATION_BINS, 3)  # count, sum of scores, right ones
        self._sums = np.zeros(shape) if plain is None else np.reshape(plain, shape).astype(float)

    def to_plain(self) -> List[List[float]]:
        """As lists, for a json."""
        return self._sums.tolist()

    def add(self, scores: np.ndarray, right: np.ndarray) -> None:
        """
        Args:
            scores: (P,) 0..1.
            right: (P,) bool.
        """
        bins = np.clip((scores * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)
        for column, weights in enumerate((np.ones(len(scores)), scores, right)):
            self._sums[:, column] += np.bincount(bins, weights, CALIBRATION_BINS)

    def add_segments(self, pairs: SegmentPairs) -> None:
        """The predicted segments from ``LEAST_SCORE`` on, without those on void or crowd."""
        scores = [s.get("score", 0.0) for s in pairs.prediction.segments]
        kept = [j for j, s in enumerate(scores) if s >= LEAST_SCORE and not pairs.ignored[j]]
        self.add(np.array([scores[j] for j in kept], float), pairs.is_right[kept])

    @property
    def count(self) -> int:
        return int(self._sums[:, 0].sum())

    @property
    def bins(self) -> List[Bin]:
        """By rising score; of an empty one score and share are 0."""
        return [Bin(int(n), s / max(n, 1), r / max(n, 1)) for n, s, r in self._sums.tolist()]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of score and share of right ones, 0..1."""
        return sum(b.count * abs(b.score - b.right) for b in self.bins) / max(self.count, 1)

    @property
    def bias(self) -> float:
        """Mean score less the share of right ones: above 0 the model is too sure."""
        return sum(b.count * (b.score - b.right) for b in self.bins) / max(self.count, 1)


class SizeBin(NamedTuple):
    """True segments of similar size.

    Attributes:
        low, high: sides of a square of their area, in pixels; the last exclusive.
        count: their number.
        found: the share that was found.
        iou: mean IoU of those found.
    """

    low: int
    high: int
    count: int
    found: float
    iou: float


class Sizes:
    """Quality by the size of true segments."""

    def __init__(self, objects_alone: bool):
        """
        Args:
            objects_alone: leave out what is not counted one by one.
        """
        self._objects_alone = objects_alone
        self._areas: List[np.ndarray] = []
        self._ious: List[np.ndarray] = []

    def add(self, pairs: SegmentPairs) -> None:
        """The true segments of an image."""
        rows = ~pairs.is_crowd & (pairs.true_by_object | (not self._objects_alone))
        self._areas.append(pairs.truth.areas()[rows])
        self._ious.append(pairs.matched_iou[rows])

    @property
    def bins(self) -> List[SizeBin]:
        """From the first to the last that has a segment."""
        if not self._areas:
            return []
        areas, ious = np.concatenate(self._areas), np.concatenate(self._ious)
        sides, edges = np.sqrt(areas), (*SIDES, 2**20)
        result = []
        for low, high in itertools.pairwise(edges):
            of_bin = ious[(sides >= low) & (sides < high)]
            right = of_bin[of_bin > 0]
            found = len(right) / max(len(of_bin), 1)
            iou = float(right.mean()) if len(right) else 0.0
            result.append(SizeBin(low, high, len(of_bin), found, iou))
        return _without_empty_ends(result)


def _without_empty_ends(bins: Sequence[SizeBin]) -> List[SizeBin]:
    filled = [i for i, each in enumerate(bins) if each.count]
    return list(bins[filled[0] : filled[-1] + 1]) if filled else []
