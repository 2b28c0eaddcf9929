"""Who wins each pixel of a panoptic result, and which kernels are kept, by loops."""

import numpy as np
import pytest
import torch

from knet.data.class_layout import ClassLayout
from knet.modeling import enlarging, inference
from knet.modeling.enlarging import EnlargedMasks
from knet.modeling.inference import ImageSizes, Postprocessor

from .. import slow_reference as slow


def merge_panoptic(masks, *args, **kwargs):
    """Of (N, H, W) probabilities."""
    return inference.merge_panoptic(EnlargedMasks.of_size(masks), *args, **kwargs)


def random_maps(rng, num_kernels, size) -> np.ndarray:
    """(N, H, W) probabilities: continuous, full of ties, empty, or equal to each other."""
    kind = rng.choice(["continuous", "quarters", "binary", "boxes"])
    shape = (num_kernels, *size)
    if kind == "continuous":
        masks = rng.random(shape)
    elif kind == "quarters":
        masks = rng.integers(0, 5, size=shape) / 4
    elif kind == "binary":
        masks = (rng.random(shape) < 0.5).astype(float)
    else:
        masks = np.full(shape, 0.1)
        for mask in masks:
            y, x = (int(rng.integers(side)) for side in size)
            mask[y : y + int(rng.integers(1, 6)), x : x + int(rng.integers(1, 6))] = 0.9
    masks *= rng.random((num_kernels, 1, 1)) > rng.choice([0, 0.2, 1.1], p=[0.5, 0.45, 0.05])
    if num_kernels > 2 and rng.random() < 0.3:
        masks[2] = masks[0]
    return masks.astype(np.float32)


def random_scores(rng, num_kernels) -> np.ndarray:
    """(N,): continuous or full of ties, also with the score threshold itself and with 0."""
    if rng.random() < 0.5:
        return rng.random(num_kernels).astype(np.float32)
    return rng.choice([0.0, 0.25, 0.3, 0.5, 0.75, 1.0], size=num_kernels).astype(np.float32)


def random_size(rng, highest=7):
    return tuple(int(side) for side in rng.integers(1, highest, size=2))


@pytest.mark.parametrize("seed", range(10))
def test_merge(seed, monkeypatch):
    """Every pixel and every segment, 1000 images."""
    if seed % 2:
        monkeypatch.setattr(enlarging, "_SIDE", 2)  # many blocks an image
    rng = np.random.default_rng(seed)
    for _ in range(100):
        num_kernels = int(rng.integers(1, 9))
        masks = random_maps(rng, num_kernels, random_size(rng))
        scores = random_scores(rng, num_kernels)
        is_thing = rng.random(num_kernels) < rng.choice([0, 0.6, 1])
        thresholds = {}
        if rng.random() < 0.3:
            thresholds = {
                "score_threshold": float(rng.choice([0.0, 0.5, 0.75])),
                "overlap_threshold": float(rng.choice([0.0, 0.5, 0.8, 1.0, 1.5])),
                "mask_threshold": float(rng.choice([0.25, 0.5, 0.75])),
            }
        expected_map, expected = slow.merge_panoptic(masks, scores, is_thing, **thresholds)
        segment_map, segment_ids, won = merge_panoptic(
            *map(torch.from_numpy, (masks, scores, is_thing)), **thresholds
        )
        assert segment_map.dtype == torch.int32
        assert np.array_equal(segment_map.numpy(), expected_map)
        expected_ids = [0] * num_kernels
        for number, (kernel, area) in enumerate(expected, start=1):
            expected_ids[kernel] = number
            assert int(won[kernel]) == area
        assert segment_ids.tolist() == expected_ids


def test_overlap_ratio_that_equals_the_threshold():
    """A kernel is dropped below the ratio, not at it: 55 of 100 pixels is not below 0.55."""
    masks = torch.zeros(2, 10, 10)
    masks[0] = 0.6
    masks[1].view(-1)[:45] = 1
    scores = torch.tensor([0.9, 0.9])
    is_thing = torch.tensor([True, True])
    segment_map, segment_ids, _ = merge_panoptic(masks, scores, is_thing, overlap_threshold=0.55)
    expected_map, expected = slow.merge_panoptic(
        masks.numpy(), scores.numpy(), is_thing.numpy(), overlap_threshold=0.55
    )
    assert [area for _, area in expected] == [55, 45]
    assert segment_ids.tolist() == [1, 2]
    assert np.array_equal(segment_map.numpy(), expected_map)


# --- things before stuff -------------------------------------------------------------------------


def slow_things_first(
    masks, scores, is_thing, score_threshold=0.3, overlap_threshold=0.6, mask_threshold=0.5
):
    """As ``slow.merge_panoptic``; a thing inside its own mask is before whatever is not so, and
    stuff is not missed where such a thing is."""
    num_kernels, height, width = masks.shape
    strong = [is_thing[k] and scores[k] >= np.float32(score_threshold) for k in range(num_kernels)]
    winner = np.full((height, width), slow.NONE)
    for y, x in slow.pixels_of(winner):
        best = None
        for kernel in range(num_kernels):
            if is_thing[kernel] and not strong[kernel]:
                continue
            inside = strong[kernel] and masks[kernel, y, x] >= np.float32(mask_threshold)
            rank = (bool(inside), scores[kernel] * masks[kernel, y, x])
            if best is None or rank > best:
                best, winner[y, x] = rank, kernel
    segment_map, segments = np.zeros((height, width), dtype=int), []
    things = [k for k in range(num_kernels) if is_thing[k]]
    for kernel in sorted(range(num_kernels), key=lambda k: (-float(scores[k]), k)):
        won = int((winner == kernel).sum())
        own = 0
        for y, x in slow.pixels_of(winner):
            taken = any(strong[k] and masks[k, y, x] >= np.float32(mask_threshold) for k in things)
            missed = is_thing[kernel] or not taken
            own += missed and masks[kernel, y, x] >= np.float32(mask_threshold)
        if won == 0 or own == 0 or won / own < overlap_threshold:
            continue
        segments.append((kernel, won))
        segment_map[winner == kernel] = len(segments)
    return segment_map, segments


@pytest.mark.parametrize("seed", range(6))
def test_things_first(seed, monkeypatch):
    """Every pixel and every segment, 600 images; many differ from the published order."""
    if seed % 2:
        monkeypatch.setattr(enlarging, "_SIDE", 2)  # many blocks an image
    rng = np.random.default_rng((3, seed))
    different = 0
    for _ in range(100):
        num_kernels = int(rng.integers(1, 9))
        masks = random_maps(rng, num_kernels, random_size(rng))
        scores = random_scores(rng, num_kernels)
        is_thing = rng.random(num_kernels) < rng.choice([0, 0.6, 1])
        thresholds = {}
        if rng.random() < 0.5:
            thresholds = {
                "score_threshold": float(rng.choice([0.0, 0.5, 0.75])),
                "overlap_threshold": float(rng.choice([0.0, 0.5, 0.8, 1.0])),
                "mask_threshold": float(rng.choice([0.25, 0.5, 0.75])),
            }
        expected_map, expected = slow_things_first(masks, scores, is_thing, **thresholds)
        segment_map, segment_ids, won = merge_panoptic(
            *map(torch.from_numpy, (masks, scores, is_thing)), **thresholds, things_first=True
        )
        assert segment_map.dtype == torch.int32
        assert np.array_equal(segment_map.numpy(), expected_map)
        expected_ids = [0] * num_kernels
        for number, (kernel, area) in enumerate(expected, start=1):
            expected_ids[kernel] = number
            assert int(won[kernel]) == area
        assert segment_ids.tolist() == expected_ids
        published, _ = slow.merge_panoptic(masks, scores, is_thing, **thresholds)
        different += not np.array_equal(published, expected_map)
    assert different > 10


def row(*probabilities):
    return torch.tensor([[list(p)] for p in probabilities])


def test_a_weak_thing_takes_no_pixel():
    """Else the stuff behind it would have a hole."""
    masks = row((0.9, 0.9, 0.1), (0.6, 0.6, 0.6))
    scores, is_thing = torch.tensor([0.25, 0.3]), torch.tensor([True, False])
    before, _, _ = merge_panoptic(masks, scores, is_thing)
    assert before.tolist() == [[0, 0, 0]]  # the stuff has won too little of its area
    after, _, _ = merge_panoptic(masks, scores, is_thing, things_first=True)
    assert after.tolist() == [[1, 1, 1]]
    # with the score threshold itself it is strong
    scores[0] = 0.3
    after, _, _ = merge_panoptic(masks, scores, is_thing, things_first=True, overlap_threshold=0.3)
    assert after.tolist() == [[1, 1, 2]]


def test_a_thing_is_before_stuff_inside_its_mask_alone():
    """Outside of it score x probability decides, as it does between two things."""
    masks = row((0.5, 0.49, 0.49, 0.0), (1.0, 1.0, 0.2, 1.0))
    scores, is_thing = torch.tensor([0.4, 0.9]), torch.tensor([True, False])
    options = {"overlap_threshold": 0.0, "things_first": True}
    found, ids, won = merge_panoptic(masks, scores, is_thing, **options)
    assert ids.tolist() == [2, 1] and won.tolist() == [2, 2]
    assert found.tolist() == [[2, 1, 2, 1]]
    masks = row((0.5, 0.9, 0.6), (0.9, 0.6, 0.4))
    scores, is_thing = torch.tensor([0.9, 0.6]), torch.tensor([True, True])
    found, ids, _ = merge_panoptic(masks, scores, is_thing, **options)
    assert ids.tolist() == [1, 2]
    assert found.tolist() == [[2, 1, 1]]


def test_stuff_keeps_what_the_things_left():
    """Windows take most of a facade; the wall between them is still a facade."""
    masks = row((0.9,) * 10, (0.8,) * 7 + (0.0,) * 3)
    scores, is_thing = torch.tensor([0.9, 0.4]), torch.tensor([False, True])
    found, _, _ = merge_panoptic(masks, scores, is_thing, things_first=True)
    assert found.tolist() == [[2] * 7 + [1] * 3]


def test_nothing_but_weak_things():
    masks, scores = row((0.9, 0.9), (0.8, 0.8)), torch.tensor([0.2, 0.1])
    found, ids, _ = merge_panoptic(masks, scores, torch.tensor([True, True]), things_first=True)
    assert found.tolist() == [[0, 0]] and ids.tolist() == [0, 0]


@pytest.mark.parametrize("things_first", [None, False, True])
def test_things_first_in_a_result(things_first):
    """Of the panoptic result alone; the default is the published order."""
    layout = ClassLayout([0], [1])
    options = {} if things_first is None else {"things_first": things_first}
    post = Postprocessor(layout=layout, num_kernels=1, **options)
    other = Postprocessor(layout=layout, num_kernels=1, things_first=not post.things_first)
    class_logits = torch.tensor([[0.0, -9.0], [-9.0, 3.0]])  # a thing of 0.5, sure stuff
    mask_logits = torch.full((2, 4, 4), 4.0)
    mask_logits[0, :, 1:] = -4
    sizes = ImageSizes((4, 4), (4, 4), (4, 4))
    results = post(class_logits, mask_logits, sizes)
    segment_map, info = results["panoptic_seg"]
    kinds = {segment["id"]: segment["isthing"] for segment in info}
    assert kinds[int(segment_map[0, 0])] is bool(things_first)
    assert kinds[int(segment_map[0, 3])] is False
    others = other(class_logits, mask_logits, sizes)
    assert torch.equal(results["sem_seg"], others["sem_seg"])
    assert torch.equal(results["instances"].scores, others["instances"].scores)
    assert torch.equal(results["instances"].pred_masks, others["instances"].pred_masks)
