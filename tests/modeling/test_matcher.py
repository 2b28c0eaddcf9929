"""Matching against the loops of ``slow_reference``, ties and numbers that are none included."""

import logging

import numpy as np
import pytest
import torch

from knet.modeling.matcher import Matcher, hungarian
from knet.modeling.structures import Targets

from .. import slow_reference as slow

CASES_PER_SEED = 100
SEEDS = range(10)


def random_cost(rng) -> np.ndarray:
    """(N, T) costs: continuous or full of ties, finite or not."""
    shape = (int(rng.integers(1, 6)), int(rng.integers(0, 6)))
    kind = rng.choice(["continuous", "ties", "equal", "large"])
    if kind == "continuous":
        cost = rng.normal(size=shape) * 4
    elif kind == "ties":
        cost = rng.integers(-2, 3, size=shape) / 4
    elif kind == "equal":
        cost = np.full(shape, rng.normal())
    else:
        cost = rng.normal(size=shape) * 1e6
    share = rng.choice([0, 0, 0.2, 0.6, 1])
    bad = rng.choice([np.nan, np.inf, -np.inf], size=shape)
    cost = np.where(rng.random(shape) < share, bad, cost)
    return cost.astype(rng.choice([np.float32, np.float64]))


@pytest.mark.parametrize("seed", SEEDS)
def test_assignment_is_the_best(seed):
    """The fewest pairs without a finite cost, then the smallest sum; every pair is allowed."""
    rng = np.random.default_rng(seed)
    for _ in range(CASES_PER_SEED):
        cost = random_cost(rng)
        given = cost.copy()
        kernels, objects = hungarian(cost)
        assert np.array_equal(cost, given, equal_nan=True)  # not changed in place
        assert len(kernels) == len(objects) == min(cost.shape)
        assert (np.diff(kernels) > 0).all()
        assert len(set(objects.tolist())) == len(objects)
        num_bad, total = slow.assignment_value(cost, zip(kernels, objects))
        best_num_bad, best_total = slow.best_assignment_value(cost)
        assert num_bad == best_num_bad
        assert total == pytest.approx(best_total, rel=1e-12, abs=1e-12)


def random_logits(rng, shape) -> np.ndarray:
    """Near zero, usual or wholly saturated; none where float32 has lost the digits of 1 - p."""
    kind = rng.choice(["small", "usual", "saturated"])
    if kind == "small":
        logits = rng.normal(size=shape) * 0.1
    elif kind == "usual":
        logits = rng.uniform(-3, 3, size=shape)
    else:
        logits = rng.choice([-100.0, 0.0, 100.0], size=shape)
    return logits.astype(np.float32)


def random_masks(rng, shape) -> np.ndarray:
    """(B, T, h, w) soft masks; some empty, some full, some equal."""
    masks = rng.integers(0, 5, size=shape) / 4
    for image in masks:
        for mask in image:
            mask *= rng.choice([0, 1, 1, 1])
        if len(image) > 1 and rng.random() < 0.3:
            image[1] = image[0]
    masks[rng.random(masks.shape[:2]) < 0.1] = 1
    return masks.astype(np.float32)


def make_targets(masks, classes, num_things) -> Targets:
    batch, _, *size = masks.shape
    return Targets(
        thing_masks=torch.from_numpy(masks),
        thing_classes=torch.from_numpy(classes),
        num_things=num_things,
        stuff_masks=torch.zeros(batch, 0, *size),
        stuff_present=torch.zeros(batch, 0, dtype=torch.bool),
    )


def random_problem(rng):
    """(mask logits, class logits or None, targets) of a small batch."""
    batch, num_kernels, num_objects = (int(rng.integers(1, high)) for high in (3, 5, 5))
    height, width, num_classes = (int(rng.integers(1, 5)) for _ in range(3))
    masks = random_masks(rng, (batch, num_objects, height, width))
    num_things = [int(rng.integers(0, num_objects + 1)) for _ in range(batch)]
    for image, count in zip(masks, num_things):
        image[count:] = 0
    classes = rng.integers(0, num_classes, size=(batch, num_objects))
    mask_logits = random_logits(rng, (batch, num_kernels, height, width))
    class_logits = None
    if rng.random() < 0.7:
        class_logits = random_logits(rng, (batch, num_kernels, num_classes))
    return mask_logits, class_logits, make_targets(masks, classes, num_things)


def as_tensor(array):
    return None if array is None else torch.from_numpy(array)


def compare_costs(rng) -> float:
    """Largest deviation of one random batch's costs; checks the pairs found with them."""
    mask_logits, class_logits, targets = random_problem(rng)
    weights = (
        (2.0, 1.0, 4.0) if rng.random() < 0.5 else tuple(rng.permutation([0.0, 1.0, 2.0, 4.0])[:3])
    )
    matcher = Matcher(class_weight=weights[0], mask_weight=weights[1], dice_weight=weights[2])
    costs = matcher.costs(as_tensor(mask_logits), as_tensor(class_logits), targets)
    assert costs.shape == (*mask_logits.shape[:2], targets.thing_masks.shape[1])
    deviation = 0.0
    (pairs,) = matcher.solve(costs[None].numpy(), targets.num_things)
    for image, count in enumerate(targets.num_things):
        expected = np.zeros((mask_logits.shape[1], count))
        for kernel in range(mask_logits.shape[1]):
            for target in range(count):
                expected[kernel, target] = slow.matching_cost(
                    mask_logits[image, kernel],
                    None if class_logits is None else class_logits[image, kernel],
                    targets.thing_masks[image, target].numpy(),
                    int(targets.thing_classes[image, target]),
                    weights,
                )
        if count:
            difference = costs[image, :, :count].numpy() - expected
            deviation = max(deviation, float(np.abs(difference).max()))
        # the sum of float64 costs is the best there is, up to the rounding of float32 costs
        found = slow.assignment_value(expected, zip(*pairs[image]))
        best = slow.best_assignment_value(expected)
        assert len(pairs[image][0]) == min(expected.shape)
        assert found[0] == best[0] == 0
        deviation = max(deviation, found[1] - best[1])
    return deviation


@pytest.mark.parametrize("seed", SEEDS)
def test_costs_of_every_pair(seed):
    rng = np.random.default_rng(seed)
    for _ in range(CASES_PER_SEED):
        assert compare_costs(rng) < 1e-5


def test_padded_objects_are_never_matched():
    """An image's padded columns are the cheapest here; they must not be taken."""
    costs = np.array([[[5.0, -9.0, -9.0], [6.0, -9.0, -9.0]], [[1.0, 2.0, -9.0], [2.0, 1.0, -9.0]]])
    ((first, second),) = Matcher().solve(costs[None], [1, 2])
    assert [list(side) for side in first] == [[0], [0]]
    assert [list(side) for side in second] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["mask", "class"])
def test_bad_logits_of_one_kernel_leave_the_others_alone(value, part):
    """That kernel's costs may be useless, the other kernels' are what they were."""
    rng = np.random.default_rng(3)
    mask_logits = rng.normal(size=(1, 4, 3, 3)).astype(np.float32)
    class_logits = rng.normal(size=(1, 4, 2)).astype(np.float32)
    masks = (rng.random((1, 3, 3, 3)) < 0.5).astype(np.float32)
    targets = make_targets(masks, np.array([[0, 1, 1]]), [3])
    matcher = Matcher()
    before = matcher.costs(as_tensor(mask_logits), as_tensor(class_logits), targets).numpy()
    (mask_logits if part == "mask" else class_logits)[0, 2] = value
    costs = matcher.costs(as_tensor(mask_logits), as_tensor(class_logits), targets).numpy()
    others = [0, 1, 3]
    np.testing.assert_array_equal(costs[0, others], before[0, others])
    (((kernels, objects),),) = matcher.solve(costs[None], [3])
    if np.isnan(value):
        assert not np.isfinite(costs[0, 2]).any()
        assert list(kernels) == others
    assert sorted(objects) == [0, 1, 2]
    found = slow.assignment_value(costs[0], zip(kernels, objects))
    assert found == pytest.approx(slow.best_assignment_value(costs[0]), rel=1e-6)


def test_all_costs_bad():
    """Still one kernel for each object, and one sentence that says what to change."""
    kernels, objects = hungarian(np.full((3, 2), np.nan, dtype=np.float32))
    assert len(set(kernels.tolist())) == 2 and sorted(objects) == [0, 1]


def test_warns_of_bad_costs_only(caplog):
    with caplog.at_level(logging.WARNING):
        hungarian(np.zeros((2, 2)))
        assert not caplog.records
        hungarian(np.array([[np.nan, 1.0], [1.0, np.inf]]))
    (record,) = caplog.records
    assert "2 of 4" in record.getMessage() and "SOLVER.BASE_LR" in record.getMessage()


def test_half_precision_logits_cost_what_their_values_cost():
    """In bf16 the sums over pixels would be useless; they are taken in float32."""
    rng = np.random.default_rng(4)
    logits = torch.from_numpy(rng.normal(size=(1, 3, 40, 50))).to(torch.bfloat16)
    classes = torch.from_numpy(rng.normal(size=(1, 3, 2))).to(torch.bfloat16)
    masks = (rng.random((1, 2, 40, 50)) < 0.5).astype(np.float32)
    targets = make_targets(masks, np.array([[0, 1]]), [2])
    costs = Matcher().costs(logits, classes, targets)
    assert costs.dtype == torch.float32
    for kernel in range(3):
        for target in range(2):
            expected = slow.matching_cost(
                logits[0, kernel].double().numpy(),
                classes[0, kernel].double().numpy(),
                masks[0, target],
                target,
            )
            assert float(costs[0, kernel, target]) == pytest.approx(expected, abs=1e-5)


# --- pairs that must not be ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_only_allowed_pairs_are_matched(seed):
    """As many of them as can be, and of these the cheapest; with more objects than kernels too."""
    rng = np.random.default_rng((3, seed))
    left_out = 0
    for _ in range(CASES_PER_SEED):
        mask_logits, class_logits, targets = random_problem(rng)
        logits = as_tensor(mask_logits), as_tensor(class_logits)
        matcher = Matcher()
        free = matcher.costs(*logits, targets)
        allowed = torch.from_numpy(rng.random(free.shape) < rng.choice([0, 0.2, 0.5, 1]))
        costs = matcher.costs(*logits, targets, allowed)
        assert torch.equal(costs[allowed], free[allowed])
        (pairs,) = matcher.solve(costs[None].numpy(), targets.num_things)
        assert len(pairs) == len(targets.num_things)
        for image, count in enumerate(targets.num_things):
            kernels, objects = pairs[image]
            assert allowed[image, kernels, objects].all()
            assert len(set(kernels.tolist())) == len(set(objects.tolist())) == len(kernels)
            assert (np.diff(kernels) > 0).all()
            wanted = free[image, :, :count].double().masked_fill(~allowed[image, :, :count], np.inf)
            best_num_bad, best_total = slow.best_assignment_value(wanted.numpy())
            assert len(kernels) == min(wanted.shape) - best_num_bad
            _, total = slow.assignment_value(wanted, zip(kernels, objects))
            assert total == pytest.approx(best_total, abs=1e-6)
            left_out += best_num_bad
    assert left_out > 10


def test_all_pairs_allowed_is_no_rule():
    rng = np.random.default_rng(5)
    for _ in range(20):
        mask_logits, class_logits, targets = random_problem(rng)
        logits = as_tensor(mask_logits), as_tensor(class_logits)
        free = Matcher().costs(*logits, targets)
        everything = torch.ones(free.shape, dtype=torch.bool)
        assert torch.equal(Matcher().costs(*logits, targets, everything), free)


def test_a_dear_pair_that_is_allowed_is_taken():
    """Its kernel is sure of nothing there; the cheap one must not be."""
    mask_logits = torch.tensor([[[[100.0, 100.0]], [[-100.0, -100.0]]]])
    class_logits = torch.tensor([[[100.0, -100.0], [-100.0, 100.0]]])
    masks = np.ones((1, 1, 1, 2), dtype=np.float32)
    targets = make_targets(masks, np.array([[0]]), [1])
    allowed = torch.tensor([[[False], [True]]])
    costs = Matcher().costs(mask_logits, class_logits, targets, allowed)
    (((kernels, objects),),) = Matcher().solve(costs[None].numpy(), [1])
    assert (kernels.tolist(), objects.tolist()) == ([1], [0])


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (1, 1)])
def test_no_pair_allowed_at_all(shape):
    rng = np.random.default_rng(6)
    num_kernels, num_objects = shape
    masks = random_masks(rng, (2, num_objects, 3, 3))
    targets = make_targets(masks, np.zeros((2, num_objects), dtype=int), [num_objects, 0])
    logits = torch.zeros(2, num_kernels, 3, 3)
    nothing = torch.zeros(2, num_kernels, num_objects, dtype=torch.bool)
    costs = Matcher().costs(logits, None, targets, nothing)
    ((first, second),) = Matcher().solve(costs[None].numpy(), targets.num_things)
    for kernels, objects in (first, second):
        assert len(kernels) == len(objects) == 0
