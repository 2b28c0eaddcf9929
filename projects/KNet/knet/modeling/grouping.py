"""Group assembling: what a kernel found, summed over its pixels (F^K, paper eq. 3)."""

from typing import Optional

import torch

__all__ = ["group_features"]


def group_features(
    mask_logits: torch.Tensor, feature_map: torch.Tensor, threshold: Optional[float] = 0.5
) -> torch.Tensor:
    """Sum the features of each kernel's pixels: a sum, not a mean.

    The sum over a large mask overflows half precision, so it is computed, and must be used, in
    float32 whatever the inputs are.

    Args:
        mask_logits: (B, N, H, W).
        feature_map: (B, C, H, W).
        threshold: a pixel belongs to every mask whose probability (sigmoid) there is above it; no
            gradient flows through this decision. None: each pixel is shared among the kernels by
            a softmax over them, through which the gradient flows (purely semantic models).

    Returns:
        (B, N, C), float32.
    """
    with torch.autocast(device_type=feature_map.device.type, enabled=False):
        if threshold is None:
            share = mask_logits.float().softmax(dim=1)
        else:
            share = (mask_logits.detach().float().sigmoid() > threshold).float()
        return torch.einsum("bnhw,bchw->bnc", share, feature_map.float())
