"""Each kind of failure is found where it is, and no other; segments match as evaluators match."""

from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from knet.evaluation.panoptic_matching import match_segments
from knet.report.failures import find_failures
from knet.report.segment_pairs import pair_segments
from knet.visualization.segmentation import Segmentation
from tests.report.scenes import CUP, PLATE, SIZE, WALL, part, scene

LOW, HIGH = {"score": 0.5}, {"score": 0.9}


def failures(truth, prediction, kind="panoptic"):
    return find_failures(pair_segments(truth, prediction, kind))


# one cup of 10 x 10, a second one beside it, and what is predicted for them
ONE = (part(CUP, 10, 10, 20, 20),)
TWO = (*ONE, part(CUP, 10, 20, 20, 30))
SCENES = {
    "all found": (TWO, TWO, {}),
    "nearly all of it": (ONE, (part(CUP, 10, 10, 20, 16),), {}),
    "half is too little": (ONE, (part(CUP, 10, 10, 20, 15),), {"bad outline": 1}),
    "missed": (ONE, (), {"missed": 1}),
    "one of two missed": (TWO, ONE, {"missed": 1}),
    "wrong class": (ONE, (part(PLATE, 10, 10, 20, 20),), {"wrong class": 1}),
    "wrong class, bad outline": (
        ONE,
        (part(PLATE, 10, 10, 20, 14),),
        {"missed": 1, "nothing there": 1},
    ),
    "merged": (TWO, (part(CUP, 10, 10, 20, 30),), {"merged": 2}),
    "merged with one that is found": (
        (part(CUP, 10, 10, 20, 20), part(PLATE, 10, 20, 20, 25)),
        (part(CUP, 10, 10, 20, 25),),
        {"merged": 1},
    ),
    "split": (ONE, (part(CUP, 10, 10, 15, 20), part(CUP, 15, 10, 20, 20)), {"split": 1}),
    "pieces of too little": (
        ONE,
        (part(CUP, 10, 10, 12, 20), part(CUP, 18, 10, 20, 20)),
        {"bad outline": 1},
    ),
    "too large": (ONE, (part(CUP, 5, 5, 25, 25),), {"bad outline": 1}),
    "only a speck of it": (ONE, (part(CUP, 10, 10, 12, 12),), {"bad outline": 1}),
    "beside it": (ONE, (part(CUP, 10, 18, 20, 28),), {"bad outline": 1}),
    "hardly touching": (ONE, (part(CUP, 10, 19, 20, 29),), {"missed": 1, "nothing there": 1}),
    "found, and a piece more": (
        (part(CUP, 10, 10, 20, 20),),
        (part(CUP, 10, 10, 17, 20), part(CUP, 17, 10, 20, 20)),
        {"found twice": 1},
    ),
    "nothing there": ((), (part(CUP, 10, 10, 20, 20),), {"nothing there": 1}),
}


@pytest.mark.parametrize("name", SCENES)
def test_each_kind_and_no_other(name):
    truth, prediction, expected = SCENES[name]
    found = failures(scene(*truth), scene(*prediction))
    assert Counter(f.kind for f in found) == expected


def test_the_segments_concerned():
    truth, prediction = scene(*TWO), scene(part(CUP, 10, 10, 20, 30))
    assert failures(truth, prediction)[0] == ("merged", (0, 1), (0,))
    pieces = scene(part(CUP, 10, 10, 15, 20), part(CUP, 15, 10, 20, 20))
    assert failures(scene(*ONE), pieces) == [("split", (0,), (0, 1))]
    (double,) = failures(scene(*ONE), scene(part(CUP, 10, 10, 17, 20), part(CUP, 17, 10, 20, 20)))
    assert double == ("found twice", (0,), (1, 0))  # the further one, then the one that found it


def test_stuff_is_of_another_class_where_most_of_it_is():
    lower_half = (20, 0, *SIZE)
    truth = scene(part(3, *lower_half))
    prediction = scene(part(4, *lower_half))
    assert [f.kind for f in failures(truth, prediction)] == ["wrong class"]
    # a region that the large one beside it swallows; an object would be missed
    speck, wall = scene(part(3, 0, 0, 4, 4)), scene()
    assert [f.kind for f in failures(speck, wall)] == ["wrong class"]
    cup = scene(part(CUP, 0, 0, 4, 4))
    assert [f.kind for f in failures(cup, wall)] == ["missed"]
    assert [f.kind for f in failures(cup, wall, "semantic")] == ["wrong class"]


def test_void_and_crowd_are_no_failure():
    prediction = scene(part(CUP, 10, 10, 20, 20), wall=False)
    assert failures(scene(wall=False), prediction) == []  # the truth is void everywhere
    crowd = scene(part(CUP, 8, 8, 22, 22, iscrowd=1))
    assert failures(crowd, scene(part(CUP, 10, 10, 20, 20))) == []
    assert failures(crowd, scene()) == []  # a crowd is nothing to find
    other = failures(crowd, scene(part(PLATE, 10, 10, 20, 20)))
    assert [f.kind for f in other] == ["nothing there"]


def overlapping(*parts):
    """Instances, each with its whole rectangle."""
    masks = np.zeros((len(parts), *SIZE), bool)
    for mask, (_, (top, left, bottom, right), _) in zip(masks, parts):
        mask[top:bottom, left:right] = True
    segments = [{"category_id": c, "isthing": True, **more} for c, _, more in parts]
    return Segmentation.from_masks(masks, segments, SIZE)


def test_instances_found_twice():
    truth = overlapping(*ONE)
    same = overlapping(part(CUP, 10, 10, 20, 20, **HIGH), part(CUP, 10, 10, 20, 19, **LOW))
    assert failures(truth, same, "instance") == [("found twice", (0,), (1, 0))]
    otherwise = overlapping(part(CUP, 10, 10, 20, 20, **HIGH), part(PLATE, 10, 10, 20, 20, **LOW))
    assert failures(truth, otherwise, "instance") == [("found twice", (0,), (1, 0))]
    # a lower threshold keeps the second away
    pairs = pair_segments(truth, same, "instance").above(0.6)
    assert find_failures(pairs) == [] and pairs.found.tolist() == [True]


def test_pieces_that_overlap_are_not_counted_twice():
    truth = overlapping(*ONE)
    pieces = (part(CUP, 10, 10, 14, 20, **HIGH), part(CUP, 10, 10, 14, 19, **LOW))
    found = failures(truth, overlapping(*pieces), "instance")
    assert [f.kind for f in found] == ["bad outline"]  # together 40 %, not 76 %


# ---------------------------------------------------------------------------- beside the evaluators


def random_parts(rng, **more):
    corner = rng.integers(0, 30, (rng.integers(1, 7), 2))
    size = rng.integers(4, 16, corner.shape)
    return [part(int(rng.integers(0, 2)), *c, *(c + s), **more) for c, s in zip(corner, size)]


def jittered(parts, rng):
    """The rectangles, a little elsewhere, some of another class, some lost; with scores."""
    return [
        part(
            c if rng.random() < 0.8 else 1 - c,
            *(np.array(box) + rng.integers(-2, 3)).clip(0),
            score=float(rng.random()),
        )
        for c, box, _ in parts
        if rng.random() < 0.9
    ]


def test_segments_match_as_in_panoptic_quality():
    rng, counts = np.random.default_rng(0), Counter()
    for _ in range(60):
        parts = random_parts(rng)
        crowd = [part(PLATE, 30, 0, 40, 20, iscrowd=1)]
        truth = scene(*parts, *crowd, wall=rng.random() < 0.7)
        prediction = scene(*jittered(parts, rng), part(PLATE, 31, 0, 39, 18))
        pairs = pair_segments(truth, prediction, "panoptic")
        ids, segments = as_ids(prediction)
        seen = [s for s in segments if s["area"]]
        matches = match_segments(*as_ids(truth), ids, seen)
        ours = sorted(
            (truth.segments[i]["category_id"], pairs.matched_iou[i])
            for i in np.flatnonzero(pairs.found)
        )
        assert ours == sorted(matches.found)
        lost = np.flatnonzero(~pairs.found & ~pairs.is_crowd)
        wrong = np.flatnonzero(~pairs.is_right & ~pairs.ignored & (prediction.areas() > 0))
        classes = [s["category_id"] for s in prediction.segments]
        assert sorted(classes[j] for j in wrong) == sorted(matches.wrong)
        assert sorted(truth.segments[i]["category_id"] for i in lost) == sorted(matches.missed)
        counts.update(found=len(ours), lost=len(lost), wrong=len(wrong), ok=pairs.ignored.sum())
        # each is of one kind of failure, and what found nothing is explained or counted
        kinds = Counter(f.kind for f in find_failures(pairs))
        extra = kinds.pop("found twice", 0) + kinds.pop("nothing there", 0)
        assert sum(kinds.values()) == len(lost) and extra <= len(wrong)
    assert min(counts[key] for key in ("found", "lost", "wrong", "ok")) > 20


def as_ids(segmentation):
    """The id map and the segments, as panoptic quality takes them."""
    ids = segmentation.paint(range(1, len(segmentation.masks) + 1), 0)
    areas = segmentation.areas()
    segments = [
        {"iscrowd": 0, **s, "id": i + 1, "area": int(areas[i])}
        for i, s in enumerate(segmentation.segments)
    ]
    return ids, segments


def test_instances_match_as_in_mask_ap():
    rng, total = np.random.default_rng(1), 0
    for _ in range(40):
        parts = random_parts(rng)
        truth = overlapping(*parts, part(PLATE, 30, 0, 40, 20, iscrowd=1))
        prediction = overlapping(*jittered(parts, rng), part(PLATE, 31, 0, 39, 18, score=0.4))
        pairs = pair_segments(truth, prediction, "instance")
        right, ignored = official_matches(truth, prediction)
        assert sorted(np.flatnonzero(pairs.is_right).tolist()) == right
        assert np.flatnonzero(pairs.ignored).tolist() == ignored
        total += len(right) * len(ignored)
    assert total > 40


def official_matches(truth, prediction):
    """pycocotools' matched and ignored predictions at an IoU of 0.5."""
    entries = [
        [
            {
                "id": i + 1,
                "image_id": 1,
                "iscrowd": 0,
                "area": int(each.areas()[i]),
                "bbox": [0, 0, 1, 1],
                "segmentation": mask_util.encode(np.asfortranarray(full.astype(np.uint8))),
                **s,
            }
            for i, (s, full) in enumerate(zip(each.segments, whole(each)))
        ]
        for each in (truth, prediction)
    ]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": c, "name": str(c)} for c in (CUP, PLATE, WALL)],
        "annotations": entries[0],
    }
    coco.createIndex()
    results = COCOeval(coco, coco.loadRes([{**e} for e in entries[1]]), "segm")
    results.params.iouThrs = np.array([0.5])
    results.evaluate()
    right, ignored = [], []
    for image in results.evalImgs:
        if image is None or image["aRng"] != results.params.areaRng[0]:
            continue
        for i, match, ignore in zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0]):
            if ignore:
                ignored.append(int(i) - 1)
            elif match:
                right.append(int(i) - 1)
    return sorted(right), sorted(ignored)


def whole(segmentation):
    """(S, H, W) bool."""
    masks = np.zeros((len(segmentation.masks), *segmentation.size), bool)
    for full, mask, (top, left, bottom, right) in zip(
        masks, segmentation.masks, segmentation.boxes
    ):
        full[top:bottom, left:right] = mask
    return masks
