"""A neck: pyramid levels -> the instance map and the semantic map that kernels look at."""

from typing import Dict, Sequence, Tuple

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import nn
from torch.nn import functional as F

from knet import NECK_REGISTRY
from knet.modeling.neck import conv_block


@NECK_REGISTRY.register()
class ConcatNeck(nn.Module):
    """Every level at one stride, side by side, then a 1x1 convolution for each of the two maps."""

    @configurable
    def __init__(
        self,
        input_shape: Dict[str, ShapeSpec],
        *,
        in_features: Sequence[str],
        channels: int = 256,
        stride: int = 8,
        num_groups: int = 32,
    ):
        super().__init__()
        self.in_features = list(in_features)
        self.stride = stride  # of the two maps, in input pixels
        # what the sides of the padded input must be multiples of
        self.size_divisibility = max(input_shape[name].stride for name in in_features)
        total = sum(input_shape[name].channels for name in in_features)
        self.instance_conv = conv_block(total, channels, 1, num_groups)
        self.semantic_conv = conv_block(total, channels, 1, num_groups)

    @classmethod
    def from_config(cls, cfg, input_shape):
        knet = cfg.MODEL.KNET
        return {
            "input_shape": input_shape,
            "in_features": knet.NECK.IN_FEATURES,
            "channels": knet.CHANNELS,
            "stride": knet.NECK.STRIDE,
            "num_groups": knet.NUM_GROUPS,
        }

    def forward(self, features: Dict[str, torch.Tensor]) -> Tuple[torch.Tensor, torch.Tensor]:
        """name -> (B, C_level, H_level, W_level); returns two maps (B, C, H, W)."""
        finest = features[self.in_features[0]]  # p2 has stride 4
        size = [side * 4 // self.stride for side in finest.shape[-2:]]
        levels = [
            F.interpolate(features[name], size, mode="bilinear", align_corners=False)
            for name in self.in_features
        ]
        side_by_side = torch.cat(levels, dim=1)
        return self.instance_conv(side_by_side), self.semantic_conv(side_by_side)
