"""Points where kernels start, their target, their loss and what they may take, against loops."""

import math

import numpy as np
import pytest
import torch

from knet.modeling.losses import point_loss
from knet.modeling.points import (
    at_point_stride,
    covered_by_stronger,
    middle_cells,
    point_target,
    reachable,
    strongest_cells,
    vote_loss,
)
from knet.modeling.structures import Points, Targets

from .. import slow_reference as slow

# --- the strongest cells -------------------------------------------------------------------------


def ranked_cells(logits):
    """Of one image (K, H, W): (is a local maximum, best logit) of each cell, and in which order."""
    _, height, width = logits.shape
    best = {(y, x): float(logits[:, y, x].max()) for y, x in slow.pixels_of(logits[0])}
    kinds = {}
    for (y, x), value in best.items():
        around = [
            best[y + dy, x + dx]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if 0 <= y + dy < height and 0 <= x + dx < width
        ]
        kinds[y * width + x] = (value == max(around), value)
    return kinds, sorted(kinds.values(), reverse=True)


def check_strongest(logits, count):
    """Every cell and flag of a batch (B, K, H, W)."""
    cells, is_peak = strongest_cells(torch.from_numpy(logits), count)
    batch, _, height, width = logits.shape
    assert cells.shape == is_peak.shape == (batch, count)
    assert cells.dtype == torch.long and is_peak.dtype == torch.bool
    for image in range(batch):
        kinds, order = ranked_cells(logits[image])
        found = min(count, height * width)
        chosen = cells[image].tolist()
        assert len(set(chosen[:found])) == found
        # cells of one height may come in any order
        assert [kinds[cell] for cell in chosen[:found]] == order[:found]
        assert is_peak[image, :found].tolist() == [peak for peak, _ in order[:found]]
        assert chosen[found:] == [chosen[0]] * (count - found)
        assert not is_peak[image, found:].any()


@pytest.mark.parametrize("seed", range(4))
def test_strongest_cells(seed):
    """Continuous and with plateaus, of one and of several classes, few and many kernels."""
    rng = np.random.default_rng(seed)
    for _ in range(60):
        size = rng.integers(1, 9, size=2)
        shape = (int(rng.integers(1, 3)), int(rng.integers(1, 4)), *size)
        if rng.random() < 0.5:
            logits = rng.normal(size=shape) * 2
        else:
            logits = rng.integers(-3, 3, size=shape)
        check_strongest(logits.astype(np.float32), int(rng.integers(1, 30)))


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_fewer_cells_than_kernels(size):
    logits = np.random.default_rng(0).normal(size=(2, 2, *size)).astype(np.float32)
    check_strongest(logits, 10)


def test_a_plateau_is_all_maxima():
    check_strongest(np.full((1, 1, 4, 5), 1.5, dtype=np.float32), 25)


def test_a_low_maximum_comes_before_a_high_slope():
    logits = torch.full((1, 1, 3, 8), -9.0)
    logits[0, 0, 1, 1:4] = torch.tensor([2.0, 5.0, 3.0])
    logits[0, 0, 1, 6] = -4.0
    cells, is_peak = strongest_cells(logits, 4)
    assert cells[0].tolist() == [10, 14, 11, 9]
    assert is_peak[0].tolist() == [True, True, False, False]


@pytest.mark.parametrize("low, high", [(-30.0, -20.0), (18.0, 24.0)])
def test_the_strongest_of_saturated_cells(low, high):
    """Their probabilities are 0 or 1 in float32; the logits still tell which is the highest."""
    logits = torch.full((1, 1, 5, 6), low)
    logits[0, 0, 1, 1], logits[0, 0, 3, 4] = high, high - 1
    cells, _ = strongest_cells(logits, 2)
    assert cells[0].tolist() == [7, 22]


# --- points that found the same object -----------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_covered_by_stronger(seed):
    """Point n, where any mask m < n is; its own mask means nothing."""
    rng = np.random.default_rng(seed)
    seen = set()
    for _ in range(60):
        batch, count, height, width = (int(side) for side in rng.integers(1, 6, size=4))
        masks = rng.integers(-4, 2, size=(batch, count, height, width)).astype(np.float32)
        cells = rng.integers(0, height * width, size=(batch, count))
        found = covered_by_stronger(torch.from_numpy(masks), torch.from_numpy(cells), 0.5)
        assert found.shape == (batch, count) and found.dtype == torch.bool
        for image in range(batch):
            for n, cell in enumerate(cells[image].tolist()):
                y, x = divmod(cell, width)
                expected = False
                for m in range(n):
                    expected = expected or bool(masks[image, m, y, x] > 0)
                assert bool(found[image, n]) == expected
                seen.add((expected, bool(masks[image, n, y, x] > 0)))
    assert len(seen) == 4


def test_a_chain_of_covered_points():
    """The point of m lies in mask l, that of n in mask m alone: both are covered, l is not."""
    masks = torch.full((1, 3, 1, 6), -1.0)
    masks[0, 0, 0, 0:3] = 1
    masks[0, 1, 0, 2:5] = 1
    masks[0, 2] = 1  # the weakest covers all, which hides no stronger one
    assert covered_by_stronger(masks, torch.tensor([[1, 2, 4]]), 0.5).tolist() == [
        [False, True, True]
    ]
    assert covered_by_stronger(masks, torch.tensor([[1, 3, 4]]), 0.5).tolist() == [
        [False, False, True]
    ]
    assert covered_by_stronger(masks, torch.tensor([[1, 3, 5]]), 0.5).tolist() == [[False] * 3]


def test_two_points_of_one_cell():
    """As an image of fewer cells than kernels has: the second is covered if the mask is on it."""
    masks = torch.full((1, 2, 2, 2), -1.0)
    cells = torch.tensor([[3, 3]])
    assert covered_by_stronger(masks, cells, 0.5).tolist() == [[False, False]]
    masks[0, 0, 1, 1] = 1
    assert covered_by_stronger(masks, cells, 0.5).tolist() == [[False, True]]


# --- the middle of an object ---------------------------------------------------------------------


def random_targets(rng, factor=1, num_classes=3) -> Targets:
    """Soft masks at the mask stride, sides multiples of the factor; some empty, some padded."""
    batch, height, width = int(rng.integers(1, 4)), *(int(s) for s in rng.integers(1, 7, size=2))
    num_things = [int(rng.integers(0, 5)) for _ in range(batch)]
    padded = max(1, *num_things)
    shape = (batch, padded, height * factor, width * factor)
    masks = rng.integers(0, 5, size=shape) / 4 * (rng.random(shape) < rng.choice([0.1, 0.5, 1]))
    masks *= rng.random((batch, padded, 1, 1)) > 0.2
    classes = rng.integers(0, num_classes, size=(batch, padded))
    for image, count in enumerate(num_things):
        masks[image, count:], classes[image, count:] = 0, 0
    return Targets(
        thing_masks=torch.from_numpy(masks).float(),
        thing_classes=torch.from_numpy(classes),
        num_things=num_things,
        stuff_masks=torch.zeros(batch, 0, *shape[2:]),
        stuff_present=torch.zeros(batch, 0, dtype=torch.bool),
    )


def coarse_share(mask, factor):
    """(h, w) -> (H, W), the mean over each cell."""
    height, width = (side // factor for side in mask.shape)
    share = np.zeros((height, width))
    for y, x in slow.pixels_of(share):
        for dy in range(factor):
            for dx in range(factor):
                share[y, x] += float(mask[y * factor + dy, x * factor + dx]) / factor**2
    return share


def check_middle(mask, middle):
    """It has half of the largest share or more, and no such cell is nearer to the centre."""
    if not mask.any():
        assert middle == [0, 0]
        return
    area = centre_y = centre_x = 0.0
    for y, x in slow.pixels_of(mask):
        area += mask[y, x]
        centre_y += y * mask[y, x]
        centre_x += x * mask[y, x]
    own = [(y, x) for y, x in slow.pixels_of(mask) if mask[y, x] >= mask.max() / 2]
    assert tuple(middle) in own

    def distance(y, x):
        return math.hypot(y - centre_y / area, x - centre_x / area)

    assert distance(*middle) == pytest.approx(min(distance(*cell) for cell in own), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_middle_cells(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        masks = random_targets(rng).thing_masks
        middles = middle_cells(masks)
        assert middles.shape == (*masks.shape[:2], 2)
        for image_masks, image_middles in zip(masks.double().numpy(), middles.tolist()):
            for mask, middle in zip(image_masks, image_middles):
                check_middle(mask, middle)


def ring(size=9):
    mask = np.ones((size, size))
    mask[2:-2, 2:-2] = 0
    return mask


def letter_c(size=9):
    mask = ring(size)
    mask[3:6, 5:] = 0
    return mask


@pytest.mark.parametrize("shape", [ring, letter_c])
def test_the_middle_of_an_object_with_a_hole_is_on_it(shape):
    """Also where its share is no more than a quarter anywhere."""
    mask = shape()
    middle = middle_cells(torch.from_numpy(mask / 4).float()[None, None])[0, 0].tolist()
    assert mask[tuple(middle)] == 1
    check_middle(mask, middle)


def test_an_object_without_pixels_has_no_middle():
    targets = random_targets(np.random.default_rng(0))
    targets.thing_masks = torch.zeros(1, 2, 4, 5)
    targets.thing_masks[0, 1, 2, 3] = 0.25
    targets.thing_classes = torch.tensor([[1, 0]])
    targets.num_things = [2]
    assert middle_cells(targets.thing_masks).tolist() == [[[0, 0], [2, 3]]]
    target, count = point_target(targets, 2, (4, 5))
    assert int(count) == 1
    assert not target[0, 1].any()
    assert (target == 1).nonzero().tolist() == [[0, 0, 2, 3]]


# --- target and loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_share_at_the_point_stride(factor):
    rng = np.random.default_rng(factor)
    for _ in range(20):
        masks = random_targets(rng, factor).thing_masks
        size = tuple(side // factor for side in masks.shape[2:])
        shares = at_point_stride(masks, size)
        assert shares.shape == (*masks.shape[:2], *size)
        for share, mask in zip(shares.flatten(0, 1), masks.flatten(0, 1)):
            np.testing.assert_allclose(share, coarse_share(mask, factor), rtol=0, atol=1e-6)


def slow_point_target(targets: Targets, num_classes, size, factor):
    """(B, K, H, W) and the number of objects; padded rows are never looked at."""
    expected, objects = np.zeros((len(targets.num_things), num_classes, *size)), 0
    for image, count in enumerate(targets.num_things):
        for thing in range(count):
            share = coarse_share(targets.thing_masks[image, thing], factor)
            if not share.any():
                continue
            objects += 1
            one = torch.from_numpy(share).float()[None, None]
            middle_y, middle_x = middle_cells(one)[0, 0].tolist()  # checked above
            sigma = max(0.2 * math.sqrt(share.sum()), 0.8)
            heat = expected[image, int(targets.thing_classes[image, thing])]
            for y, x in slow.pixels_of(share):
                squared = (y - middle_y) ** 2 + (x - middle_x) ** 2
                heat[y, x] = max(heat[y, x], math.exp(-squared / (2 * sigma**2)))
    return expected, objects


@pytest.mark.parametrize("factor", [1, 2])
def test_point_target(factor):
    """Objects of one class and of several, one over another, empty ones and padded rows."""
    rng = np.random.default_rng(factor)
    for _ in range(60):
        num_classes = int(rng.integers(1, 4))
        targets = random_targets(rng, factor, num_classes)
        size = tuple(side // factor for side in targets.thing_masks.shape[2:])
        target, count = point_target(targets, num_classes, size)
        expected, objects = slow_point_target(targets, num_classes, size, factor)
        assert int(count) == objects
        np.testing.assert_allclose(target, expected, rtol=0, atol=1e-6)
        # the loss tells middles by it
        assert np.array_equal((target == 1).numpy(), expected == 1)


def test_a_large_objects_gaussian_is_wide():
    """20 x 20 cells: a standard deviation of 4 cells."""
    targets = random_targets(np.random.default_rng(0))
    targets.thing_masks = torch.zeros(1, 1, 31, 31)
    targets.thing_masks[0, 0, 5:25, 5:25] = 1
    targets.thing_classes, targets.num_things = torch.zeros(1, 1, dtype=torch.long), [1]
    target, _ = point_target(targets, 1, (31, 31))
    ((y, x),) = (target[0, 0] == 1).nonzero().tolist()
    assert y in (14, 15) and x in (14, 15)
    assert float(target[0, 0, y + 4, x]) == pytest.approx(math.exp(-0.5), rel=1e-5)


def slow_vote_loss(votes, masks) -> float:
    """Of each object the mean over its cells, loop by loop."""
    total = 0.0
    for image, objects in enumerate(masks):
        for mask in objects:
            area = mask.sum()
            own = [
                (y, x)
                for y, x in np.ndindex(mask.shape)
                if mask[y, x] >= 0.5 and mask[y, x] == max(other[y, x] for other in objects)
            ]
            if not own:
                continue
            middle = [
                sum(mask[c] * c[side] for c in np.ndindex(mask.shape)) / area for side in (0, 1)
            ]
            far = [
                sum(abs(c[side] + 4 * votes[image, side][c] - middle[side]) for side in (0, 1))
                for c in own
            ]
            total += sum(far) / len(own) / math.sqrt(max(area, 1))
    return total


@pytest.mark.parametrize("factor", [1, 2])
def test_vote_loss(factor):
    rng = np.random.default_rng(factor)
    for _ in range(30):
        batch, count = int(rng.integers(1, 3)), int(rng.integers(1, 4))
        size = tuple(int(side) for side in rng.integers(1, 6, size=2))
        votes = rng.normal(size=(batch, 2, *size))
        masks = rng.random((batch, count, *size)) * (rng.random((batch, count, *size)) < 0.7)
        masks *= rng.random((batch, count, 1, 1)) < 0.8
        expected = slow_vote_loss(votes, masks)
        fine = torch.from_numpy(masks).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        learned = torch.from_numpy(votes).requires_grad_()
        loss = vote_loss(learned, fine)
        assert loss.shape == () and float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        loss.backward()
        assert torch.isfinite(learned.grad).all()


def test_votes_for_the_middle_cost_nothing():
    masks = torch.zeros(1, 2, 4, 6)
    masks[0, 0, :3, :3] = masks[0, 1, 1:, 4:] = 1
    votes = torch.zeros(1, 2, 4, 6)
    for object_, middle in zip(masks[0], ((1, 1), (2, 4.5))):
        for y, x in object_.nonzero().tolist():
            votes[0, :, y, x] = (torch.tensor(middle) - torch.tensor([y, x])) / 4
    assert float(vote_loss(votes, masks)) == pytest.approx(0, abs=1e-6)
    votes[0, 0, 0, 0] += 3 / 4  # 3 cells, in an object with a side of 3, for one of its 9 cells
    assert float(vote_loss(votes, masks)) == pytest.approx(1 / 9, rel=1e-5)


def test_point_loss():
    rng = np.random.default_rng(3)
    for _ in range(30):
        shape = tuple(int(side) for side in rng.integers(1, 5, size=4))
        logits = rng.normal(size=shape) * rng.choice([0.1, 3, 20])
        target = rng.choice([0.0, 0.3, 0.99, 1.0], size=shape)
        logits, target = logits.astype(np.float32), target.astype(np.float32)
        expected = 0.0
        for logit, wanted in zip(logits.ravel().tolist(), target.ravel().tolist()):
            if wanted == 1:
                expected -= slow.sigmoid(-logit) ** 2 * slow.log_sigmoid(logit)
            else:
                weight = (1 - wanted) ** 4 * slow.sigmoid(logit) ** 2
                expected -= weight * slow.log_sigmoid(-logit)
        loss = point_loss(torch.from_numpy(logits), torch.from_numpy(target))
        assert loss.shape == () and float(loss) == pytest.approx(expected, rel=1e-5)


def test_point_loss_of_saturated_logits():
    """A wrong cell costs its logit, a right one nothing; no gradient is lost or endless."""
    logits = torch.tensor([60.0, 60.0, -60.0, -60.0], requires_grad=True)
    target = torch.tensor([1.0, 0.0, 1.0, 0.0])
    loss = point_loss(logits, target)
    assert float(loss.detach()) == pytest.approx(120)
    loss.backward()
    assert logits.grad.tolist() == pytest.approx([0, 1, -1, 0], abs=1e-6)


# --- what a kernel may take ----------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2])
def test_reachable(factor):
    """Objects with a share, however small, in the cell where the kernel starts."""
    rng = np.random.default_rng(factor)
    seen = set()
    for _ in range(60):
        targets = random_targets(rng, factor)
        batch, padded, *fine = targets.thing_masks.shape
        height, width = (side // factor for side in fine)
        num_kernels = int(rng.integers(1, 5))
        cells = torch.from_numpy(rng.integers(0, height * width, size=(batch, num_kernels)))
        maps = torch.zeros(batch, 3, height, width)
        points = Points(logits=maps[:, :1], cells=cells, votes=maps[:, 1:])
        found = reachable(points, targets)
        assert found.shape == (batch, num_kernels, padded) and found.dtype == torch.bool
        for image in range(batch):
            for kernel in range(num_kernels):
                y, x = divmod(int(cells[image, kernel]), width)
                for thing in range(padded):
                    share = coarse_share(targets.thing_masks[image, thing], factor)
                    seen.add(share[y, x] > 0)
                    assert bool(found[image, kernel, thing]) == (share[y, x] > 0)
    assert seen == {False, True}
