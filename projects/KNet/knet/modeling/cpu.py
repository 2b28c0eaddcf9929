"""What makes a network faster on a CPU. Results are the same to rounding."""

import torch
from torch import nn

__all__ = ["prefer_onednn", "to_fast_layout"]


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
