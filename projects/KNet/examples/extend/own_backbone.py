"""A backbone: image -> a map a stride. Detectron2's interface, so its FPN may stand on it."""

from typing import Dict

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import nn
from torch.nn import functional as F


class Stairs(Backbone):
    """A convolution of stride 2 a step; the maps of stride 4 to 32 are res2 to res5."""

    def __init__(self, in_channels: int = 3, channels: int = 32, norm: str = "BN"):
        super().__init__()
        self.steps = nn.ModuleList()
        for step in range(5):
            out_channels = channels * 2 ** max(step - 1, 0)
            conv = Conv2d(
                in_channels,
                out_channels,
                3,
                stride=2,
                padding=1,
                bias=not norm,
                norm=get_norm(norm, out_channels),
                activation=F.relu,
            )
            self.steps.append(conv)
            in_channels = out_channels
        self._out_features = ["res2", "res3", "res4", "res5"]
        # what Backbone.output_shape() tells the part that follows
        self._out_feature_strides = {f"res{i}": 2**i for i in range(2, 6)}
        self._out_feature_channels = {f"res{i}": channels * 2 ** (i - 2) for i in range(2, 6)}

    def forward(self, images: torch.Tensor) -> Dict[str, torch.Tensor]:
        """(B, channels, H, W) -> name: (B, its channels, H / stride, W / stride)."""
        features, x = {}, images
        for i, step in enumerate(self.steps, start=1):
            x = step(x)
            if i > 1:
                features[f"res{i}"] = x
        return features


@BACKBONE_REGISTRY.register()
def build_stairs_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """For MODEL.BACKBONE.NAME: Stairs under Detectron2's pyramid, p2 to p5."""
    return FPN(
        Stairs(input_shape.channels, norm=cfg.MODEL.RESNETS.NORM),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
    )
