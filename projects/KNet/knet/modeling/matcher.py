"""Bipartite matching of instance kernels and objects (paper section 3.3).

Shape shorthand: B images, N instance kernels, T objects (padded), h x w the mask stride's map.
"""

import logging
from typing import List, Optional, Tuple

import numpy as np
import torch
from detectron2.config import configurable
from scipy.optimize import linear_sum_assignment

from .structures import Targets

__all__ = ["Matcher", "class_cost", "dice_cost", "hungarian", "mask_cost"]

logger = logging.getLogger(__name__)

# Cost of a pair that must not be: far above what weighted costs reach, far below float32's end
IMPOSSIBLE = 1e6


def class_cost(
    class_logits: torch.Tensor, classes: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> torch.Tensor:
    """Focal cost of each kernel for each object's class.

    Args:
        class_logits: (B, N, K).
        classes: (B, T) class of each object.

    Returns:
        (B, N, T).
    """
    eps = 1e-12
    p = class_logits.sigmoid()
    positive = alpha * (1 - p) ** gamma * -(p + eps).log()
    negative = (1 - alpha) * p**gamma * -(1 - p + eps).log()
    index = classes[:, None, :].expand(-1, p.shape[1], -1)
    return (positive - negative).gather(2, index)


def mask_cost(
    probability: torch.Tensor, target: torch.Tensor, overlap: torch.Tensor
) -> torch.Tensor:
    """Minus the mean over pixels of p t + (1 - p)(1 - t), for every pair.

    Args:
        probability: (B, N, P), p at P pixels.
        target: (B, T, P), t.
        overlap: (B, N, T), sum of p t.

    Returns:
        (B, N, T).
    """
    pixels = probability.shape[-1]
    # sum (1-p)(1-t) = P - sum p - sum t + sum p t
    rest = probability.sum(-1)[:, :, None] + target.sum(-1)[:, None, :]
    return -(2 * overlap - rest + pixels) / pixels


def dice_cost(
    probability: torch.Tensor, target: torch.Tensor, overlap: torch.Tensor, eps: float = 1e-3
) -> torch.Tensor:
    """Minus the soft dice coefficient, squared denominator, for every pair.

    Shapes as in :func:`mask_cost`.
    """
    of_masks, of_targets = (torch.einsum("bnp,bnp->bn", x, x) for x in (probability, target))
    return -2 * overlap / (of_masks[:, :, None] + of_targets[:, None, :] + 2 * eps)


def hungarian(cost: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Cheapest one-to-one assignment; the smaller side is assigned completely.

    A pair whose cost is NaN or infinite is taken only where no finite choice is left, and the
    fewest such pairs are taken.

    Args:
        cost: (N, T).

    Returns:
        matched kernels, rising, and the object of each.
    """
    cost = np.asarray(cost, dtype=np.float64)
    finite = np.isfinite(cost)
    if not finite.all():
        logger.warning(
            "%d of %d matching costs are NaN or infinite: the predicted masks or classes are; "
            "lower SOLVER.BASE_LR if the loss is not finite",
            (~finite).sum(),
            cost.size,
        )
        real = finite & (cost != IMPOSSIBLE)
        best, worst = (cost[real].min(), cost[real].max()) if real.any() else (0.0, 0.0)
        # dearer than any sum of real costs could save, cheaper than what must not be
        forbidden = worst + (worst - best + 1) * (min(cost.shape) + 1)
        cost = np.where(finite, cost, forbidden)
    return linear_sum_assignment(cost)


class Matcher:
    """Weighted sum of class, mask and dice costs, solved per stage and image on the host."""

    @configurable
    def __init__(
        self, *, class_weight: float = 2.0, mask_weight: float = 1.0, dice_weight: float = 4.0
    ):
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight

    @classmethod
    def from_config(cls, cfg):
        matcher = cfg.MODEL.KNET.MATCHER
        return {
            "class_weight": matcher.CLASS_WEIGHT,
            "mask_weight": matcher.MASK_WEIGHT,
            "dice_weight": matcher.DICE_WEIGHT,
        }

    @torch.no_grad()
    def costs(
        self,
        mask_logits: torch.Tensor,
        class_logits: Optional[torch.Tensor],
        targets: Targets,
        allowed: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """
        Args:
            mask_logits: (B, N, h, w) of the instance kernels.
            class_logits: (B, N, number of thing classes), or None for a match by mask alone.
            targets: things of the batch.
            allowed: (B, N, T) bool, pairs that may be matched; all of them if None.

        Returns:
            (B, N, T); columns of padded objects mean nothing.
        """
        probability = mask_logits.float().sigmoid().flatten(2)
        target = targets.thing_masks.flatten(2)
        overlap = probability @ target.transpose(1, 2)
        cost = self.mask_weight * mask_cost(probability, target, overlap)
        cost = cost + self.dice_weight * dice_cost(probability, target, overlap)
        if class_logits is not None:
            cost = cost + self.class_weight * class_cost(
                class_logits.float(), targets.thing_classes
            )
        if allowed is not None:
            cost = torch.where(allowed, cost, IMPOSSIBLE)
        return cost

    def solve(
        self, costs: np.ndarray, num_things: List[int]
    ) -> List[List[Tuple[np.ndarray, np.ndarray]]]:
        """
        Args:
            costs: (stages, B, N, T) on the host.
            num_things: B, real objects of each image.

        Returns:
            per stage and image the matched kernels, rising, and the object of each. As few
            impossible pairs as can be are taken, and these are left out.
        """
        return [
            [_possible_pairs(image[:, :count]) for image, count in zip(stage, num_things)]
            for stage in costs
        ]


def _possible_pairs(cost: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    kernel, target = hungarian(cost)
    possible = cost[kernel, target] != IMPOSSIBLE
    return kernel[possible], target[possible]
