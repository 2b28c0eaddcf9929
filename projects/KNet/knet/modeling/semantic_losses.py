"""Losses of maps that give each pixel or cell one of K classes: cross entropy, focal loss, dice.

Shape shorthand: B images, K classes, h x w the labels' map.
"""

from typing import Tuple

import torch
from fvcore.nn.distributed import differentiable_all_reduce
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .autocast import without_autocast
from .losses import focal_loss_sum
from .strips import strips_of

__all__ = [
    "SEMANTIC_LOSSES",
    "class_dice_loss",
    "cross_entropy_and_dice",
    "cross_entropy_of_cells",
    "focal_loss_of_cells",
]


def focal_loss_of_cells(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The paper's: a cell without label is a negative of every class.

    Args:
        logits: (B, K, h, w).
        label: (B, h, w), -1 for none.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    return focal_loss_sum(logits, (label[:, None] == classes).float())


def cross_entropy_of_cells(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """One class a cell, by a softmax; a cell without label adds nothing. Shapes as above."""
    return F.cross_entropy(logits, label, ignore_index=-1, reduction="sum")


SEMANTIC_LOSSES = {"focal": focal_loss_of_cells, "cross_entropy": cross_entropy_of_cells}


def cross_entropy_and_dice(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_label: int = 255,
    eps: float = 1e-3,
    over_batch: bool = False,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy, summed, and a dice loss a class, of one softmax for both.

    Dice is 1 - 2 sum(p t) / (sum p^2 + sum t + 2 eps), mean over the classes of the batch's labels;
    sums over all labelled pixels of the batch: a class of few pixels counts as much as one of many,
    as it does in mIoU.

    Args:
        logits: (B, K, any height, any width) float, resized bilinearly to the labels' size.
        labels: (B, h, w) int64.
        ignore_label: of pixels without label; without any labelled pixel both losses are 0.
        over_batch: dice's sums over the images of all processes, the same in each.
    """
    with torch.autocast(device_type=logits.device.type, enabled=False):
        cross_entropy, overlap, squares, wanted = _SoftmaxSums.apply(logits, labels, ignore_label)
    if over_batch:
        sums = torch.stack((overlap, squares, wanted))
        overlap, squares, wanted = differentiable_all_reduce(sums)
    size = squares + wanted + 2 * eps
    present = wanted > 0
    dice = torch.where(present, 1 - 2 * overlap / size, 0.0)
    return cross_entropy, dice.sum() / present.sum().clamp(min=1)


def class_dice_loss(logits: torch.Tensor, labels: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """The dice loss of :func:`cross_entropy_and_dice` alone; the same arguments."""
    return cross_entropy_and_dice(logits, labels, *args, **kwargs)[1]


class _SoftmaxSums(torch.autograd.Function):
    """Of p = softmax(logits at the labels' size) and the labels' one-hot t: -sum t log p and, a
    class, sum p t, sum p^2 and sum t. Over labelled pixels.

    Of all maps at the labels' size p alone is kept, where autograd would keep six; the rest exists
    strip by strip.
    """

    @staticmethod
    def forward(ctx, logits, labels, ignore_label):
        strips = strips_of(logits, labels.shape[-2:])
        valid = labels != ignore_label
        index = torch.where(valid, labels, 0)[:, None]
        valid = valid[:, None].to(logits.dtype)

        wide = strips.widen(logits)
        log_own, maps, squares = [], [], 0
        for strip, own, is_valid in zip(strips, strips.split(index), strips.split(valid)):
            p = strip.enlarge(wide).log_softmax(1)
            log_own.append(p.gather(1, own))
            maps.append(p.exp_().mul_(is_valid))
            squares = squares + p.square().sum((0, 2, 3))
        log_own = torch.cat(log_own, 2) * valid
        own = log_own.exp() * valid

        per_class = index.flatten()
        overlap = own.new_zeros(logits.shape[1]).scatter_add(0, per_class, own.flatten())
        wanted = torch.zeros_like(overlap).scatter_add(0, per_class, valid.flatten())
        ctx.mark_non_differentiable(wanted)
        ctx.save_for_backward(own, index, valid, *maps)
        ctx.strips, ctx.shape = strips, wide.shape
        # from 0: a negated sum of zeros, as of one class or of no label, would be -0
        return 0 - log_own.sum(), overlap, squares, wanted

    @staticmethod
    @once_differentiable
    def backward(ctx, of_cross_entropy, of_overlap, of_squares, _):
        # also where the caller's autocast is on, which would round the strips' products
        with without_autocast(of_squares.device):
            of_maps = _SoftmaxSums._gradient(ctx, of_cross_entropy, of_overlap, of_squares)
        return of_maps, None, None

    @staticmethod
    def _gradient(ctx, of_cross_entropy, of_overlap, of_squares):
        own, index, valid, *maps = ctx.saved_tensors
        # d/dz = p (d - sum(p d)) + (p - t) of_cross_entropy, with d = 2 p of_squares + t of_overlap
        of_own = own * of_overlap[index.flatten()].view_as(own)
        pixels = (index, of_own - of_cross_entropy, of_own - of_cross_entropy * valid)
        pixels = zip(*(ctx.strips.split(x) for x in pixels))
        of_wide = own.new_zeros(ctx.shape)
        for strip, p, (own_class, of_mean, at_label) in zip(ctx.strips, maps, pixels):
            gradient = p * (2 * of_squares)[:, None, None]
            mean = (p * gradient).sum(1, keepdim=True) + of_mean
            gradient.sub_(mean).mul_(p).scatter_add_(1, own_class, at_label)
            strip.add_gradient(gradient, of_wide)
        return ctx.strips.gradient(of_wide)
