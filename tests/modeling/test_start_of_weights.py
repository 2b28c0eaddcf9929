"""How the convolutions of neck and kernel head start."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from torch import nn

from knet.modeling.kernel_head import KernelHead
from knet.modeling.neck import SemanticFPN
from knet.modeling.point_kernel_head import PointKernelHead

SHAPES = {f"p{i}": ShapeSpec(channels=24, stride=2**i) for i in (2, 3, 4, 5)}


def neck(stride=8, seed=3, **options) -> SemanticFPN:
    torch.manual_seed(seed)
    return SemanticFPN(
        SHAPES, in_features=list(SHAPES), channels=64, stride=stride, num_groups=8, **options
    )


def convolutions(module):
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d)}


def check_msra(conv):
    """He et al., by the number of outputs."""
    fan_out = conv.out_channels * math.prod(conv.kernel_size)
    expected = math.sqrt(2 / fan_out)
    assert float(conv.weight.std().detach()) == pytest.approx(expected, rel=0.05)
    assert abs(float(conv.weight.mean().detach())) < 0.05 * expected


def check_normal(conv):
    assert float(conv.weight.std().detach()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(conv.weight.mean().detach())) < 0.0005


def test_the_neck_starts_by_default_as_before():
    """Parameter by parameter: PyTorch's convolution, then a normal distribution in its place."""
    made = neck()
    named = neck(init="normal").state_dict()
    assert made.state_dict().keys() == named.keys()
    assert all(torch.equal(tensor, named[name]) for name, tensor in made.state_dict().items())
    torch.manual_seed(3)
    # stride 4 goes down once, 8 stays, 16 and 32 go up once and twice and have one block more
    blocks = [(24, 3), (24, 3), (24, 3), (64, 3), (24, 3), (64, 3), (64, 3), (64, 1), (64, 1)]
    for conv, (in_channels, size) in zip(convolutions(made).values(), blocks, strict=True):
        expected = nn.Conv2d(in_channels, 64, size, bias=False)
        nn.init.normal_(expected.weight, std=0.01)
        assert torch.equal(conv.weight, expected.weight)
        assert conv.bias is None and (conv.norm.weight == 1).all() and not conv.norm.bias.any()
        check_normal(conv)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_every_convolution_of_the_neck_by_he(stride):
    found = convolutions(neck(stride, init="msra"))
    assert found.keys() == convolutions(neck(stride)).keys()
    for conv in found.values():
        check_msra(conv)


def head(kind):
    torch.manual_seed(4)
    return kind(
        num_thing_classes=40, num_stuff_classes=24, num_kernels=20, channels=128, num_groups=8
    )


def test_a_head_of_points_starts_by_he():
    found = convolutions(head(PointKernelHead))
    for name in ("instance_conv", "semantic_conv", "point_conv", "kernel_conv"):
        check_msra(found[name])


def test_the_published_head_starts_as_before():
    found = convolutions(head(KernelHead))
    for name in ("instance_conv", "semantic_conv", "semantic_kernels"):
        check_normal(found[name])
    assert float(found["instance_kernels"].weight.std().detach()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("kind", [KernelHead, PointKernelHead])
def test_the_last_layers_start_small(kind):
    made = head(kind)
    layers = [made.semantic_kernels]
    if kind is PointKernelHead:
        layers += [made.point_proj, made.kernel_proj]
        assert not made.kernel_proj.bias.any()
    for layer in layers:
        check_normal(layer)
    for layer in layers[:2]:
        torch.testing.assert_close(layer.bias, torch.full_like(layer.bias, -math.log(99)))


@pytest.mark.parametrize("init, check", [("normal", check_normal), ("msra", check_msra)])
def test_the_key(tiny_config, init, check):
    tiny_config.MODEL.FPN.OUT_CHANNELS = tiny_config.MODEL.KNET.CHANNELS = 64
    tiny_config.MODEL.KNET.NECK.INIT = init
    torch.manual_seed(5)
    for conv in convolutions(build_model(tiny_config).neck).values():
        check(conv)
