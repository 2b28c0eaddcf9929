"""BatchNorm with kept statistics: folded where it saves memory, the same to rounding."""

import copy
import pickle

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

from knet.modeling.frozen_norm import fold_frozen_norms, keep_statistics
from tests.modeling.test_recompute import kept_bytes


def layers(norm=nn.BatchNorm2d, bias=False) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        Conv2d(4, 8, 3, stride=2, padding=1, bias=bias, norm=norm(8), activation=F.relu_),
        Conv2d(8, 8, 1, bias=bias, norm=norm(8)),
        Conv2d(8, 512, 3, bias=bias, norm=norm(512), activation=F.relu),
    )
    for conv in model:
        for tensor in (conv.norm.weight, conv.norm.bias, conv.norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(conv.norm.running_var, 0.1, 3)
    return model.double()


def learn(model, x) -> dict:
    (model(x).sin() ** 2).sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("bias", [False, True])
def test_results_and_gradients_are_the_same(bias):
    plain = layers(bias=bias)
    folding = copy.deepcopy(plain)
    fold_frozen_norms(folding)
    keep_statistics(plain)
    keep_statistics(folding)
    x = torch.rand(2, 4, 40, 60, dtype=torch.float64)
    torch.testing.assert_close(folding(x), plain(x))
    grads, expected = learn(folding, x), learn(plain, x)
    assert expected.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name])
    assert folding.state_dict().keys() == plain.state_dict().keys()


def test_inputs_of_folded_norms_are_not_kept():
    plain = layers()
    folding = copy.deepcopy(plain)
    fold_frozen_norms(folding)
    keep_statistics(plain)
    keep_statistics(folding)
    x = torch.rand(2, 4, 200, 300, dtype=torch.float64)
    outputs = 2 * (2 * 8 * 100 * 150) * 8 + (2 * 512 * 98 * 148) * 8  # of the three convolutions
    saved = kept_bytes(lambda: plain(x)) - kept_bytes(lambda: folding(x))
    assert saved > 0.9 * outputs


def test_small_maps_norms_that_learn_and_inference_are_left_alone():
    """Not even their rounding changes."""
    plain = layers()
    folding = copy.deepcopy(plain)
    fold_frozen_norms(folding)
    x = torch.rand(2, 4, 40, 60, dtype=torch.float64)
    assert torch.equal(plain(x), folding(x))
    assert torch.equal(plain[0].norm.running_mean, folding[0].norm.running_mean)
    keep_statistics(plain)
    keep_statistics(folding)
    small = x[:1, :, :7, :7]
    assert torch.equal(plain(small), folding(small))
    with torch.no_grad():
        assert torch.equal(plain(x), folding(x))


def test_norms_that_learn_nothing_are_left_alone():
    """Detectron2's FrozenBatchNorm2d keeps nothing of its input."""
    model = layers(norm=FrozenBatchNorm2d)
    fold_frozen_norms(model)
    assert {type(conv) for conv in model} == {Conv2d}


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_norms_without_scale_or_statistics_are_left_alone(options):
    conv = Conv2d(4, 8, 1, norm=nn.BatchNorm2d(8, **options))
    plain = copy.deepcopy(conv)
    for each in (conv, plain):
        keep_statistics(each)
    fold_frozen_norms(conv)
    x = torch.rand(1, 4, 40, 60)
    assert torch.equal(conv(x), plain(x))


def test_a_folding_model_can_be_pickled():
    model = layers()
    fold_frozen_norms(model)
    keep_statistics(model)
    x = torch.rand(1, 4, 40, 60, dtype=torch.float64)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
