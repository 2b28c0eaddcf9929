"""UPerNet head: pyramid pooling on the coarsest feature, a pyramid down to the finest (Xiao et
al., ECCV 2018)."""

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from ..masks import resize
from .base import ClassifierHead, conv_norm_relu
from .psp_head import PyramidPooling

__all__ = ["SemSegUPerHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegUPerHead(ClassifierHead):
    """Fuse all features at the finest one's size."""

    @configurable
    def __init__(self, input_shape, **kwargs):
        """See :class:`knet.modeling.semantic.base.ClassifierHead`."""
        super().__init__(input_shape, **kwargs)
        channels, norm = self.channels, self.norm
        *finer, coarsest = self.in_channels
        self.pyramid_pooling = PyramidPooling(coarsest, channels, norm=norm)
        self.pyramid_conv = conv_norm_relu(
            self.pyramid_pooling.out_channels, channels, 3, norm=norm
        )
        self.lateral_convs = nn.ModuleList(conv_norm_relu(c, channels, 1, norm=norm) for c in finer)
        self.fpn_convs = nn.ModuleList(
            conv_norm_relu(channels, channels, 3, norm=norm) for _ in finer
        )
        self.fuse_conv = conv_norm_relu(len(self.in_channels) * channels, channels, 3, norm=norm)

    @property
    def common_stride(self) -> int:
        """Stride of the logits, in input pixels: the finest feature's."""
        return self.in_strides[0]

    def pixel_features(self, features) -> torch.Tensor:
        """The head's features -> (B, C, H, W) at the finest one's size."""
        *finer, coarsest = [features[name] for name in self.in_features]
        top = self.pyramid_conv(self.pyramid_pooling(coarsest))
        levels = [top]
        for x, lateral, conv in zip(
            reversed(finer), reversed(self.lateral_convs), reversed(self.fpn_convs)
        ):
            x = lateral(x)
            top = x + resize(top, x.shape[-2:])
            levels.insert(0, conv(top))
        size = levels[0].shape[-2:]
        return self.fuse_conv(torch.cat([resize(level, size) for level in levels], dim=1))
