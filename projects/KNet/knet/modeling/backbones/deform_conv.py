"""Deformable convolutions that run and learn on a CPU too, and need nothing compiled."""

from contextlib import contextmanager
from typing import Callable, Iterator, Optional
from unittest import mock

import torch
from detectron2.modeling.backbone import resnet
from torch import nn
from torchvision.ops import deform_conv2d

__all__ = ["PortableDeformConv", "portable_deform_convs"]


class PortableDeformConv(nn.Module):
    """Detectron2's (modulated) deformable convolution, computed by torchvision.

    Detectron2's own needs its compiled operators, and runs backward, with modulation forward too,
    on a GPU only. Arguments, parameters, their names and the order of the offsets are the same.
    Offsets are precise to a fraction of a pixel, so half precision is computed in float32.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        norm: Optional[nn.Module] = None,
        activation: Optional[Callable] = None,
    ):
        """As :class:`detectron2.layers.DeformConv`; the offsets tell ``deformable_groups``."""
        super().__init__()
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.norm, self.activation = norm, activation
        self.stride, self.padding, self.dilation = stride, padding, dilation

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


@contextmanager
def portable_deform_convs() -> Iterator[None]:
    """Within, Detectron2's ``DeformBottleneckBlock`` is built with these convolutions.

    The block takes its convolution from its module and not from an argument.
    """
    names = ("DeformConv", "ModulatedDeformConv")
    with mock.patch.multiple(resnet, **dict.fromkeys(names, PortableDeformConv)):
        yield
