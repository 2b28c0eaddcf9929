"""Group assembling: what a kernel found, summed over its pixels (F^K, paper eq. 3)."""

import math
from typing import Optional, Tuple

import torch
from torch import nn
from torch.nn import functional as F

from .autocast import without_autocast
from .recorded import is_recorded

__all__ = ["group_features", "group_transformed_features", "kernels_before"]


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
        return _sum_inside(_shares(mask_logits, threshold), feature_map)


def group_transformed_features(
    mask_logits: torch.Tensor,
    feature_map: torch.Tensor,
    transform: nn.Conv2d,
    threshold: Optional[float] = 0.5,
) -> torch.Tensor:
    """:func:`group_features` of ``transform(feature_map)``, which is never computed.

    A 1x1 convolution is linear: the sum of W f + b over pixels is W times the sum of f, and b times
    the area. It is applied to N vectors instead of H x W.

    Args:
        mask_logits: (B, N, H, W).
        feature_map: (B, C, H, W).
        transform: a 1x1 convolution of C channels, nothing behind it.
        threshold: see :func:`group_features`.

    Returns:
        (B, N, C), float32.
    """
    with torch.autocast(device_type=feature_map.device.type, enabled=False):
        shares = _shares(mask_logits, threshold)
        weight, bias = _matrix(transform)
        sums = F.linear(_sum_inside(shares, feature_map), weight)
        return torch.addcmul(sums, shares.sum((2, 3))[..., None], bias)


def kernels_before(
    kernels: torch.Tensor, transform: nn.Conv2d
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Kernels and biases that find in F what ``kernels`` find in ``transform(F)``.

    k (W f + b) = (k W) f + k b.

    Args:
        kernels: (B, N, C).
        transform: a 1x1 convolution of C channels, nothing behind it.

    Returns:
        (B, N, C) and (B, N, 1).
    """
    weight, bias = _matrix(transform)
    return kernels @ weight, (kernels @ bias)[..., None]


def _shares(mask_logits: torch.Tensor, threshold: Optional[float]) -> torch.Tensor:
    """How much of each pixel is each kernel's, (B, N, H, W) float32."""
    if threshold is None:
        return mask_logits.float().softmax(dim=1)
    # of logits rather than of probabilities: no map of these is made
    return (mask_logits.detach() > logit(threshold)).float()


def logit(probability: float) -> float:
    """Where the sigmoid has this value; infinite at 0 and 1."""
    if 0 < probability < 1:
        return math.log(probability / (1 - probability))
    return math.copysign(math.inf, probability - 0.5)


def _sum_inside(shares: torch.Tensor, feature_map: torch.Tensor) -> torch.Tensor:
    feature_map = feature_map.float()
    if shares.requires_grad and not is_recorded():
        return _SumInside.apply(shares.flatten(2), feature_map.flatten(2))
    if not feature_map.requires_grad:
        return torch.einsum("bnhw,bchw->bnc", shares, feature_map)
    # the other way round, so that the gradient of the map is laid out as the map is
    sums = torch.bmm(feature_map.flatten(2), shares.flatten(2).transpose(1, 2))
    return sums.transpose(1, 2)


class _SumInside(torch.autograd.Function):
    """(B, N, P) shares and (B, C, P) features -> (B, N, C).

    Autograd would make the shares' gradient the other way round, of a long matrix on the left, in
    ten times the time on a CPU.
    """

    @staticmethod
    def forward(ctx, shares, features):
        for_shares, for_features = ctx.needs_input_grad
        ctx.save_for_backward(shares if for_features else None, features if for_shares else None)
        return torch.bmm(features, shares.transpose(1, 2)).transpose(1, 2)

    @staticmethod
    def backward(ctx, of_sums):
        shares, features = ctx.saved_tensors
        # sums of many pixels: a caller's autocast would round them
        with without_autocast(of_sums.device):
            of_shares = None if features is None else torch.bmm(of_sums, features)
            of_features = None if shares is None else torch.bmm(of_sums.transpose(1, 2), shares)
        return of_shares, of_features


def _matrix(transform: nn.Conv2d) -> Tuple[torch.Tensor, torch.Tensor]:
    return transform.weight.flatten(1), transform.bias
