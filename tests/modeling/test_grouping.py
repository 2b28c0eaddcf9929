"""Group assembling: sums of features over what each kernel found."""

import pytest
import torch

from knet.modeling.grouping import group_features, group_transformed_features

from .. import slow_reference as slow


def made_up():
    generator = torch.Generator().manual_seed(0)
    masks = 3 * torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float32)
    features = torch.randn(2, 6, 3, 5, generator=generator)
    return masks, features


def slow_groups(masks, features, threshold):
    """(B, N, C), one pixel after the other."""
    shares = masks.softmax(1) if threshold is None else (masks.sigmoid() > threshold).float()
    sums = torch.zeros(*masks.shape[:2], features.shape[1], dtype=features.dtype)
    for b in range(len(masks)):
        for y, x in slow.pixels_of(masks[b, 0]):
            sums[b] = sums[b] + shares[b, :, y, x, None] * features[b, :, y, x]
    return sums


@pytest.mark.parametrize("threshold", [None, 0.5, 0.2])
@pytest.mark.parametrize("learns", ["nothing", "features", "masks", "both"])
def test_sums_and_gradients(learns, threshold):
    """Whatever learns; a decision by a threshold teaches the masks nothing."""
    masks, features = made_up()
    weight = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    found = []
    for group in (slow_groups, group_features):
        m = masks.clone().requires_grad_(learns in ("masks", "both"))
        f = features.clone().requires_grad_(learns in ("features", "both"))
        sums = group(m, f, threshold)
        if sums.requires_grad:
            (sums * weight).sum().backward()
        found.append((sums.detach(), m.grad, f.grad))
    for expected, result in zip(*found):
        if expected is None:
            assert result is None
        else:
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_convolution_before_is_a_product_behind(threshold):
    masks, features = made_up()
    convolution = torch.nn.Conv2d(6, 6, 1)
    expected = group_features(masks, convolution(features), threshold)
    found = group_transformed_features(masks, features, convolution, threshold)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_sums_are_in_single_precision():
    """That over a large mask is beyond half precision's numbers."""
    masks, features = torch.full((1, 1, 300, 300), 5.0), torch.ones(1, 2, 300, 300)
    features.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = group_features(masks, features.bfloat16())
    assert sums.dtype == torch.float32 and sums.flatten().tolist() == [90000, 90000]


def test_autocast_around_the_backward_pass_rounds_nothing():
    learned = [x.requires_grad_() for x in made_up()]
    gradients = []
    for enabled in (False, True):
        loss = group_features(*learned, None).square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad(loss, learned))
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_program_is_made_of_pytorchs_own(threshold):
    masks, features = (x.requires_grad_() for x in made_up())

    def group(masks, features):
        return group_features(masks, features, threshold)

    expected = group(masks, features)
    torch.testing.assert_close(torch.jit.trace(group, (masks, features))(masks, features), expected)
    compiled = torch.compile(group, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(masks, features), expected)
