"""The segments of an image compared in memory: what panopticapi counts from files."""

import copy
import multiprocessing

import numpy as np
import pytest
from panopticapi.evaluation import PQStat, pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from knet.evaluation.panoptic_matching import add_up, match_segments

CATEGORIES = {i: {"id": i, "isthing": i % 2} for i in (1, 2, 3)}


def scene(rng, ids):
    """(H, W) ids in blocks, 0 among them, and a segment of a random class for most of them."""
    blocks = rng.choice([0, *ids], size=(4, 5))
    ids = np.kron(blocks, np.ones((5, 6), np.int64))
    ids[rng.random(ids.shape) < 0.1] = 0
    areas = dict(zip(*np.unique(ids, return_counts=True)))
    segments = [
        {"id": int(i), "category_id": int(rng.integers(1, 4)), "iscrowd": int(rng.random() < 0.2)}
        for i in areas
        if i
    ]
    return ids, [{**s, "area": int(areas[s["id"]])} for s in segments]


def shifted(rng, ids, segments):
    """A prediction near the truth."""
    ids = np.roll(ids, tuple(rng.integers(-1, 2, 2)), (0, 1))
    segments = [{k: s[k] for k in ("id", "category_id")} for s in segments]
    for segment in segments:
        if rng.random() < 0.2:
            segment["category_id"] = int(rng.integers(1, 4))
    return ids, [s for s in segments if (ids == s["id"]).any()]


def counts(statistics):
    return {c: (s.tp, s.fp, s.fn, s.iou) for c, s in statistics.pq_per_cat.items()}


def test_equal_to_panopticapi_with_crowd_void_and_unlisted_ids(tmp_path):
    rng, pairs, matches = np.random.default_rng(0), [], []
    for number in range(60):
        truth, true_segments = scene(rng, [3, 70, 300, 2**24 - 1])
        ids, segments = shifted(rng, truth, true_segments)
        if number % 3 == 0:  # an id of the truth's PNG that the json does not list
            true_segments = true_segments[1:]
        if number % 5 == 0 and true_segments:
            true_segments[0]["area"] += 0.5
        matches.append(match_segments(truth, true_segments, ids, copy.deepcopy(segments)))
        for name, png in (("true", truth), ("predicted", ids)):
            Image.fromarray(id2rgb(png)).save(tmp_path / f"{name}{number}.png")
        pairs.append(
            (
                {"image_id": number, "file_name": f"true{number}.png"}
                | {"segments_info": true_segments},
                {"file_name": f"predicted{number}.png", "segments_info": segments},
            )
        )
    theirs, folder = PQStat(), str(tmp_path)
    for share in np.array_split(np.arange(len(pairs)), multiprocessing.cpu_count()):
        theirs += pq_compute_single_core(0, [pairs[i] for i in share], folder, folder, CATEGORIES)
    assert counts(add_up(matches)) == counts(theirs)
    assert all(min(c[:3]) > 5 for c in counts(theirs).values())


def test_segments_that_are_not_those_of_the_map_are_told():
    ids = np.array([[0, 5], [5, 7]])
    listed = [{"id": i, "category_id": 1} for i in (5, 7)]
    match_segments(ids, [], ids, listed)
    for wrong in (listed[:1], [*listed, {"id": 9, "category_id": 1}]):
        with pytest.raises(ValueError, match="differ in the ids"):
            match_segments(ids, [], ids, wrong)


def test_an_area_that_leaves_no_union():
    """COCO's tool divides by zero: a json may tell any area."""
    ids = np.array([[1, 1, 2]])
    true = [{"id": 1, "category_id": 5, "area": 1, "iscrowd": 0}]
    seen = np.array([[1, 7, 7]])
    segments = [{"id": 1, "category_id": 5}, {"id": 7, "category_id": 6}]
    assert match_segments(ids, true, seen, segments).missed == []
    true[0]["area"] = 0
    assert match_segments(ids, true, seen, segments).missed == [5]
