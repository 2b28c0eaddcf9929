"""How good a mask is: its IoU with its object, learned from the kernel that made it.

Not the paper's: a class score says what a kernel found, not how well it outlines that (Huang et
al., "Mask Scoring R-CNN"). The branch is one of :class:`knet.modeling.KernelUpdateHead`.

Shape shorthand: B images, N kernels, K classes, P pairs of kernel and object, h x w their map.
"""

from dataclasses import replace

import torch
from torch.nn import functional as F

from .losses import Count
from .structures import StagePrediction

__all__ = ["iou_loss", "mask_ious", "weigh_classes"]


@torch.no_grad()
def mask_ious(mask_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """IoU of each mask, where its probability is above a half, with its object.

    Args:
        mask_logits: (P, h, w).
        target: (P, h, w) soft masks; a cell is an object's that has more than half of it.

    Returns:
        (P,), 0 where there is neither mask nor object.
    """
    found, wanted = (mask_logits > 0).flatten(1), (target > 0.5).flatten(1)
    shared, either = (found & wanted).sum(1), (found | wanted).sum(1)
    return shared / either.clamp(min=1)


def iou_loss(iou_logits: torch.Tensor, ious: torch.Tensor, count: Count = None) -> torch.Tensor:
    """Binary cross entropy, mean over pairs.

    Args:
        iou_logits: (P,).
        ious: (P,), of :func:`mask_ious`.
        count: P of a mean over more than these, see :mod:`.normalizers`.

    Returns:
        scalar; zero, with a gradient path, where P is 0.
    """
    loss = F.binary_cross_entropy_with_logits(iou_logits, ious, reduction="sum")
    return loss / (max(len(ious), 1) if count is None else count)


def weigh_classes(stage: StagePrediction, num_kernels: int) -> StagePrediction:
    """With class scores that are multiplied by the masks' IoU, if there is such a branch.

    Args:
        stage: its class logits are (B, N, K), its IoU logits (B, N).
        num_kernels: instance kernels, the first of N; the scores of stuff stay.
    """
    if stage.iou_logits is None:
        return stage
    classes, ious = stage.class_logits.float(), stage.iou_logits.float()[..., None]
    of_things, of_stuff = classes[:, :num_kernels], classes[:, num_kernels:]
    of_things = _logit_of_product(of_things, ious[:, :num_kernels])
    return replace(stage, class_logits=torch.cat((of_things, of_stuff), dim=1))


def _logit_of_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """logit(sigmoid(a) sigmoid(b)) = -log(e^-a + e^-b + e^-(a + b)), exact where they saturate."""
    terms = torch.stack(torch.broadcast_tensors(-first, -second, -first - second))
    return -terms.logsumexp(0)
