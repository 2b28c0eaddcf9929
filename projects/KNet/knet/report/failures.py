"""The kinds of failure of one image: what happened to each true segment that was not found.

Each true segment that was not found is of one kind, the first that fits; a predicted one that
found nothing is counted only if it explains none of these. So no failure is counted twice.

Shape shorthand: T true segments, P predicted ones.
"""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np

from .segment_pairs import FOUND_IOU, SegmentPairs

__all__ = ["KINDS", "Failure", "Kind", "find_failures"]

TOUCHING_IOU = 0.1  # of a predicted segment that is about a true one, however badly
MOST = 0.5  # of a segment, more than which is most of it


class Kind(NamedTuple):
    """A kind of failure: its title, and its definition in words."""

    title: str
    definition: str


_TOUCHES = "(their IoU is 0.1 or more, or more than half of the prediction lies inside it)"
# in the order in which they are asked for
KINDS: Dict[str, Kind] = {
    "wrong class": Kind(
        "Wrong class",
        "A true segment whose outline was found under another class: a prediction of another class "
        "has an IoU above 0.5 with it. For stuff and for regions of a class: a prediction of "
        "another class covers more than half of it.",
    ),
    "merged": Kind(
        "Merged",
        "A true object that shares its prediction with another one: a predicted object covers more "
        "than half of it and more than half of a second true object.",
    ),
    "split": Kind(
        "Split",
        "A true object found in pieces: two or more predictions of its class, none of which found "
        "another, lie each with more than half of their area inside it, and cover together more "
        "than half of it.",
    ),
    "bad outline": Kind(
        "Bad outline",
        "A true segment that a prediction of its class, which found no other, touches "
        f"{_TOUCHES}, but with too little overlap to count as found.",
    ),
    "missed": Kind("Missed", "A true segment that no such prediction of its class touches."),
    "found twice": Kind(
        "Found twice",
        "A further prediction on a true segment that is found already: it touches it "
        f"{_TOUCHES}, has its outline under another class, or covers it together with another.",
    ),
    "nothing there": Kind(
        "Found nothing there",
        "A prediction that touches no true segment of its class and explains no failure above. "
        "Predictions that lie mostly on unlabelled pixels or on crowd of their class are not "
        "counted.",
    ),
}


class Failure(NamedTuple):
    """One failure.

    Attributes:
        kind: a key of ``KINDS``.
        truth: the true segments concerned, the failed one first.
        prediction: the predicted ones.
    """

    kind: str
    truth: Tuple[int, ...]
    prediction: Tuple[int, ...]


def find_failures(pairs: SegmentPairs) -> List[Failure]:
    """All failures of an image; first those of true segments, in their order."""
    touches = pairs.same_class & ((pairs.iou >= TOUCHING_IOU) | (pairs.inside > MOST))
    touches &= ~pairs.is_crowd[:, None] & ~pairs.is_right
    wrong = _wrong_class(pairs)
    merging = _merging(pairs)
    open_rows = ~pairs.is_crowd & ~pairs.found
    failures = [
        _of_true(pairs, i, wrong[i], merging, touches[i]) for i in np.flatnonzero(open_rows)
    ]
    about = touches | wrong | merging
    for j in np.flatnonzero(~pairs.is_right & ~pairs.ignored):
        if (about[:, j] & open_rows).any():
            continue  # it explains a failure that is counted
        twice = np.flatnonzero(about[:, j] & pairs.found)
        kind = "found twice" if len(twice) else "nothing there"
        firsts = pairs.match[twice].tolist()
        failures.append(Failure(kind, tuple(twice.tolist()), (int(j), *firsts)))
    return failures


def _wrong_class(pairs: SegmentPairs) -> np.ndarray:
    """(T, P) bool: the predicted segment is the true one under another class."""
    covers = ~pairs.true_by_object[:, None] & (pairs.covered > MOST)
    outlined = pairs.iou > FOUND_IOU
    return ~pairs.same_class & ~pairs.is_crowd[:, None] & (outlined | covers)


def _merging(pairs: SegmentPairs) -> np.ndarray:
    """(T, P) bool: the predicted object has most of the true object, and of another one."""
    counted = pairs.true_by_object & ~pairs.is_crowd
    has = counted[:, None] & pairs.predicted_by_object & (pairs.covered > MOST)
    return has & (has.sum(0) > 1)


def _of_true(
    pairs: SegmentPairs, i: int, wrong: np.ndarray, merging: np.ndarray, touches: np.ndarray
) -> Failure:
    """The failure of a true segment; ``wrong`` and ``touches`` are its (P,), the other (T, P)."""
    if wrong.any():
        return Failure("wrong class", (int(i),), _rows(wrong))
    if merging[i].any():
        others = merging[:, merging[i]].any(1)
        others[i] = False
        return Failure("merged", (int(i), *_rows(others)), _rows(merging[i]))
    if pairs.true_by_object[i]:
        pieces = touches & (pairs.inside[i] > MOST)
        if pieces.sum() > 1 and _share_covered(pairs, i, np.flatnonzero(pieces)) > MOST:
            return Failure("split", (int(i),), _rows(pieces))
    return Failure("bad outline" if touches.any() else "missed", (int(i),), _rows(touches))


def _share_covered(pairs: SegmentPairs, i: int, pieces: np.ndarray) -> float:
    """The share of a true segment that predicted ones have together; they may overlap."""
    top, left, bottom, right = pairs.truth.boxes[i]
    covered = np.zeros(pairs.truth.size, dtype=bool)
    for j in pieces:
        y0, x0, y1, x1 = pairs.prediction.boxes[j]
        covered[y0:y1, x0:x1] |= pairs.prediction.masks[j]
    mask = pairs.truth.masks[i]
    return (covered[top:bottom, left:right] & mask).sum() / max(mask.sum(), 1)


def _rows(chosen: np.ndarray) -> Tuple[int, ...]:
    return tuple(np.flatnonzero(chosen).tolist())
