"""Group features: in half precision, and of a transformed map."""

import numpy as np
import pytest
import torch

from knet.modeling.grouping import group_features, group_transformed_features, kernels_before


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_group_features_do_not_overflow(dtype, autocast):
    """Sums far beyond float16's 65504 equal the float64 sum of the same numbers."""
    rng = np.random.default_rng(15)
    features = torch.from_numpy(rng.uniform(1e4, 6e4, size=(2, 3, 40, 50))).to(dtype)
    mask_logits = torch.from_numpy(rng.normal(size=(2, 4, 40, 50))).to(dtype)
    mask_logits[:, 0] = 30  # the whole map
    mask_logits[:, 1] = 0  # probability 0.5 is not above 0.5
    features.requires_grad_()
    mask_logits.requires_grad_()
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        found = group_features(mask_logits, features)
    assert found.dtype == torch.float32 and found.shape == (2, 4, 3)
    for image in range(2):
        for kernel in range(4):
            inside = mask_logits[image, kernel] > 0
            for channel in range(3):
                expected = float(features[image, channel].detach()[inside].double().sum())
                assert float(found[image, kernel, channel].detach()) == pytest.approx(
                    expected, rel=1e-5
                )
    assert float(found[:, 0].detach().min()) > 65504
    assert not found[:, 1].detach().any()
    found[0, 0, 0].backward()
    assert mask_logits.grad is None  # no gradient through the mask
    assert features.grad[0, 0].eq(1).all() and not features.grad[1].any()


@pytest.mark.parametrize("threshold", [0.5, None])
def test_a_transform_before_or_after_the_sum(threshold):
    """Features and masks of a transformed map, and all gradients, without that map."""
    torch.manual_seed(0)
    transform = torch.nn.Conv2d(6, 6, 1)
    mask_logits = torch.randn(2, 5, 7, 9, requires_grad=True)
    feature_map = torch.randn(2, 6, 7, 9, requires_grad=True)
    kernels = torch.randn(2, 5, 6, requires_grad=True)
    learned = [feature_map, kernels, *transform.parameters()]
    if threshold is None:  # through which no gradient flows
        learned.append(mask_logits)
    weights = torch.randn(2, 5, 6), torch.randn(2, 5, 7, 9)

    def with_gradients(group_feature, masks):
        total = (group_feature * weights[0]).sum() + (masks * weights[1]).sum()
        return group_feature, masks, torch.autograd.grad(total, learned)

    before, bias = kernels_before(kernels, transform)
    found = with_gradients(
        group_transformed_features(mask_logits, feature_map, transform, threshold),
        torch.einsum("bnc,bchw->bnhw", before, feature_map) + bias[..., None],
    )
    expected = with_gradients(
        group_features(mask_logits, transform(feature_map), threshold),
        torch.einsum("bnc,bchw->bnhw", kernels, transform(feature_map)),
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
