"""Large masks under fp16 autocast: sums that half precision cannot hold are kept out of it."""

import pytest
import torch

from knet.modeling.criterion import Criterion
from knet.modeling.kernel_update import KernelUpdateHead
from knet.modeling.matcher import Matcher
from knet.modeling.structures import StagePrediction, Targets

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@HALF
def test_update_of_a_kernel_with_a_large_mask(dtype):
    """16,800 cells, the paper's map of stride 8: F^K is about 1e4, its products 1e8."""
    torch.manual_seed(0)
    head = KernelUpdateHead(num_classes=3, channels=16, num_heads=4, feedforward_channels=32)
    feature_map = torch.rand(1, 16, 100, 168)
    kernels = 1e4 * torch.rand(1, 2, 16)
    mask_logits = torch.full((1, 2, 100, 168), 5.0)
    with torch.no_grad():
        expected = head(feature_map, kernels, mask_logits)
        with torch.autocast("cpu", dtype=dtype):
            stage = head(feature_map, kernels, mask_logits)
    assert torch.isfinite(stage.mask_logits).all() and torch.isfinite(stage.class_logits).all()
    # kernels after LayerNorm are of size 1
    torch.testing.assert_close(stage.kernels.float(), expected.kernels, rtol=0, atol=0.1)


@HALF
def test_matching_and_losses_of_a_large_object(dtype):
    """67,200 cells of stride 4: more than fp16 can count."""
    height, width = 200, 336
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, height, width, generator=generator)
    logits[0, 1] += 6
    masks = torch.ones(1, 2, height, width)
    masks[0, 1, :, 100:] = 0
    targets = Targets(
        thing_masks=masks,
        thing_classes=torch.tensor([[0, 1]]),
        num_things=[2],
        stuff_masks=torch.zeros(1, 0, height, width),
        stuff_present=torch.zeros(1, 0, dtype=torch.bool),
    )
    stages = [
        StagePrediction(torch.zeros(1, 3, 4), logits),
        StagePrediction(torch.zeros(1, 3, 4), logits, torch.zeros(1, 3, 2)),
    ]
    semantic_logits = torch.zeros(1, 2, height, width)
    criterion = Criterion(matcher=Matcher(), num_kernels=3, num_thing_classes=2)
    expected = criterion(stages, semantic_logits, targets)
    with torch.autocast("cpu", dtype=dtype):
        losses = criterion(stages, semantic_logits, targets)
    assert losses == expected
