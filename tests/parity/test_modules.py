"""Neck, adaptive kernel update and update stage agree with the authors' implementation."""

import pytest
import torch

from knet.modeling.kernel_update import KernelUpdater
from knet.modeling.neck import sine_position_encoding

from . import recorded

UPDATER_OPTIONS = {
    "default": {},
    "kk9": {},
    "split_half": {},
    "gate_norm_act": {"gate_norm": True, "activate_terms": True},
    "no_sigmoid": {"gate_sigmoid": False},
}


@pytest.mark.parametrize("variant", UPDATER_OPTIONS)
def test_kernel_updater(variant, device):
    case = recorded.load("kernel_updator.pt")["cases"][variant]
    updater = KernelUpdater(recorded.CHANNELS, **UPDATER_OPTIONS[variant])
    weights = {
        f"roi_head.mask_head.0.kernel_update_conv.{k}": v for k, v in case["state_dict"].items()
    }
    recorded.load_official(updater, weights, "kernel_update_heads.0.updater.")
    updater.to(device)
    feature, kernels = (case[name].to(device) for name in ("update_feature", "input_feature"))
    with torch.no_grad():
        out = updater(feature[:, :, None], kernels)
    assert out.shape == kernels.shape
    error = recorded.relative_error(out.reshape(case["output"].shape), case["output"])
    assert error < recorded.tolerance(device, 1e-5)


@pytest.mark.parametrize("case", ["img64x96", "img96x64_b2"])
def test_neck(case, device):
    recording = recorded.load("semantic_fpn.pt")
    neck = recorded.build_neck()
    prefix = "rpn_head.localization_fpn."
    weights = {prefix + k: v for k, v in recording["state_dict"].items()}
    recorded.load_official(neck, weights, "neck.")
    case = recording["cases"][case]
    neck.to(device)
    with torch.no_grad():
        outputs = neck({k: v.to(device) for k, v in zip(recorded.LEVELS, case["inputs"])})
    for out, expected in zip(outputs, case["outputs"]):
        assert recorded.relative_error(out, expected) < recorded.tolerance(device, 1e-5)


def test_position_encoding(device):
    expected = recorded.load("semantic_fpn.pt")["positional_encoding_5x7"]
    encoding = sine_position_encoding(5, 7, recorded.CHANNELS, device)
    assert encoding.device.type == device.type
    assert recorded.relative_error(encoding[None], expected) < recorded.tolerance(device, 1e-5)


@pytest.mark.parametrize("case", ["same_size", "mask_half_size"])
def test_update_stage(case, device):
    recording = recorded.load("kernel_update_head.pt")
    head = recorded.build_update_head(recorded.THINGS + recorded.STUFF)
    weights = {f"roi_head.mask_head.0.{k}": v for k, v in recording["state_dict"].items()}
    recorded.load_official(head, weights, "kernel_update_heads.0.")
    case = recording["cases"][case]
    head.to(device)
    inputs = (case["x"], case["proposal_feat"].flatten(2), case["mask_preds"])
    with torch.no_grad():
        out = head(*(tensor.to(device) for tensor in inputs))
    allowed = recorded.tolerance(device, 1e-5)
    assert recorded.relative_error(out.class_logits, case["cls_score"]) < allowed
    assert recorded.relative_error(out.mask_logits, case["new_mask_preds"]) < allowed
    assert recorded.relative_error(out.kernels, case["obj_feat"].flatten(2)) < allowed
