"""Weights in containers and under names that wrappers have lengthened."""

import logging

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

from knet.checkpoint import from_official
from knet.checkpoint.convert import convert_file
from knet.checkpoint.recognize import find_weights
from knet.engine.checkpointer import KNetCheckpointer
from knet.errors import UsageError
from tests.checkpoint import key_lists, models
from tests.checkpoint.models import FCN, PANOPTIC
from tests.tiny_model import tiny_model

PLAIN, AVERAGE = tiny_model(seed=1), tiny_model(seed=2)


def weights(model=PLAIN):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def inside(part, state):
    """``part`` as a wrapper around the backbone and around an update head."""
    names = {name: name for name in state}
    for owner in ("backbone.", "kernel_update_heads.1."):
        names = {name: new.replace(owner, f"{owner}{part}.", 1) for name, new in names.items()}
    return {names[name]: tensor for name, tensor in state.items()}


def flat(state):
    """As mmcv names averages."""
    return {f"ema_{name.replace('.', '_')}": tensor for name, tensor in state.items()}


def loaded(content, tmp_path, caplog, model=None):
    """(the model that has the weights of a file, what was logged)"""
    caplog.clear()
    caplog.set_level(logging.INFO)
    model = tiny_model(seed=3) if model is None else model
    path = tmp_path / "weights.ckpt"
    torch.save(content, path)
    checkpointer = KNetCheckpointer(model)
    checkpointer.complete = True
    checkpointer.load(str(path))
    return model, caplog.text


def averaged_by_torch():
    average = AveragedModel(PLAIN)
    average.update_parameters(PLAIN)
    return average.state_dict()


LIGHTNING = {"epoch": 3, "hyper_parameters": {"weight": torch.ones(2)}, "optimizer_states": []}
WRAPPED = {
    "compiled": under("_orig_mod.", weights()),
    "compiled, in parallel": under("module._orig_mod.", weights()),
    "in parallel, compiled": under("_orig_mod.module.", weights()),
    "parts compiled": inside("_orig_mod", weights()),
    "parts in parallel, all compiled": under("_orig_mod.", inside("module", weights())),
    "sharded": under("_fsdp_wrapped_module.", inside("_fsdp_wrapped_module", weights())),
    "recomputed parts": inside("_checkpoint_wrapped_module", weights()),
    "averaged": averaged_by_torch(),
    "averaged and compiled": {**under("module._orig_mod.", weights()), "n_averaged": torch.ones(1)},
    "another module's part": {**under("model.", weights()), "criterion.weight": torch.ones(3)},
    "a part of any name": under("knet.segmentor.", weights()),
    "averages with a dot": under("ema.", weights()),
    "averages without": under("ema_", weights()),
    "averages of mmcv": flat(weights()),
}


@pytest.mark.parametrize("state", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize(
    "contain",
    [
        lambda state: state,
        lambda state: {"model": state, "iteration": 9},
        lambda state: {"state_dict": state, **LIGHTNING},
        lambda state: {"model": "knet", "checkpoint": {"state_dict": state}},
    ],
    ids=["alone", "Detectron2", "Lightning", "deeper"],
)
def test_wrapped_weights_are_those_of_the_model(state, contain, tmp_path, caplog):
    model, log = loaded(contain(state), tmp_path, caplog)
    models.assert_same(model, PLAIN)
    assert "names without '" in log and "0 are left over" in log


@pytest.mark.parametrize("key", ["model_ema", "ema_state_dict", "state_dict_ema", "ema"])
def test_averages_alone_are_taken(key, tmp_path, caplog):
    model, log = loaded({key: under("module.", weights()), "epoch": 1}, tmp_path, caplog)
    models.assert_same(model, PLAIN)
    assert f"averaged weights, from '{key}'" in log


BOTH = {
    "timm": {"model": weights(), "model_ema": weights(AVERAGE)},
    "mmengine": {"state_dict": weights(), "ema_state_dict": under("module.", weights(AVERAGE))},
    "torch": {"average": {**under("module.", weights(AVERAGE)), "n_averaged": 1}, **weights()},
    "mmcv": {"state_dict": {**flat(weights(AVERAGE)), **weights()}},
    "Lightning": {
        "state_dict": {
            **under("ema_model.module.", weights(AVERAGE)),
            **under("model.", weights()),
        }
    },
    "Unbiased Teacher": {
        "model": {**under("modelTeacher.", weights(AVERAGE)), **under("modelStudent.", weights())}
    },
    "other than averages": {"model": weights(), "model_best": weights(AVERAGE)},
    "numbers among the keys": {0: {"lr": 0.1}, "model": weights(), "ema": weights(AVERAGE)},
    "two networks": {"teacher": weights(AVERAGE), "student": under("module.", weights())},
}


@pytest.mark.parametrize("content", BOTH.values(), ids=BOTH)
def test_of_weights_and_their_averages_the_weights_are_taken_and_it_is_said(
    content, tmp_path, caplog
):
    model, log = loaded(content, tmp_path, caplog)
    models.assert_same(model, PLAIN)
    assert "is there too and not taken" in log


def test_averages_of_a_whole_model_rather_than_a_part_of_the_weights(tmp_path, caplog):
    part = {name: t for name, t in weights().items() if name.startswith("backbone.")}
    content = {"model": part, "model_ema": weights(AVERAGE)}
    model, log = loaded(content, tmp_path, caplog)
    models.assert_same(model, AVERAGE)
    assert "averaged weights" in log


def test_usual_weights_are_not_commented(tmp_path, caplog):
    for content in ({"model": weights()}, weights(), {"state_dict": weights()}):
        model, log = loaded(content, tmp_path, caplog)
        models.assert_same(model, PLAIN)
        assert "Detectron2: " in log


class Holder(nn.Module):
    """A model whose modules are called as wrappers are."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.model = nn.ModuleDict({"module": nn.Linear(2, 2), "net": nn.Linear(2, 2)})
        self.net = nn.Linear(2, 2)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module.", "net."])
def test_a_module_that_is_called_as_a_wrapper_keeps_its_name(prefix, tmp_path, caplog):
    theirs = Holder(1)
    model, _ = loaded(under(prefix, theirs.state_dict()), tmp_path, caplog, Holder(2))
    models.assert_same(model, theirs)


# ----------------------------------------------------------------------------------- backbones

with torch.device("meta"):
    RESNET, ITS_AVERAGE = (torchvision.models.resnet50().state_dict() for _ in range(2))
BACKBONES = {
    "in parallel": under("module.", RESNET),
    "MoCo": {
        **under("module.encoder_k.", ITS_AVERAGE),
        **under("module.encoder_q.", RESNET),
        "module.queue": torch.empty(128, 9),
    },
    "MoCo v3": {
        **under("module.base_encoder.", RESNET),
        **under("module.momentum_encoder.", ITS_AVERAGE),
    },
    "BYOL": {**under("target_net.encoder.", ITS_AVERAGE), **under("online_net.encoder.", RESNET)},
    "a detector": {**under("backbone.body.", RESNET), "rpn.head.conv.weight": torch.empty(3)},
}


@pytest.mark.parametrize("state", BACKBONES.values(), ids=BACKBONES)
def test_a_backbone_that_was_trained_in_another_model(state):
    model, _ = from_official(key_lists.official("det__knet__knet_s3_r50_fpn_1x_coco-panoptic"))
    found = find_weights({"state_dict": state}, model)
    assert all(found.state_dict[name] is tensor for name, tensor in RESNET.items())
    has_average = any(tensor is ITS_AVERAGE["conv1.weight"] for tensor in state.values())
    assert len(found.passed_over) == has_average and not found.averaged


# ------------------------------------------------------------------------------ official weights


@pytest.mark.parametrize("config", [PANOPTIC, FCN])
@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module.", "any.name."])
def test_wrapped_official_weights(config, prefix, tmp_path, caplog):
    theirs = models.build(config, seed=0)
    path = models.save_official(tmp_path / "official.pth", theirs.state_dict())
    state = under(prefix, torch.load(path, weights_only=False)["state_dict"])
    model, log = loaded({"state_dict": state}, tmp_path, caplog, models.build(config, seed=1))
    models.assert_same(model, theirs)
    assert "an official model" in log and f"names without '{prefix}'" in log


def test_official_averages_alone(tmp_path, caplog):
    theirs = models.build(PANOPTIC, seed=0)
    path = models.save_official(tmp_path / "official.pth", theirs.state_dict())
    state = flat(torch.load(path, weights_only=False)["state_dict"])
    model, log = loaded({"state_dict": state}, tmp_path, caplog, models.build(PANOPTIC, seed=1))
    models.assert_same(model, theirs)
    assert "averaged weights" in log


def test_wrapped_official_weights_are_converted_without_a_model(tmp_path):
    theirs = models.build(PANOPTIC, seed=0)
    path = models.save_official(tmp_path / "official.pth", theirs.state_dict())
    state = under("_orig_mod.", torch.load(path, weights_only=False)["state_dict"])
    models.save(tmp_path / "wrapped.pth", state)
    convert_file(str(tmp_path / "wrapped.pth"), str(tmp_path / "ours.pth"), "knet")
    converted = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    assert all(torch.equal(converted[n], t) for n, t in theirs.state_dict().items())


# ------------------------------------------------------------------------------------- refused


def test_another_model_is_refused_however_wrapped(tmp_path, caplog):
    content = {"state_dict": {"model.layer.weight": torch.ones(2, 2)}, **LIGHTNING}
    with pytest.raises(UsageError, match="holds no weight that this model has"):
        loaded(content, tmp_path, caplog)


@pytest.mark.parametrize(
    "content", [{"model": {}}, {"optimizer": {"state": weights()}}, {"ema": 3}]
)
def test_a_file_without_weights(content):
    with pytest.raises(ValueError, match="no state dict"):
        find_weights(content)
