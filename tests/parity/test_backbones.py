"""Backbones of the semantic and the Swin models against the authors' libraries' recorded output."""

import re

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from knet import add_knet_config

from . import recorded

_RESNET_NAMES = [
    (r"stem\.0\.", "stem.conv1."),
    (r"stem\.1\.", "stem.conv1.norm."),
    (r"stem\.3\.", "stem.conv2."),
    (r"stem\.4\.", "stem.conv2.norm."),
    (r"stem\.6\.", "stem.conv3."),
    (r"stem\.7\.", "stem.conv3.norm."),
    (r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}"),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"downsample\.0\.", "shortcut."),
    (r"downsample\.1\.", "shortcut.norm."),
]
_SWIN_NAMES = [
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.", "layers."),
    (r"attn\.w_msa\.", "attn."),
    (r"ffn\.layers\.0\.0\.", "mlp.fc1."),
    (r"ffn\.layers\.1\.", "mlp.fc2."),
]


def _rename(state_dict, rules):
    renamed = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _merging_order(name, tensor):
    """Their patch merging keeps the four pixels of a channel together, row by row; Detectron2's
    keeps the channels of a pixel together, column by column."""
    if ".downsample." not in name:
        return tensor
    channels = tensor.shape[-1] // 4
    rows_of_channels = tensor.unflatten(-1, (channels, 2, 2))  # ..., c, dy, dx
    return rows_of_channels.movedim(-3, -1).transpose(-3, -2).flatten(-3)


def _config(recording):
    cfg = get_cfg()
    add_knet_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    config = recording["config"]
    if config["type"] == "SwinTransformer":
        cfg.MODEL.BACKBONE.NAME = "build_swin_backbone"
        cfg.MODEL.SWIN.EMBED_DIM = config["embed_dims"]
        cfg.MODEL.SWIN.DEPTHS = config["depths"]
        cfg.MODEL.SWIN.NUM_HEADS = config["num_heads"]
        cfg.MODEL.SWIN.WINDOW_SIZE = config["window_size"]
        return cfg
    cfg.MODEL.BACKBONE.NAME = "build_deep_stem_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH = config["depth"]
    cfg.MODEL.RESNETS.NORM = "SyncBN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = config["stem_channels"]
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = config["base_channels"]
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 4 * config["base_channels"]
    cfg.MODEL.RESNETS.RES4_DILATION, cfg.MODEL.RESNETS.RES5_DILATION = config["dilations"][2:]
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return cfg


@pytest.mark.parametrize("case", ["seg_resnetv1c50_d8", "det_swin", "seg_swin"])
def test_backbone(case, device):
    recording = recorded.load("backbones_small.pt")["cases"][case]
    backbone = build_backbone(_config(recording), ShapeSpec(channels=3)).eval()
    weights = recording["state_dict"]
    if "swin" in case:
        weights = _rename(weights, _SWIN_NAMES)
        weights = {name: _merging_order(name, tensor) for name, tensor in weights.items()}
    else:
        weights = _rename(weights, _RESNET_NAMES)
    backbone.load_state_dict(weights)
    backbone.to(device)
    with torch.no_grad():
        outputs = backbone(recording["input"].to(device))
    assert [backbone.output_shape()[name].stride for name in outputs] == recording["strides"]
    for name, expected in zip(outputs, recording["outputs"]):
        assert backbone.output_shape()[name].channels == expected.shape[1]
        error = recorded.relative_error(outputs[name], expected)
        assert error < recorded.tolerance(device, 1e-5)
