"""Backbones as a user gets them: from the keys of a config."""

import torch
from detectron2.config import get_cfg
from detectron2.modeling import Backbone, build_backbone

from knet import add_knet_config


def build(name: str, **keys) -> Backbone:
    """Build the backbone ``name``; a key is a path below MODEL with __ for the dot."""
    cfg = get_cfg()
    add_knet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    torch.manual_seed(0)
    return build_backbone(cfg)


def image(height: int, width: int, channels: int = 3, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, channels, height, width, generator=generator)


def sizes(features) -> dict:
    return {name: tuple(feature.shape[1:]) for name, feature in features.items()}


def backward(features) -> None:
    sum((feature**2).mean() for feature in features.values()).backward()


def without_gradient(module) -> list:
    return [name for name, p in module.named_parameters() if p.grad is None]
