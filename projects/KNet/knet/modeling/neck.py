"""Neck ("semantic FPN"): pyramid levels -> a map for the instance and one for the semantic branch.

Shape shorthand: B images, C channels, H x W the map at the neck's stride.
"""

import math
from collections import OrderedDict
from typing import Dict, List, Sequence, Tuple

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.utils.registry import Registry
from torch import nn
from torch.nn import functional as F

from ..errors import UsageError
from .masks import enlarge

__all__ = ["NECK_REGISTRY", "SemanticFPN", "build_neck", "conv_block", "sine_position_encoding"]

NECK_REGISTRY = Registry("KNET_NECK")
NECK_REGISTRY.__doc__ = """
Modules that turn the backbone's feature dict into the two maps (instance, semantic), each
(B, C, H, W), from which the kernel head starts. Called with ``(cfg, input_shape)``. They have
``stride``, of the two maps in input pixels, and ``size_divisibility``, what the sides of the
padded input must be multiples of.
"""


def build_neck(cfg, input_shape: Dict[str, ShapeSpec]) -> nn.Module:
    """Build the neck that ``MODEL.KNET.NECK.NAME`` names."""
    return NECK_REGISTRY.get(cfg.MODEL.KNET.NECK.NAME)(cfg, input_shape)


def conv_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    num_groups: int,
    stride: int = 1,
    init: str = "normal",
) -> Conv2d:
    """Convolution without bias, GroupNorm, ReLU.

    Args:
        init: of the weights: "normal", a deviation of 0.01, or "msra", by the number of outputs.
    """
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=False,
        norm=nn.GroupNorm(num_groups, out_channels),
        activation=F.relu,
    )
    if init not in ("normal", "msra"):
        raise ValueError(f"init is '{init}', known are normal, msra")
    if init == "normal":
        nn.init.normal_(conv.weight, std=0.01)
    else:
        weight_init.c2_msra_fill(conv)
    return conv


def sine_position_encoding(
    height: int, width: int, channels: int, device=None, temperature: float = 10000.0
) -> torch.Tensor:
    """Sine positional encoding of a map, normalised by the whole (padded) map.

    Args:
        height, width: size of the map.
        channels: a multiple of 4; the first half encodes y, the second x, sine and cosine
            interleaved.

    Returns:
        (channels, height, width), float32.
    """
    if channels % 4:
        raise ValueError(f"positional encoding needs channels divisible by 4, got {channels}")
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=device)
    frequency = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def encode(length: int) -> torch.Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angle = (position / (length + 1e-6) * 2 * math.pi)[:, None] / frequency  # (length, half)
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    y = encode(height).t()[:, :, None].expand(half, height, width)
    x = encode(width).t()[:, None, :].expand(half, height, width)
    return torch.cat((y, x))


class Doubling(nn.Module):
    """(B, C, H, W) -> (B, C, 2 H, 2 W), bilinear."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return enlarge(x, 2)


@NECK_REGISTRY.register()
class SemanticFPN(nn.Module):
    """Bring every pyramid level to one stride, sum, and split into the two branches' maps.

    A finer level goes through stride-2 blocks, a coarser one through (block, x2 bilinear) until
    it has the neck's stride and then one more block; the level that has it already through one
    block. A sine positional encoding is added to the coarsest level first. The paper's
    implementation details (after Panoptic FPN's semantic head).
    """

    @configurable
    def __init__(
        self,
        input_shape: Dict[str, ShapeSpec],
        *,
        in_features: Sequence[str],
        channels: int = 256,
        stride: int = 8,
        num_groups: int = 32,
        init: str = "normal",
        semantic_blocks: bool = True,
    ):
        """
        Args:
            input_shape: channels and stride of each backbone feature.
            in_features: names of the levels to use, in any order.
            channels: C of every block and of both outputs.
            stride: the outputs' stride, in input pixels.
            num_groups: groups of each GroupNorm.
            init: see :func:`conv_block`.
            semantic_blocks: False: the semantic map is the sum of the levels itself.
        """
        super().__init__()
        missing = [name for name in in_features if name not in input_shape]
        if missing:
            raise UsageError(
                f"the neck asks for the features {missing}, the backbone gives "
                f"{sorted(input_shape)}: set MODEL.KNET.NECK.IN_FEATURES"
            )
        self.in_features: List[str] = sorted(in_features, key=lambda n: input_shape[n].stride)
        self.stride = stride
        self.size_divisibility = max(stride, *(input_shape[name].stride for name in in_features))
        self.channels = channels
        self.levels = nn.ModuleList(
            self._build_level(input_shape[name], channels, stride, num_groups, init)
            for name in self.in_features
        )
        self.instance_conv = conv_block(channels, channels, 1, num_groups, init=init)
        self.semantic_conv = (
            conv_block(channels, channels, 1, num_groups, init=init)
            if semantic_blocks
            else nn.Identity()
        )

    @classmethod
    def from_config(cls, cfg, input_shape):
        neck = cfg.MODEL.KNET.NECK
        return {
            "input_shape": input_shape,
            "in_features": neck.IN_FEATURES,
            "channels": cfg.MODEL.KNET.CHANNELS,
            "stride": neck.STRIDE,
            "num_groups": cfg.MODEL.KNET.NUM_GROUPS,
            "init": neck.INIT,
            "semantic_blocks": cfg.MODEL.KNET.SEMANTIC_BLOCKS,
        }

    @staticmethod
    def _build_level(shape: ShapeSpec, channels: int, stride: int, num_groups: int, init: str):
        doublings = math.log2(shape.stride / stride)
        if doublings != int(doublings):
            raise UsageError(
                f"MODEL.KNET.NECK.STRIDE {stride} and the feature stride {shape.stride} must "
                "differ by a power of two"
            )
        doublings = int(doublings)
        layers = OrderedDict()
        in_channels = shape.channels
        for i in range(max(abs(doublings), 1)):
            step = 2 if doublings < 0 else 1
            layers[f"conv{i}"] = conv_block(in_channels, channels, 3, num_groups, step, init)
            if doublings > 0:
                layers[f"upsample{i}"] = Doubling()
            in_channels = channels
        if doublings > 0:
            layers[f"conv{doublings}"] = conv_block(channels, channels, 3, num_groups, init=init)
        return nn.Sequential(layers)

    def forward(self, features: Dict[str, torch.Tensor]) -> Tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            features: name -> (B, C_level, H_level, W_level).

        Returns:
            the instance map and the semantic map, each (B, C, H, W) at ``self.stride``.
        """
        levels = [features[name] for name in self.in_features]
        coarsest = levels[-1]
        encoding = sine_position_encoding(
            coarsest.shape[2], coarsest.shape[3], coarsest.shape[1], coarsest.device
        )
        levels[-1] = coarsest + encoding.to(coarsest.dtype)
        total = sum(convs(level) for convs, level in zip(self.levels, levels))
        return self.instance_conv(total), self.semantic_conv(total)
