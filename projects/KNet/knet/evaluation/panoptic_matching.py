"""What COCO's panopticapi counts for the panoptic quality, of one image in memory.

A predicted segment matches a true one of its class where more than half of their union is in both;
pixels that are void in the truth are left out of the union. Crowd is nothing to find, and what is
predicted with more than half of its area on void or on crowd of its class is not wrong.
"""

import multiprocessing
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from ..data.id_map import is_area_of, runs

__all__ = ["Matches", "add_up", "match_segments", "misstated"]

VOID = 0  # id of pixels without segment
_ID_BITS = 24  # of an id in a PNG

# {(true id, predicted id): pixels}, by rising ids
Overlaps = Dict[Tuple[int, int], int]


class Matches(NamedTuple):
    """The segments of one image.

    Attributes:
        found: category and IoU of each match, in the order in which they are added up.
        missed: the category of each true segment without a match.
        wrong: that of each predicted one.
        misstated: see :func:`misstated`.
    """

    found: List[Tuple[int, float]]
    missed: List[int]
    wrong: List[int]
    misstated: List[int]


def match_segments(
    truth: np.ndarray,
    true_segments: Sequence[Dict],
    prediction: np.ndarray,
    predicted_segments: Sequence[Dict],
) -> Matches:
    """Compare the segments of one image.

    Args:
        truth, prediction: (H, W) ids, below 2^24.
        true_segments: with ``id``, ``category_id``, ``area`` and ``iscrowd``.
        predicted_segments: with ``id`` and ``category_id``.

    Raises:
        ValueError: ``predicted_segments`` are not the segments of ``prediction``.
    """
    overlaps = _overlaps(truth, prediction)
    true_areas, areas = (_areas(overlaps, side) for side in range(2))
    true = {s["id"]: s for s in true_segments}
    predicted = {s["id"]: s["category_id"] for s in predicted_segments}
    unlike = (areas.keys() - {VOID}).symmetric_difference(predicted.keys() - {VOID})
    if unlike or not predicted.keys() <= areas.keys():
        raise ValueError(f"its map and its segments differ in the ids {sorted(unlike) or [VOID]}")
    found, true_found, predicted_found = [], set(), set()
    for (true_id, predicted_id), both in overlaps.items():
        segment, category = true.get(true_id), predicted.get(predicted_id)
        if segment is None or segment["iscrowd"] == 1 or segment["category_id"] != category:
            continue
        void = overlaps.get((VOID, predicted_id), 0)
        union = areas[predicted_id] + segment["area"] - both - void
        if union > 0 and both / union > 0.5:  # areas of the json may be smaller than what is shared
            found.append((category, both / union))
            true_found.add(true_id)
            predicted_found.add(predicted_id)
    left = [s for i, s in true.items() if i not in true_found]
    crowd = {s["category_id"]: s["id"] for s in left if s["iscrowd"] == 1}
    wrong = []
    for predicted_id, category in predicted.items():
        ignored = overlaps.get((VOID, predicted_id), 0)
        if category in crowd:
            ignored += overlaps.get((crowd[category], predicted_id), 0)
        if predicted_id not in predicted_found and ignored / areas[predicted_id] <= 0.5:
            wrong.append(category)
    missed = [s["category_id"] for s in left if s["iscrowd"] != 1]
    return Matches(found, missed, wrong, misstated(true_segments, true_areas))


def misstated(true_segments: Sequence[Dict], areas: Mapping[int, int]) -> List[int]:
    """The id of each true segment, but crowd, whose ``area`` is not that of its pixels.

    Args:
        true_segments: see :func:`match_segments`.
        areas: {id: pixels} of the truth.
    """
    return [
        s["id"]
        for s in true_segments
        if s["iscrowd"] != 1 and not is_area_of(s["area"], areas.get(s["id"], 0))
    ]


def _overlaps(truth: np.ndarray, prediction: np.ndarray) -> Overlaps:
    pairs = truth.astype(np.int64) << _ID_BITS | prediction
    pairs_of_runs, lengths = runs(pairs)
    values, position = np.unique(pairs_of_runs, return_inverse=True)
    pixels = np.bincount(position, lengths).astype(np.int64)  # as float64: exact
    true_ids, predicted_ids = values >> _ID_BITS, values & (1 << _ID_BITS) - 1
    return dict(zip(zip(true_ids.tolist(), predicted_ids.tolist()), pixels.tolist()))


def _areas(overlaps: Overlaps, side: int) -> Dict[int, int]:
    """{id: pixels} of the true segments (0) or the predicted ones (1)."""
    areas: Dict[int, int] = {}
    for ids, pixels in overlaps.items():
        areas[ids[side]] = areas.get(ids[side], 0) + pixels
    return areas


def add_up(images: Sequence[Matches]):
    """panopticapi's ``PQStat`` of a data set, equal to its own to the last digit.

    IoUs are added in its order: within the share that each core of this machine would get, then
    over the shares.

    Args:
        images: in the order of the ground truth.
    """
    from panopticapi.evaluation import PQStat

    total = PQStat()
    for share in np.array_split(np.arange(len(images)), multiprocessing.cpu_count()):
        statistics = PQStat()
        for found, missed, wrong, _ in (images[i] for i in share):
            for category, iou in found:
                statistics[category].tp += 1
                statistics[category].iou += iou
            for category in missed:
                statistics[category].fn += 1
            for category in wrong:
                statistics[category].fp += 1
        total += statistics
    return total
