"""Stages that add to the masks and class logits of the stage before."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from knet.modeling.kernel_head import KernelHead
from knet.modeling.kernel_update import KernelUpdateHead
from knet.modeling.point_kernel_head import PointKernelHead

from .. import slow_reference as slow
from ..tiny_model import LAYOUT, tiny_model

PRIOR = -math.log(99)


def stage(num_classes=3, channels=16, seed=0, **options) -> KernelUpdateHead:
    torch.manual_seed(seed)
    return KernelUpdateHead(
        num_classes=num_classes,
        channels=channels,
        num_heads=2,
        feedforward_channels=24,
        **options,
    )


def zero_last_layers(head: KernelUpdateHead) -> None:
    for layer in (head.mask_proj, head.class_proj):
        if layer is not None:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def inputs(size=(6, 7), mask_size=None, num_classes=3):
    """Feature map, kernels, masks and class logits of the stage before."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 16, *size), (2, 5, 16), (2, 5, *(mask_size or size)), (2, 5, num_classes)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_a_stage_that_has_learned_nothing_changes_nothing():
    head = stage(residual=True)
    zero_last_layers(head)
    feature_map, kernels, mask_logits, class_logits = inputs()
    prediction = head(feature_map, kernels, mask_logits, class_logits)
    assert torch.equal(prediction.mask_logits, mask_logits)
    assert torch.equal(prediction.class_logits, class_logits)
    assert not torch.equal(prediction.kernels, kernels)


def test_class_logits_start_at_the_prior():
    """Where the stage before has none."""
    head = stage(residual=True)
    zero_last_layers(head)
    feature_map, kernels, mask_logits, _ = inputs()
    prediction = head(feature_map, kernels, mask_logits)
    assert prediction.class_logits.shape == (2, 5, 3)
    assert prediction.class_logits.flatten().tolist() == pytest.approx([PRIOR] * 30, rel=1e-6)
    assert pytest.approx(-4.595, abs=1e-3) == PRIOR


def test_a_stage_adds_what_another_would_give():
    """Of the same weights: masks and class logits differ by those of the stage before."""
    head, plain = stage(residual=True), stage(seed=1)
    nn.init.normal_(head.mask_proj.weight)
    plain.load_state_dict(head.state_dict())
    given = inputs()
    added, anew = head(*given), plain(*given)
    assert torch.equal(added.kernels, anew.kernels)
    torch.testing.assert_close(added.mask_logits, given[2] + anew.mask_logits)
    torch.testing.assert_close(added.class_logits, given[3] + anew.class_logits)
    assert float(anew.mask_logits.detach().abs().mean()) > 0.1
    assert torch.equal(anew.class_logits, plain(*given[:3]).class_logits)


@pytest.mark.parametrize("mask_size", [(12, 14), (3, 4)])
def test_masks_of_another_size_are_resized_first(mask_size):
    head = stage(residual=True)
    zero_last_layers(head)
    feature_map, kernels, mask_logits, class_logits = inputs(mask_size=mask_size)
    prediction = head(feature_map, kernels, mask_logits, class_logits)
    assert prediction.mask_logits.shape == (2, 5, 6, 7)
    for image in range(2):
        for kernel in range(5):
            expected = slow.bilinear(mask_logits[image, kernel].double().numpy(), (6, 7))
            found = prediction.mask_logits[image, kernel].detach()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_stage_without_classes():
    head = stage(num_classes=None, mask_threshold=None, residual=True)
    zero_last_layers(head)
    feature_map, kernels, mask_logits, _ = inputs()
    prediction = head(feature_map, kernels, mask_logits)
    assert torch.equal(prediction.mask_logits, mask_logits) and prediction.class_logits is None


@pytest.mark.parametrize("xavier_init", [True, False])
def test_a_new_residual_stage_changes_little(xavier_init):
    head = stage(num_classes=80, channels=128, residual=True, xavier_init=xavier_init)
    for layer in (head.mask_proj, head.class_proj):
        assert not layer.bias.any()
        assert float(layer.weight.std().detach()) == pytest.approx(0.01, rel=0.05)
        assert abs(float(layer.weight.mean().detach())) < 0.001


def test_another_new_stage_starts_as_before():
    head = stage(num_classes=80, channels=128)
    assert head.class_proj.bias.tolist() == pytest.approx([PRIOR] * 80, rel=1e-6)
    xavier = math.sqrt(2 / (128 + 128))
    assert float(head.mask_proj.weight.std().detach()) == pytest.approx(xavier, rel=0.05)


@pytest.mark.parametrize("kernel_head", [KernelHead, PointKernelHead])
def test_every_stage_of_a_model_adds_to_the_one_before(kernel_head):
    """With stages that have learned nothing the last prediction is the kernel head's."""
    model = tiny_model(kernel_head=kernel_head, residual=True).eval()
    for head in model.kernel_update_heads:
        zero_last_layers(head)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        (first, *others), _ = model.predict(model.backbone(images))
    assert len(others) == 3
    classes = first.class_logits
    if classes is None:
        rows = model.kernel_head.num_kernels + LAYOUT.num_stuff
        classes = torch.full((2, rows, len(LAYOUT.ids)), PRIOR)
    for prediction in others:
        assert torch.equal(prediction.mask_logits, first.mask_logits)
        torch.testing.assert_close(prediction.class_logits, classes, rtol=1e-6, atol=0)
