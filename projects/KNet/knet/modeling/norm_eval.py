"""BatchNorm that normalises with its stored statistics in training too."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["keep_statistics"]


def keep_statistics(module: nn.Module) -> None:
    """Put every BatchNorm below ``module`` in eval mode; scale and shift still learn.

    To be called after each ``train()`` of what holds the module.
    """
    for m in module.modules():
        if isinstance(m, _BatchNorm):
            m.eval()
