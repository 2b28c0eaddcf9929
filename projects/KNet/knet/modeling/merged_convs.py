"""Two convolutions as one, in training on a CPU: the pyramid's finest output, and what reads it.

The finest level is the largest map by far. Its output is a 3x3 convolution that only the neck
reads, by one of stride 2; nothing stands between them. Together they are a single 5x5 convolution
of stride 2, which takes two thirds of their time and keeps no map between them.
"""

from typing import Optional

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import FPN
from torch import nn
from torch.nn import functional as F

from .neck import SemanticFPN
from .recorded import is_recorded

__all__ = ["merge_finest_level", "merged_convs"]

# Merging two weights takes the time of so many cells of the map for each of its channels
_CELLS_A_CHANNEL = 32


def merge_finest_level(backbone: nn.Module, neck: nn.Module) -> None:
    """Let the neck compute the pyramid's finest output in training; the pyramid leaves it out then.

    Both convolutions are one where that pays, the same to rounding. In inference each is
    computed in its place. Nothing happens where the neck reads that level otherwise.
    """
    if not (isinstance(backbone, FPN) and type(neck) is SemanticFPN):
        return
    name = neck.in_features[0]
    first = getattr(backbone, f"fpn_output{name[1:]}", None)
    second = neck.levels[0].conv0
    is_read = getattr(backbone.top_block, "in_feature", None) == name
    if first is None or is_read or first.norm is not None or second.stride != (2, 2):
        return
    first.__class__, second.__class__ = _LeftOut, _WithFirst
    second.first = (first,)  # in a tuple: it stays the pyramid's


class _LeftOut(Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training else super().forward(x)


class _WithFirst(Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (first,) = self.first
        if not first.training:
            return super().forward(x)
        if not _pays(x):
            return super().forward(Conv2d.forward(first, x))
        x = merged_convs(x, first.weight, first.bias, self.weight, self.bias)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


def _pays(x: torch.Tensor) -> bool:
    if not torch.is_grad_enabled() or is_recorded():
        return False
    num_images, channels, height, width = x.shape
    is_even = height % 2 == 0 and width % 2 == 0
    is_large = num_images * height * width > _CELLS_A_CHANNEL * channels
    return is_even and is_large and x.device.type == "cpu" and x.dtype == torch.float32


def merged_convs(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor],
    next_weight: torch.Tensor,
    next_bias: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """A 3x3 convolution and one of stride 2 behind it, both with zeros around their input.

    Args:
        x: (B, C, H, W), both sides even.
        weight, bias: (M, C, 3, 3) and (M,).
        next_weight, next_bias: (K, M, 3, 3) and (K,).

    Returns:
        (B, K, H / 2, W / 2).
    """
    both = F.conv_transpose2d(weight.transpose(0, 1), next_weight.transpose(0, 1)).transpose(0, 1)
    shift = next_bias
    if bias is not None:
        shift = next_weight.sum((2, 3)) @ bias
        shift = shift if next_bias is None else shift + next_bias
    out = F.conv2d(x, both, shift, stride=2, padding=2)
    # The 5x5 convolution sees a map in between that goes on beyond its first row and column, where
    # the second convolution sees zeros. Beyond its last ones that has no cell
    above = F.conv2d(x[:, :, :1], weight[:, :, 2:], bias, padding=(0, 2))[..., :-1]
    left = F.conv2d(x[..., :1], weight[..., 2:], bias, padding=(1, 0))
    out[:, :, :1] -= F.conv2d(above, next_weight[:, :, :1], stride=2)
    out[..., :1] -= F.conv2d(F.pad(left, (0, 0, 1, 0)), next_weight[..., :1], stride=2)
    return out
