"""The losses of K-Net as functions of tensors (paper section 3.3; the released constants).

Shape shorthand: B images, N kernels, P positive kernels, K classes, h x w the mask stride's map.
"""

from typing import Optional, Union

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = [
    "dice_loss",
    "focal_loss_sum",
    "mask_loss",
    "point_loss",
    "rank_loss",
]


def focal_loss_sum(
    logits: torch.Tensor, target: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> torch.Tensor:
    """Sigmoid focal loss (RetinaNet), summed over all elements of two tensors of one shape.

    fvcore's ``sigmoid_focal_loss``, which keeps eight tensors of this shape for its gradient; over
    all classes and cells they are a large part of a training's memory. Here it is one.

    Args:
        logits: of half precision they are computed with in single precision.
        target: 0 or 1.
    """
    target = target.to(torch.promote_types(logits.dtype, torch.float32))
    return _FocalLossSum.apply(logits, target, alpha, gamma)


class _FocalLossSum(torch.autograd.Function):
    """Sum of w q^g softplus(z) with z the logit of the wrong answer and q its probability."""

    @staticmethod
    def forward(ctx, logits, target, alpha, gamma):
        sign = 1 - 2 * target
        z = sign * logits
        q = z.sigmoid()
        loss = F.softplus(z)
        scale = q.pow(gamma) * torch.where(target > 0, alpha, 1 - alpha)
        total = (scale * loss).sum()
        # d/dz q^g softplus(z) = q^g (g (1 - q) softplus(z) + q)
        loss.mul_(1 - q).mul_(gamma).add_(q).mul_(scale).mul_(sign)
        ctx.save_for_backward(loss)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None


# What a sum is divided by; None: the number of its own terms
Count = Optional[Union[int, torch.Tensor]]


def mask_loss(mask_logits: torch.Tensor, target: torch.Tensor, count: Count = None) -> torch.Tensor:
    """Binary cross entropy, mean over positive kernels and pixels.

    Args:
        mask_logits: (P, h, w).
        target: (P, h, w) soft masks.
        count: P h w of a mean over more than these, see :mod:`.normalizers`.

    Returns:
        scalar; zero, with a gradient path, where P is 0.
    """
    loss = F.binary_cross_entropy_with_logits(mask_logits, target, reduction="sum")
    return loss / (max(target.numel(), 1) if count is None else count)


def dice_loss(
    mask_logits: torch.Tensor, target: torch.Tensor, eps: float = 1e-3, count: Count = None
) -> torch.Tensor:
    """1 - 2 sum(p t) / (sum p^2 + sum t^2 + 2 eps), mean over positive kernels.

    Shapes as in :func:`mask_loss`; ``count`` is P.
    """
    probability = mask_logits.sigmoid().flatten(1)
    target = target.flatten(1)
    overlap = (probability * target).sum(1)
    size = probability.square().sum(1) + target.square().sum(1) + 2 * eps
    return (1 - 2 * overlap / size).sum() / (max(len(target), 1) if count is None else count)


def rank_loss(
    mask_logits: torch.Tensor, top_kernel: torch.Tensor, count: Count = None
) -> torch.Tensor:
    """Softmax cross entropy over kernels at each pixel, mean over all pixels of the batch.

    Args:
        mask_logits: (B, N, h, w).
        top_kernel: (B, h, w) the kernel that should win the pixel, -1 for none: such a pixel
            adds nothing to the sum but counts in the mean.
        count: B h w of a mean over more than these.
    """
    loss = F.cross_entropy(mask_logits, top_kernel, ignore_index=-1, reduction="sum")
    return loss / (top_kernel.numel() if count is None else count)


def point_loss(
    logits: torch.Tensor, target: torch.Tensor, alpha: float = 2.0, beta: float = 4.0
) -> torch.Tensor:
    """CenterNet's focal loss of a point map, summed ("Objects as Points", equation 1).

    A cell whose target is 1 is a middle; the nearer to 1 another's is, the less it has to be 0.

    Args:
        logits, target: of one shape; target 0..1.
    """
    p = logits.sigmoid()
    middle = (target == 1).to(logits.dtype)
    positive = middle * (1 - p) ** alpha * F.logsigmoid(logits)
    negative = (1 - middle) * (1 - target) ** beta * p**alpha * F.logsigmoid(-logits)
    return -(positive + negative).sum()
