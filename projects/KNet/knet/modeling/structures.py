"""What the rooms of the model hand to each other.

Shape shorthand: B images, N kernels, K classes, C channels, H x W the map at the neck's stride,
h x w the map at the mask stride (where matching, losses and results live).
"""

from dataclasses import dataclass
from typing import List, Optional

import torch

__all__ = ["Pairs", "Points", "StagePrediction", "Targets"]


@dataclass
class Points:
    """Where the instance kernels of a :class:`knet.modeling.PointKernelHead` start."""

    logits: torch.Tensor  # (B, thing classes, H, W), is the middle of an object here
    cells: torch.Tensor  # (B, instance kernels) y * W + x
    votes: Optional[torch.Tensor] = None  # (B, 2, H, W) y and x of v, in 4 cells


@dataclass
class StagePrediction:
    """Kernels after a stage and what they predict (the paper's K_s, M_s)."""

    kernels: torch.Tensor  # (B, N, C)
    mask_logits: torch.Tensor  # (B, N, H, W)
    # (B, N, K); before the first update none, or what the points say
    class_logits: Optional[torch.Tensor] = None
    points: Optional[Points] = None  # of stage 0, where kernels start at points
    iou_logits: Optional[torch.Tensor] = None  # (B, N), of a stage with an IoU branch


@dataclass
class Targets:
    """Ground truth of a batch at the mask stride, padded to one number of things an image.

    A soft mask holds 0, .25, .5, .75 or 1: the share of an object in its cell.
    """

    thing_masks: torch.Tensor  # (B, T, h, w) soft masks, zeros where an image has fewer than T
    thing_classes: torch.Tensor  # (B, T) model class of each thing, 0 where padded
    num_things: List[int]  # B, how many of the T are real
    stuff_masks: torch.Tensor  # (B, S, h, w) soft mask of each stuff class
    stuff_present: torch.Tensor  # (B, S) bool, has the class a pixel at full resolution


@dataclass
class Pairs:
    """P pairs of a kernel and the target it learns from, as (P,) index tensors."""

    image: torch.Tensor
    kernel: torch.Tensor
    target: torch.Tensor  # of a thing kernel a row of thing_masks, of a stuff kernel its class
