"""Deformable convolutions that also run, and learn, on a CPU."""

from typing import Optional

import torch
from detectron2.modeling.backbone.resnet import DeformBottleneckBlock
from torch import nn
from torchvision.ops import deform_conv2d

__all__ = ["PortableDeformConv", "make_deform_convs_portable"]


class PortableDeformConv(nn.Module):
    """Detectron2's (modulated) deformable convolution, computed by torchvision.

    Detectron2's own runs backward, and with modulation forward too, on a GPU only. Parameters,
    their names and the order of the offsets are the same. Offsets are precise to a fraction of a
    pixel, so half precision is computed in float32.
    """

    def __init__(self, conv: nn.Module):
        """Takes over a ``DeformConv`` or ``ModulatedDeformConv``, its parameters included."""
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.norm, self.activation = conv.norm, conv.activation
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation

    def forward(
        self, x: torch.Tensor, offset: torch.Tensor, mask: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """
        Args:
            x: (B, C, H, W)
            offset: (B, 2 * groups * kernel height * kernel width, h, w), y before x, in pixels.
            mask: the modulation, (B, groups * kernel height * kernel width, h, w).

        Returns:
            (B, out channels, h, w)
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            out = deform_conv2d(
                x.to(dtype),
                offset.to(dtype),
                self.weight.to(dtype),
                None if self.bias is None else self.bias.to(dtype),
                self.stride,
                self.padding,
                self.dilation,
                None if mask is None else mask.to(dtype),
            )
        out = out.to(x.dtype)
        if self.norm is not None:
            out = self.norm(out)
        return out if self.activation is None else self.activation(out)


def make_deform_convs_portable(module: nn.Module) -> None:
    """Replace the deformable convolution of every :class:`DeformBottleneckBlock` within."""
    for block in module.modules():
        if isinstance(block, DeformBottleneckBlock):
            block.conv2 = PortableDeformConv(block.conv2)
