"""The pyramid's finest output and what reads it, as one convolution."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.backbone import FPN, Backbone
from torch import nn
from torch.nn import functional as F

from knet.modeling import merged_convs
from knet.modeling.merged_convs import merge_finest_level
from knet.modeling.neck import SemanticFPN

LEVELS = {"res2": 4, "res3": 8, "res4": 16}


class Patches(Backbone):
    """One convolution a level."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleDict({k: nn.Conv2d(3, 6, s, stride=s) for k, s in LEVELS.items()})

    def output_shape(self):
        return {k: ShapeSpec(channels=6, stride=stride) for k, stride in LEVELS.items()}

    def forward(self, images):
        return {name: conv(images) for name, conv in self.convs.items()}


class OwnNeck(SemanticFPN):
    pass


def pyramid_and_neck(norm="", stride=8, neck=SemanticFPN) -> nn.Sequential:
    torch.manual_seed(0)
    pyramid = FPN(Patches(), list(LEVELS), 8, norm=norm)
    names = ["p2", "p3", "p4"]
    both = nn.Sequential(
        pyramid,
        neck(pyramid.output_shape(), in_features=names, channels=8, stride=stride, num_groups=2),
    )
    for conv in (m for m in both.modules() if isinstance(m, Conv2d) and m.bias is not None):
        nn.init.normal_(conv.bias)
    return both


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(merged_convs, "_CELLS_A_CHANNEL", 1)
    return pyramid_and_neck()


@pytest.fixture
def merged(plain):
    merged = copy.deepcopy(plain)
    merge_finest_level(*merged)
    return merged


@pytest.fixture
def calls(monkeypatch):
    """The inputs that are convolved with merged weights."""
    calls, compute = [], merged_convs.merged_convs
    monkeypatch.setattr(
        merged_convs, "merged_convs", lambda x, *args: calls.append(x) or compute(x, *args)
    )
    return calls


@pytest.mark.parametrize("biases", [(True, False), (False, True)])
@pytest.mark.parametrize("size", [(6, 10), (2, 2)])
def test_one_convolution_is_two(biases, size):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, first, second = random(2, 3, *size), random(4, 3, 3, 3), random(5, 4, 3, 3)
    bias, next_bias = (random(n) if wanted else None for n, wanted in zip((4, 5), biases))
    two = F.conv2d(F.conv2d(x, first, bias, padding=1), second, next_bias, stride=2, padding=1)
    one = merged_convs.merged_convs(x, first, bias, second, next_bias)
    torch.testing.assert_close(one, two)
    inputs = [tensor for tensor in (x, first, second, bias, next_bias) if tensor is not None]
    weights = torch.randn(two.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad((one * weights).sum(), inputs),
        torch.autograd.grad((two * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_it_learns_the_same(plain, merged, calls):
    images = torch.rand(2, 3, 64, 96)
    gradients = []
    for model in (plain, merged):
        maps = model(images)
        gradients.append(torch.autograd.grad(sum(m.sin().sum() for m in maps), model.parameters()))
    assert len(calls) == 1
    for (name, _), ours, theirs in zip(merged.named_parameters(), *gradients, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max(), name
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_what_it_predicts_stays_as_it_was(plain, merged, calls):
    with torch.no_grad():
        images = torch.rand(1, 3, 64, 96)
        for ours, before in zip(merged(images), plain(images), strict=True):
            assert torch.equal(ours, before)
    assert not calls


def test_in_inference_each_is_computed_in_its_place(plain, merged, calls):
    """Whoever looks at the pyramid's levels, with or without gradients, sees them whole."""
    images = torch.rand(1, 3, 64, 96)
    ours, before = (model.eval()[0](images) for model in (merged, plain))
    assert ours.keys() == before.keys()
    assert all(torch.equal(ours[name], before[name]) for name in before)
    assert torch.equal(merged[1](ours)[0], plain[1](before)[0])
    assert not calls


def test_a_copy_computes_with_its_own_weights(merged):
    images = torch.rand(1, 3, 64, 96)
    other = copy.deepcopy(merged)
    before = other(images)[0]
    nn.init.zeros_(merged[0].fpn_output2.weight)
    assert torch.equal(other(images)[0], before)
    assert not torch.allclose(merged(images)[0], before)


@pytest.mark.parametrize("size", [(4, 4), (64, 92)], ids=["few cells", "an odd side"])
def test_where_it_does_not_pay_both_are_computed(plain, merged, calls, size, monkeypatch):
    x = torch.rand(1, 8, size[0] // 4, size[1] // 4)
    conv = plain[1].levels[0].conv0
    monkeypatch.setattr(merged_convs, "_CELLS_A_CHANNEL", 2)
    assert torch.equal(merged[1].levels[0].conv0(x), conv(plain[0].fpn_output2(x)))
    assert not calls


@pytest.mark.parametrize("options", [{"norm": "GN"}, {"stride": 4}, {"neck": OwnNeck}])
def test_other_parts_are_left_alone(options):
    if "norm" in options:
        options = {"norm": lambda channels: nn.GroupNorm(2, channels)}
    model = pyramid_and_neck(**options)
    merge_finest_level(*model)
    convs = [m for m in model.modules() if isinstance(m, Conv2d)]
    assert convs and all(type(conv) is Conv2d for conv in convs)
