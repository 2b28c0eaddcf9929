"""Gradient checkpointing: less is kept, and nothing else changes."""

import copy

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from knet.data.class_layout import resolve_class_layout
from knet.engine import KNetTrainer
from knet.errors import UsageError
from knet.modeling.kernel_update import KernelUpdateHead
from knet.modeling.recompute import recompute, recompute_as_configured
from tests.modeling.backbones.building import build, image
from tests.modeling.semantic.heads import small_config, training_batch
from tests.tiny_model import training_input

BACKBONE = {"MODEL.BACKBONE.CHECKPOINT": True}
STAGES = {"MODEL.KNET.CHECKPOINT_STAGES": True}
BF16 = pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])


def inputs_of(config, count=1) -> list:
    layout = resolve_class_layout(config)
    return [training_input(np.random.default_rng(i), layout, (64, 96)) for i in range(count)]


def kept_bytes(function) -> int:
    """Of all that is kept for the backward pass, parameters included."""
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive = []  # else another takes its place in memory
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function()
    return sum(storages.values())


def learn(model, inputs, half=False):
    """Losses, gradients and buffers after one step."""
    torch.manual_seed(3)  # dropout
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        losses = model(inputs)
    sum(losses.values()).backward()
    return (
        {name: loss.item() for name, loss in losses.items()},
        {name: p.grad for name, p in model.named_parameters()},
        dict(model.named_buffers()),
    )


def assert_same(plain, saving):
    (losses, grads, buffers), (losses_2, grads_2, buffers_2) = plain, saving
    assert losses == losses_2
    assert all(grad is not None for grad in grads.values())
    assert [name for name in grads if not torch.equal(grads[name], grads_2[name])] == []
    assert [name for name in buffers if not torch.equal(buffers[name], buffers_2[name])] == []


@BF16
def test_panoptic(tiny_config, half):
    """With a BatchNorm that learns its statistics, dropout, and losses on random cells."""
    tiny_config.MODEL.RESNETS.NORM = "BN"
    tiny_config.MODEL.KNET.LOSS.SAMPLED_CELLS = 100
    tiny_config.MODEL.KNET.KERNEL_UPDATE.DROPOUT = 0.2
    plain = KNetTrainer.build_model(tiny_config)
    tiny_config.MODEL.BACKBONE.CHECKPOINT = tiny_config.MODEL.KNET.CHECKPOINT_STAGES = True
    saving = KNetTrainer.build_model(tiny_config)
    saving.load_state_dict(plain.state_dict())
    before = {name: buffer.clone() for name, buffer in plain.named_buffers()}
    inputs = inputs_of(tiny_config, 2)
    result = learn(plain, inputs, half)
    assert_same(result, learn(saving, inputs, half))
    assert sum(not torch.equal(before[n], b) for n, b in result[2].items()) > 20


@BF16
def test_semantic(half):
    cfg = small_config("SemSegFCNHead", "SemanticKNet")
    plain = build_model(cfg)
    saving = copy.deepcopy(plain)
    cfg.MODEL.BACKBONE.CHECKPOINT = cfg.MODEL.KNET.CHECKPOINT_STAGES = True
    recompute_as_configured(saving, cfg)
    inputs = training_batch()
    assert_same(learn(plain, inputs, half), learn(saving, inputs, half))


def test_less_of_the_backbone_is_kept(tiny_config):
    image = torch.rand(1, 3, 64, 96)

    def kept():
        backbone = KNetTrainer.build_model(tiny_config).backbone
        return kept_bytes(lambda: backbone(image))

    plain = kept()
    tiny_config.MODEL.BACKBONE.CHECKPOINT = True
    assert kept() < 0.6 * plain


def test_less_of_a_stage_is_kept():
    head = KernelUpdateHead(num_classes=3, channels=16, num_heads=2, feedforward_channels=256)
    inputs = torch.rand(1, 16, 8, 8), torch.rand(1, 100, 16), torch.rand(1, 100, 8, 8)
    plain = kept_bytes(lambda: head(*inputs))
    recompute(head)
    assert kept_bytes(lambda: head(*inputs)) < 0.6 * plain


def test_nothing_is_computed_again_without_a_gradient():
    calls = []

    class Layer(nn.Module):
        def forward(self, x):
            calls.append(torch.is_grad_enabled())
            return x.square()

    layer = Layer()
    recompute(layer)
    x = torch.ones(2, requires_grad=True)
    layer(x).sum().backward()
    assert calls == [True, True]
    layer.eval()(x).sum().backward()
    with torch.no_grad():
        layer.train()(x)
    assert calls == [True, True, True, False]
    assert copy.deepcopy(layer)(x).tolist() == [1, 1]


def test_one_key_for_swin_too():
    def kept(**keys):
        swin = build("build_swin_backbone", SWIN__DEPTHS=(1, 1, 2, 1), **keys)
        return kept_bytes(lambda: swin(image(64, 64)))

    assert kept(BACKBONE__CHECKPOINT=True) == kept(SWIN__CHECKPOINT=True) < 0.9 * kept()


class TestTimm:
    @pytest.fixture
    def config(self, tiny_config):
        pytest.importorskip("timm")
        tiny_config.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
        tiny_config.MODEL.TIMM.NAME = "resnet18"
        tiny_config.MODEL.BACKBONE.NORM_EVAL = True
        return tiny_config

    def test_same_gradients(self, config):
        inputs = inputs_of(config)
        plain = KNetTrainer.build_model(config)
        config.MODEL.BACKBONE.CHECKPOINT = True
        saving = KNetTrainer.build_model(config)
        saving.load_state_dict(plain.state_dict())
        assert kept_bytes(lambda: saving(inputs)) < 0.9 * kept_bytes(lambda: plain(inputs))
        assert_same(learn(plain, inputs), learn(saving, inputs))

    def test_statistics_that_would_learn_twice(self, config):
        config.MODEL.BACKBONE.CHECKPOINT, config.MODEL.BACKBONE.NORM_EVAL = True, False
        with pytest.raises(UsageError, match=r"resnet18 .*MODEL\.BACKBONE\.NORM_EVAL to True"):
            KNetTrainer.build_model(config)

    def test_a_model_that_cannot(self, config):
        config.MODEL.TIMM.NAME, config.MODEL.BACKBONE.CHECKPOINT = "hrnet_w18_small", True
        with pytest.raises(UsageError, match=r"hrnet_w18_small.*MODEL\.BACKBONE\.CHECKPOINT"):
            KNetTrainer.build_model(config)


def test_a_backbone_of_another_kind():
    cfg = small_config("SemSegFCNHead", "SemanticKNet")
    model = build_model(cfg)
    model.backbone = nn.Conv2d(3, 3, 1)
    cfg.MODEL.BACKBONE.CHECKPOINT = True
    with pytest.raises(UsageError, match=r"MODEL\.BACKBONE\.CHECKPOINT .*not for Conv2d"):
        recompute_as_configured(model, cfg)
