"""ASPP head of DeepLabV3: one feature seen through several dilations (Chen et al., 2017)."""

from typing import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn
from torch.nn import functional as F

from ..masks import resize
from .base import ClassifierHead, conv_norm_relu

__all__ = ["SemSegASPPHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegASPPHead(ClassifierHead):
    """Atrous spatial pyramid pooling on the coarsest feature, then a 3x3 convolution.

    The published K-Net's DeepLabV3; Detectron2's ``DeepLabV3Head`` differs from it in its last
    convolution, its pooling and its loss.
    """

    @configurable
    def __init__(self, input_shape, *, dilations: Sequence[int] = (12, 24, 36), **kwargs):
        """
        Args:
            dilations: of the 3x3 convolutions beside the 1x1 convolution and the image pool.
            input_shape, kwargs: see :class:`knet.modeling.semantic.base.ClassifierHead`.
        """
        super().__init__(input_shape, **kwargs)
        in_channels, channels, norm = self.in_channels[-1], self.channels, self.norm
        self.image_conv = conv_norm_relu(in_channels, channels, 1, norm=norm)
        self.aspp_convs = nn.ModuleList(
            [
                conv_norm_relu(in_channels, channels, 1, norm=norm),
                *(
                    conv_norm_relu(in_channels, channels, 3, norm=norm, dilation=dilation)
                    for dilation in dilations
                ),
            ]
        )
        self.fuse_conv = conv_norm_relu(
            (1 + len(self.aspp_convs)) * channels, channels, 3, norm=norm
        )

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            **super().from_config(cfg, input_shape),
            "dilations": cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS,
        }

    def pixel_features(self, features) -> torch.Tensor:
        """The coarsest of the head's features (B, in_channels, H, W) -> (B, C, H, W)."""
        x = features[self.in_features[-1]]
        image = resize(self.image_conv(F.adaptive_avg_pool2d(x, 1)), x.shape[-2:])
        return self.fuse_conv(torch.cat((image, *(conv(x) for conv in self.aspp_convs)), dim=1))
