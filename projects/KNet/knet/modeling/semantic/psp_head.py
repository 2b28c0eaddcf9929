"""PSP head: context from pools of several sizes (Zhao et al., CVPR 2017)."""

from typing import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn
from torch.nn import functional as F

from ..masks import resize
from .base import ClassifierHead, conv_norm_relu

__all__ = ["PyramidPooling", "SemSegPSPHead"]


class PyramidPooling(nn.Module):
    """Average the map over grids of several sizes, and put what they say beside it."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        norm: str,
        pool_sizes: Sequence[int] = (1, 2, 3, 6),
    ):
        """
        Args:
            in_channels: of the map.
            channels: of each pool, after its 1x1 convolution.
            norm: of the convolutions.
            pool_sizes: cells of each grid, in height and in width.
        """
        super().__init__()
        self.pool_sizes = tuple(pool_sizes)
        self.convs = nn.ModuleList(
            conv_norm_relu(in_channels, channels, 1, norm=norm) for _ in self.pool_sizes
        )
        self.out_channels = in_channels + len(self.pool_sizes) * channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W), the map itself first."""
        pools = [
            resize(conv(F.adaptive_avg_pool2d(x, size)), x.shape[-2:])
            for size, conv in zip(self.pool_sizes, self.convs)
        ]
        return torch.cat((x, *pools), dim=1)


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegPSPHead(ClassifierHead):
    """Pyramid pooling on the coarsest feature, then a 3x3 convolution."""

    @configurable
    def __init__(self, input_shape, **kwargs):
        """See :class:`knet.modeling.semantic.base.ClassifierHead`."""
        super().__init__(input_shape, **kwargs)
        channels, norm = self.channels, self.norm
        self.pyramid_pooling = PyramidPooling(self.in_channels[-1], channels, norm=norm)
        self.fuse_conv = conv_norm_relu(self.pyramid_pooling.out_channels, channels, 3, norm=norm)

    def pixel_features(self, features) -> torch.Tensor:
        """The coarsest of the head's features (B, in_channels, H, W) -> (B, C, H, W)."""
        return self.fuse_conv(self.pyramid_pooling(features[self.in_features[-1]]))
