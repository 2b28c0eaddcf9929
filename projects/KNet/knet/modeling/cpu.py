"""What makes a network faster on a CPU. Results are the same to rounding."""

from itertools import takewhile

import torch
from detectron2.modeling.backbone import ResNet
from torch import nn

from .recorded import is_recorded

__all__ = ["frozen_in_fast_layout", "prefer_onednn", "to_fast_layout"]


def prefer_onednn(model: nn.Module) -> None:
    """Let oneDNN compute the 1x1 convolutions of a model for the CPU on a single thread as well.

    PyTorch then gives these to a matrix product, which takes twice as long where it does without
    AVX-512 (MKL on AMD). It gives every dilated one to oneDNN, and the dilation of a single pixel
    changes nothing. With several threads it is oneDNN anyway.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for m in model.modules():
        if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride == (1, 1) and not any(m.padding):
            m.dilation = (2, 2)


def to_fast_layout(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) channels last where that is faster: in inference on a CPU, not in training."""
    if images.device.type != "cpu" or torch.is_grad_enabled():
        return images
    return images.contiguous(memory_format=torch.channels_last)


def frozen_in_fast_layout(backbone: nn.Module) -> None:
    """Let the first layers of a ResNet, those that learn nothing, be channels last in training."""
    bottom_up = getattr(backbone, "bottom_up", backbone)
    if not isinstance(bottom_up, ResNet):
        return
    frozen = list(takewhile(_is_frozen, (bottom_up.stem, *bottom_up.stages)))
    if frozen:
        frozen[0].register_forward_pre_hook(_channels_last)
        frozen[-1].register_forward_hook(_contiguous)


def _is_frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters())


def _channels_last(module, inputs):
    (x,) = inputs
    return x.contiguous(memory_format=torch.channels_last) if _learns() else x


def _contiguous(module, inputs, x):
    return x.contiguous() if _learns() else x


def _learns() -> bool:
    return torch.is_grad_enabled() and not is_recorded()
