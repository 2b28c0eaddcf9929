"""FCN head: convolutions on the coarsest feature (Long et al., CVPR 2015)."""

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from .base import ClassifierHead, conv_norm_relu

__all__ = ["SemSegFCNHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegFCNHead(ClassifierHead):
    """3x3 convolutions one after the other; then one on their input and output together."""

    @configurable
    def __init__(self, input_shape, *, num_convs: int = 2, fuse_input: bool = True, **kwargs):
        """
        Args:
            num_convs: 3x3 convolutions before the fusion.
            fuse_input: fuse the last one's output with the backbone's feature; the auxiliary
                head does not.
            input_shape, kwargs: see :class:`knet.modeling.semantic.base.ClassifierHead`.
        """
        super().__init__(input_shape, **kwargs)
        in_channels, channels, norm = self.in_channels[-1], self.channels, self.norm
        self.convs = nn.Sequential(
            *(
                conv_norm_relu(channels if i else in_channels, channels, 3, norm=norm)
                for i in range(num_convs)
            )
        )
        self.fuse_conv = (
            conv_norm_relu(in_channels + channels, channels, 3, norm=norm) if fuse_input else None
        )

    def pixel_features(self, features) -> torch.Tensor:
        """The coarsest of the head's features (B, in_channels, H, W) -> (B, C, H, W)."""
        x = features[self.in_features[-1]]
        out = self.convs(x)
        if self.fuse_conv is not None:
            out = self.fuse_conv(torch.cat((x, out), dim=1))
        return out
