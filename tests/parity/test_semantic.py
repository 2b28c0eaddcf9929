"""The semantic heads and kernel update on them agree with the authors' implementation."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from knet.checkpoint import to_official
from knet.modeling.kernel_update import KernelUpdateHead
from knet.modeling.semantic import (
    KNetSemSegHead,
    SemSegASPPHead,
    SemSegFCNHead,
    SemSegPSPHead,
    SemSegUPerHead,
)

from . import recorded

HEADS = {
    "fcn": SemSegFCNHead,
    "pspnet": SemSegPSPHead,
    "deeplabv3": SemSegASPPHead,
    "upernet": SemSegUPerHead,
}
LEVELS = ["res2", "res3", "res4", "res5"]
COMMON = {"num_classes": 7, "norm": "BN", "dropout": 0.0}


def build(name, recording, device):
    """The recorded head with kernel update and auxiliary head, without dropout."""
    shape = {
        level: ShapeSpec(channels=feature.shape[1], stride=stride)
        for level, feature, stride in zip(
            LEVELS, recording["inputs"]["feats"], recording["strides"], strict=True
        )
    }
    levels = LEVELS if name == "upernet" else ["res5"]
    head = KNetSemSegHead(
        HEADS[name](shape, in_features=levels, channels=32, **COMMON),
        [
            KernelUpdateHead(
                num_classes=None,
                channels=32,
                update_channels=32 if name == "upernet" else 16,
                num_heads=4,
                feedforward_channels=64,
                mask_threshold=None,
                xavier_init=False,
            )
            for _ in range(3)
        ],
        num_classes=7,
        auxiliary_head=SemSegFCNHead(
            shape, in_features=["res4"], channels=16, num_convs=1, fuse_input=False, **COMMON
        ),
    )
    recorded.load_official(head, official_weights(recording), "sem_seg_head.")
    return head.to(device)


def official_weights(recording):
    return {
        **{f"decode_head.{k}": v for k, v in recording["state_dict"].items()},
        **{f"auxiliary_head.{k}": v for k, v in recording["aux_state_dict"].items()},
    }


def features(recording, device):
    return {k: v.to(device) for k, v in zip(LEVELS, recording["inputs"]["feats"])}


@pytest.mark.parametrize("name", HEADS)
def test_logits_and_kernels_of_every_stage(name, device):
    recording = recorded.load(f"seg_{name}.pt")
    head = build(name, recording, device).eval()
    inputs = features(recording, device)
    with torch.no_grad():
        first, *stages = head.predict(inputs)
        auxiliary = head.auxiliary_head.layers(inputs)
        at_image_size, _ = head(inputs)
    allowed = recorded.tolerance(device, 1e-5)
    expected = recording["test"]
    generated = expected["kernel_generate"]
    assert recorded.relative_error(first.mask_logits, generated["seg_logits"]) < allowed
    assert recorded.relative_error(first.kernels, generated["seg_kernels"].flatten(2)) == 0
    for stage, wanted in zip(stages, expected["stages"], strict=True):
        assert recorded.relative_error(stage.mask_logits, wanted["seg_logits"]) < allowed
        assert recorded.relative_error(stage.kernels, wanted["seg_kernels"].flatten(2)) < allowed
    assert recorded.relative_error(stages[-1].mask_logits, expected["logits"]) < allowed
    assert recorded.relative_error(auxiliary, expected["aux_logits"]) < allowed
    labels, wanted = at_image_size.argmax(1).cpu(), expected["probs_argmax_at_image_size"]
    if device.type == "cpu":
        assert torch.equal(labels, wanted)
    else:
        assert (labels == wanted).float().mean() > 0.999


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
@pytest.mark.parametrize("name", HEADS)
def test_losses_gradients_and_statistics(name, batch_norm, device):
    recording = recorded.load(f"seg_{name}.pt")
    head = build(name, recording, device).train()
    if batch_norm == "eval":
        for module in head.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    expected = recording[f"train_bn_{batch_norm}"]
    labels = recording["inputs"]["gt_semantic_seg"][:, 0].to(device)
    losses = head(features(recording, device), labels)[1]
    allowed = recorded.tolerance(device, 1e-6)
    for stage in range(4):
        wanted = expected["losses"][f"decode.loss_ce.s{stage}"]
        assert float(losses[f"loss_semantic_{stage}"]) == pytest.approx(wanted, rel=allowed)
    wanted = expected["losses"]["aux.loss_ce"]
    assert float(losses["loss_auxiliary"]) == pytest.approx(wanted, rel=allowed)

    sum(losses.values()).backward()
    ours, unknown = to_official({f"sem_seg_head.{n}": p.grad for n, p in head.named_parameters()})
    theirs = {
        **{f"decode_head.{k}": v for k, v in expected["grad_norms"].items()},
        **{f"auxiliary_head.{k}": v for k, v in expected["aux_grad_norms"].items()},
    }
    assert not unknown and ours.keys() == theirs.keys()
    allowed = recorded.tolerance(device, 2e-5, 1e-2)
    for key, wanted in theirs.items():
        if not key.endswith("fc_mask.bias"):  # shifts every mask alike: its true gradient is 0
            assert float(ours[key].norm()) == pytest.approx(wanted, rel=allowed), key

    ours, _ = to_official({f"sem_seg_head.{n}": b for n, b in head.state_dict().items()})
    for key, wanted in expected.get("buffers_after", {}).items():
        error = recorded.relative_error(ours[f"decode_head.{key}"], wanted)
        assert error < recorded.tolerance(device, 1e-5), key
