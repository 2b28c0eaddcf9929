"""The semantic branch without the blocks between the pyramid's sum and its classifier."""

import math

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model

from knet.modeling.kernel_head import KernelHead
from knet.modeling.neck import SemanticFPN
from knet.modeling.point_kernel_head import PointKernelHead

from ..tiny_model import training_input

SHAPES = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in (2, 3, 4)}


def test_the_semantic_map_is_the_sum_of_the_levels():
    torch.manual_seed(0)
    neck = SemanticFPN(
        SHAPES, in_features=list(SHAPES), channels=8, num_groups=2, semantic_blocks=False
    )
    assert not [name for name in neck.state_dict() if name.startswith("semantic_conv")]
    features = {f"p{i}": torch.randn(2, 8, 2 ** (6 - i), 2 ** (7 - i)) for i in (2, 3, 4)}
    added = []
    for level in neck.levels:
        level.register_forward_hook(lambda module, inputs, output: added.append(output))
    with torch.no_grad():
        instance_map, semantic_map = neck(features)
        assert len(added) == 3
        torch.testing.assert_close(semantic_map, added[0] + added[1] + added[2])
        torch.testing.assert_close(instance_map, neck.instance_conv(semantic_map))


@pytest.mark.parametrize("kind", [KernelHead, PointKernelHead])
def test_the_classifier_reads_the_semantic_map(kind):
    torch.manual_seed(1)
    head = kind(
        num_thing_classes=40,
        num_stuff_classes=24,
        num_kernels=5,
        channels=64,
        num_groups=8,
        semantic_blocks=False,
    )
    weight, bias = head.semantic_kernels.weight.detach(), head.semantic_kernels.bias.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    torch.testing.assert_close(bias, torch.full((64,), -math.log(99)))
    maps = torch.randn(2, 2, 64, 6, 9).unbind()
    with torch.no_grad():
        feature_map, prediction, semantic_logits = head(*maps)
        expected = torch.einsum("kc,bchw->bkhw", weight[:, :, 0, 0], maps[1]) + bias[:, None, None]
        torch.testing.assert_close(semantic_logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(prediction.mask_logits[:, 5:], semantic_logits[:, 40:])
        torch.testing.assert_close(feature_map, head.instance_conv(maps[0]) + maps[1])


@pytest.mark.parametrize("kind", ["KernelHead", "PointKernelHead"])
def test_the_key(tiny_config, kind):
    """A model of it learns in all its parts."""
    knet = tiny_config.MODEL.KNET
    knet.SEMANTIC_BLOCKS, knet.KERNEL_HEAD.NAME = False, kind
    torch.manual_seed(2)
    model = build_model(tiny_config).train()
    names = dict(model.named_parameters())
    assert not [name for name in names if "semantic_conv" in name]
    layout = model.target_builder.layout
    losses = model([training_input(np.random.default_rng(0), layout, (48, 64))])
    sum(losses.values()).backward()
    of_levels = [p for name, p in names.items() if name.startswith(("neck.", "kernel_head."))]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in of_levels)
