"""BatchNorm whose statistics are kept, in training.

Its input is needed for the gradient of its scale, and with it as much memory as for the input of
each convolution. Where it is folded into the convolution before it nothing of that is kept: the
gradient of the scale is that of the folded weight.
"""

import torch
from detectron2.layers import Conv2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["fold_frozen_norms", "keep_statistics"]

# What is kept instead is the folded weight, and folding it takes time, there and back
_LARGER = 4


def keep_statistics(module: nn.Module) -> None:
    """Put every BatchNorm below ``module`` in eval mode; scale and shift still learn.

    To be called after each ``train()`` of what holds the module.
    """
    for m in module.modules():
        if isinstance(m, _BatchNorm):
            m.eval()


def fold_frozen_norms(module: nn.Module) -> None:
    """Let Detectron2's convolutions below ``module`` compute with their BatchNorm, where it pays.

    It pays in training with kept statistics, where the output is much larger than the weight.
    Results are the same to rounding.
    """
    for m in module.modules():
        norm = m.norm if type(m) is Conv2d else None
        if isinstance(norm, _BatchNorm) and norm.affine and norm.track_running_stats:
            m.__class__ = _FoldingConv2d


class _FoldingConv2d(Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        num_cells = x[:, 0].numel() // (self.stride[0] * self.stride[1])
        pays = num_cells * self.out_channels > _LARGER * self.weight.numel()
        if norm.training or not torch.is_grad_enabled() or not pays:
            return super().forward(x)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        x = self._conv_forward(x, self.weight * scale[:, None, None, None], bias)
        return x if self.activation is None else self.activation(x)
