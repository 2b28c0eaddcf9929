"""The head whose kernels start at points of the image: first masks and class logits by loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from knet.modeling.point_kernel_head import PointKernelHead, class_presence

from .. import slow_reference as slow

PRIOR = -math.log(99)


def random_head(num_things=2, num_stuff=2, num_kernels=7, seed=0) -> PointKernelHead:
    """Every weight is large enough to be seen in the results."""
    torch.manual_seed(seed)
    head = PointKernelHead(
        num_thing_classes=num_things,
        num_stuff_classes=num_stuff,
        num_kernels=num_kernels,
        channels=8,
        num_groups=2,
    )
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    nn.init.constant_(head.point_proj.bias, PRIOR)
    return head


def maps(batch=2, size=(6, 9), channels=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, *size, generator=generator) for _ in range(2)]


def softplus(value):
    return math.log1p(math.exp(-abs(value))) + max(value, 0.0)


@pytest.mark.parametrize("size, num_kernels", [((6, 9), 7), ((1, 1), 3), ((2, 3), 10)])
def test_first_masks_and_kernels(size, num_kernels):
    """k F_ins + b - |L (p + v(p) - p_n)|^2 / 4^2 at every cell; k and what that mask found."""
    head, (instance_map, semantic_map) = random_head(num_kernels=num_kernels), maps(size=size)
    with torch.no_grad():
        feature_map, prediction, semantic_logits = head(instance_map, semantic_map)
        features = head.instance_conv(instance_map)
        both = (features + head.semantic_conv(semantic_map)).double().numpy()
        described = head.kernel_conv(instance_map).double().numpy()
    weight, bias = (p.detach().double().numpy() for p in head.kernel_proj.parameters())
    np.testing.assert_allclose(feature_map, both, rtol=1e-5, atol=1e-5)
    features = features.double().numpy()
    to_vote, vote_bias = (p.detach().double().numpy() for p in head.vote_proj.parameters())
    assert prediction.mask_logits.shape == (2, num_kernels + 2, *size)
    assert prediction.kernels.shape == (2, num_kernels + 2, 8)
    for image in range(2):
        for n, cell in enumerate(prediction.points.cells[image].tolist()):
            point_y, point_x = divmod(cell, size[1])
            at_point = weight @ described[image, :, point_y, point_x] + bias
            kernel, offset, (first, below, second) = at_point[:8], at_point[8], at_point[9:]
            fall_off = np.array([[softplus(first), 0], [below, softplus(second)]])
            found = kernel.copy()
            for y, x in slow.pixels_of(features[image, 0]):
                vote = to_vote[:, :, 0, 0] @ described[image, :, y, x] + vote_bias
                away = (y - point_y, x - point_x) + 4 * vote
                squared = np.square(fall_off @ away).sum()
                expected = kernel @ features[image, :, y, x] + offset - squared / 16
                logit = float(prediction.mask_logits[image, n, y, x])
                assert logit == pytest.approx(expected, rel=1e-4, abs=1e-4)
                assert abs(logit) > 1e-4  # else float32 does not tell which side of 0 it is on
                found += both[image, :, y, x] * (logit > 0)
            np.testing.assert_allclose(prediction.kernels[image, n], found, rtol=1e-4, atol=1e-4)
        for stuff in range(2):
            assert torch.equal(
                prediction.mask_logits[image, num_kernels + stuff],
                semantic_logits[image, 2 + stuff],
            )
            assert torch.equal(
                prediction.kernels[image, num_kernels + stuff],
                head.semantic_kernels.weight[2 + stuff, :, 0, 0].detach(),
            )


def test_weights_from_before_there_were_votes():
    """They load, and without votes their masks fall off around the points, as they did."""
    head, new = random_head(), random_head(seed=5)
    nn.init.zeros_(head.vote_proj.weight)
    nn.init.zeros_(head.vote_proj.bias)
    old = {name: x for name, x in head.state_dict().items() if "vote" not in name}
    assert len(old) == len(head.state_dict()) - 2
    new.load_state_dict(old)
    for expected, found in zip(head(*maps())[1:], new(*maps())[1:]):
        expected, found = (getattr(x, "mask_logits", x) for x in (expected, found))
        assert torch.equal(expected, found)
    missing, _ = new.load_state_dict({}, strict=False)  # a backbone's file has nothing of a head
    assert set(missing) == set(new.state_dict())


# --- class logits of stage 0 ---------------------------------------------------------------------


def found_anew(mask_logits, cells, n):
    """Does the point n of one image lie in the mask of one before it?"""
    width = mask_logits.shape[-1]
    y, x = divmod(cells[n], width)
    return any(float(mask_logits[m, y, x]) > 0 for m in range(n))


def check_class_logits(head, num_things, num_stuff):
    """Of every kernel; returns what kinds of points there were."""
    with torch.no_grad():
        _, prediction, semantic_logits = head(*maps(size=(9, 12)))
    points, num_classes = prediction.points, num_things + num_stuff
    assert prediction.class_logits.shape == (2, 100 + num_stuff, num_classes)
    assert semantic_logits.shape == (2, num_classes, 9, 12)
    kinds = set()
    for image in range(2):
        best, cells = points.logits[image].amax(0), points.cells[image].tolist()
        masks = prediction.mask_logits[image].numpy()
        for n, cell in enumerate(cells):
            y, x = divmod(cell, 12)
            around = best[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            is_peak, again = bool(best[y, x] == around.max()), found_anew(masks, cells, n)
            for label in range(num_things):
                expected = float(points.logits[image, label, y, x])
                kinds.add((is_peak, again, expected > PRIOR))
                if again or not is_peak:
                    expected = min(expected, PRIOR)
                found = float(prediction.class_logits[image, n, label])
                assert found == pytest.approx(expected, rel=1e-6)
    rest = [prediction.class_logits[:, :100, num_things:], prediction.class_logits[:, 100:]]
    for logits in rest:
        torch.testing.assert_close(logits, torch.full_like(logits, PRIOR))
    return kinds


@pytest.mark.parametrize("num_things, num_stuff", [(2, 2), (3, 0), (1, 2)])
def test_first_class_logits(num_things, num_stuff):
    """Those of the point, one that found an object anew as no object; the rest at the prior."""
    kinds = set()
    for seed, fall_off in itertools.product(range(4), (2.0, 8.0)):  # masks of some cells, or of few
        head = random_head(num_things, num_stuff, num_kernels=100, seed=seed)
        with torch.no_grad():
            head.kernel_proj.bias[-3::2] = fall_off  # the diagonal
        kinds |= check_class_logits(head, num_things, num_stuff)
    # a maximum of its own, one in another's mask, and no maximum; above the prior and below
    assert {(True, False, True), (True, True, True), (False, False, True)} <= kinds
    assert any(not above for _, _, above in kinds)


def test_no_gradient_through_the_first_class_logits():
    """The points learn by a loss of their own."""
    _, prediction, semantic_logits = random_head()(*maps())
    assert not prediction.class_logits.requires_grad
    for learned in (prediction.mask_logits, prediction.points.logits, prediction.kernels):
        assert learned.requires_grad
    assert semantic_logits.requires_grad


def test_stuff_starts_with_the_score_of_the_semantic_branch():
    """Each kernel in its own column; things as without, and no gradient through it."""
    head = random_head(num_things=2, num_stuff=3, num_kernels=6)
    _, without, semantic_logits = head(*maps())
    head.stuff_scores = True
    _, prediction, _ = head(*maps())
    assert not prediction.class_logits.requires_grad
    assert torch.equal(prediction.class_logits[:, :6], without.class_logits[:, :6])
    semantic = semantic_logits.detach().double().numpy()
    for image in range(2):
        exp = np.exp(semantic[image] - semantic[image].max(0))
        probability = exp / exp.sum(0)
        for kernel in range(3):
            for label in range(5):
                expected = PRIOR
                if label == 2 + kernel:
                    p = probability[label].ravel()
                    mean = min(max((p * p).sum() / p.sum(), 0.01), 0.99)
                    expected = math.log(mean / (1 - mean))
                found = float(prediction.class_logits[image, 6 + kernel, label])
                assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_presence_of_a_class():
    """Sure of it in one cell of many is sure; nowhere likely is the prior."""
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = 12.0
    logits[:, :2, 3, 4] = torch.tensor([0.0, 12.0])
    presence = class_presence(logits)[0]
    assert presence[0] > 4 and presence[1] > 4
    assert float(presence[2]) == pytest.approx(PRIOR, rel=1e-5)


def test_one_mask_over_all_leaves_the_strongest_point():
    """The other points found its object again."""
    head = random_head()
    with torch.no_grad():
        head.kernel_proj.weight.zero_()
        head.kernel_proj.bias.zero_()
        head.kernel_proj.bias[-4] = 1.0  # b
        head.kernel_proj.bias[-3::2] = -30.0  # L, to 0
        head.point_proj.bias += 20
        _, prediction, _ = head(*maps())
    assert (prediction.mask_logits[:, :7] > 0).all()
    best = prediction.class_logits[:, :7, :2].amax(2)
    strongest = prediction.points.logits.flatten(1).amax(1)
    assert (strongest > PRIOR + 5).all() and torch.equal(best[:, 0], strongest)
    torch.testing.assert_close(best[:, 1:], torch.full((2, 6), PRIOR))


def test_a_new_head_sees_no_object():
    torch.manual_seed(0)
    head = PointKernelHead(num_thing_classes=3, num_stuff_classes=1, num_kernels=5)
    with torch.no_grad():
        _, prediction, semantic_logits = head(*maps(channels=256))
    for logits in (prediction.points.logits, prediction.class_logits, semantic_logits):
        assert float((logits - PRIOR).abs().max()) < 1


# --- half precision ------------------------------------------------------------------------------


def neighbouring_maxima(head, instance_map, semantic_map):
    """How many of the chosen local maxima are beside another one."""
    with torch.no_grad():
        points = head(instance_map, semantic_map)[1].points
    best = points.logits.amax(1)
    peak = torch.nn.functional.max_pool2d(best, 3, 1, 1) == best
    around = torch.nn.functional.avg_pool2d(peak.float(), 3, 1, 1, divisor_override=1)
    return int((peak & (around > 1.5)).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_points_stay_apart_under_autocast(dtype):
    """Half precision would make equal neighbours of most cells, and each of them a maximum."""
    torch.manual_seed(0)
    head = PointKernelHead(num_thing_classes=1, num_stuff_classes=0, channels=64, num_groups=8)
    smooth = [torch.nn.functional.avg_pool2d(m, 5, 1) for m in maps(1, (68, 68), 64)]
    assert neighbouring_maxima(head, *smooth) == 0
    with torch.autocast("cpu", dtype=dtype):
        assert neighbouring_maxima(head, *smooth) < 20  # of 64 x 64 cells
