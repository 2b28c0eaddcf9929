"""Criterion: matching and all losses of a batch (paper section 3.3).

Shape shorthand: B images, N kernels (instance, then stuff), T things, h x w the mask stride's map.
"""

from dataclasses import replace
from typing import Dict, List, Optional, Tuple

import numpy as np
import torch
from detectron2.config import configurable
from torch import nn

from ..data.class_layout import ClassLayout
from .cell_labels import (
    largest_share,
    rank_target,
    semantic_target,
    top_matched_kernel,
    top_stuff_class,
)
from .counts import Counts
from .losses import dice_loss, focal_loss_sum, mask_loss, point_loss, rank_loss
from .mask_iou import iou_loss, mask_ious
from .masks import resize
from .matcher import Matcher
from .normalizers import Normalizer
from .points import point_target, reachable, vote_loss
from .sampled_cells import AllCells, choose_cells
from .semantic_losses import SEMANTIC_LOSSES, cross_entropy_and_dice, cross_entropy_of_cells
from .structures import Pairs, Points, StagePrediction, Targets

__all__ = ["Criterion"]


class Criterion(nn.Module):
    """All losses of K-Net; every stage is matched on the prediction of the stage before it."""

    @configurable
    def __init__(
        self,
        *,
        matcher: Matcher,
        num_kernels: int,
        num_thing_classes: int,
        class_weight: float = 2.0,
        mask_weight: float = 1.0,
        dice_weight: float = 4.0,
        rank_weight: float = 0.1,
        semantic_weight: float = 1.0,
        point_weight: float = 1.0,
        vote_weight: float = 0.0,
        iou_weight: float = 1.0,
        semantic_loss: str = "focal",
        semantic_dice_weight: float = 0.0,
        normalizer: str = "process",
        sampled_cells: int = 0,
    ):
        """
        Args:
            matcher: finds the object of each instance kernel.
            num_kernels: instance kernels; those behind them are one per stuff class.
            num_thing_classes: thing classes, the first columns of the class branch.
            class_weight, mask_weight, dice_weight, rank_weight, semantic_weight, point_weight,
                vote_weight, iou_weight: weights of the losses; with a rank or vote weight of 0 that
                loss is left out (instance models have no rank loss). Point and vote loss are those
                of kernels that start at points, the IoU loss that of stages with such a branch.
            semantic_loss: of the semantic branch, a key of :data:`SEMANTIC_LOSSES`.
            semantic_dice_weight: of a dice loss beside it; 0 leaves it out.
            normalizer: what several processes divide by, one of :data:`.normalizers.SHARES`.
            sampled_cells: of an image, and of each mask, that losses look at; 0: all.
        """
        super().__init__()
        self.matcher = matcher
        self.num_kernels = num_kernels
        self.num_thing_classes = num_thing_classes
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.rank_weight = rank_weight
        self.semantic_weight = semantic_weight
        self.point_weight = point_weight
        self.vote_weight = vote_weight
        self.iou_weight = iou_weight
        self.semantic_dice_weight = semantic_dice_weight
        self.normalizer = Normalizer(normalizer)
        self.sampled_cells = sampled_cells
        self.semantic_loss_of_cells = SEMANTIC_LOSSES[semantic_loss]
        # of the parts of a batch, on the average, where one is a part
        self.counts_of_parts: Optional[Counts] = None

    @classmethod
    def from_config(cls, cfg, layout: ClassLayout):
        loss = cfg.MODEL.KNET.LOSS
        return {
            "matcher": Matcher(cfg),
            "num_kernels": cfg.MODEL.KNET.NUM_KERNELS,
            "num_thing_classes": layout.num_things,
            "class_weight": loss.CLASS_WEIGHT,
            "mask_weight": loss.MASK_WEIGHT,
            "dice_weight": loss.DICE_WEIGHT,
            # instance models have none (paper section 3.4)
            "rank_weight": loss.RANK_WEIGHT if layout.num_stuff else 0.0,
            "semantic_weight": loss.SEMANTIC_WEIGHT,
            "point_weight": loss.POINT_WEIGHT,
            "vote_weight": loss.VOTE_WEIGHT,
            "iou_weight": loss.IOU_WEIGHT,
            # the others look at labelled cells alone: without stuff none of these is no thing
            "semantic_loss": loss.SEMANTIC if layout.num_stuff else "focal",
            "semantic_dice_weight": loss.SEMANTIC_DICE_WEIGHT if layout.num_stuff else 0.0,
            "normalizer": loss.NORMALIZER,
            "sampled_cells": loss.SAMPLED_CELLS,
        }

    def forward(
        self, stages: List[StagePrediction], semantic_logits: torch.Tensor, targets: Targets
    ) -> Dict[str, torch.Tensor]:
        """
        Args:
            stages: the first masks (stage 0) and the prediction of each update stage; mask logits
                of another size are resized to that of the targets.
            semantic_logits: (B, K, H, W) of the semantic branch, resized likewise.
            targets: ground truth at the mask stride.

        Returns:
            ``loss_{mask,dice,rank}_s`` of stages 0.., ``loss_class_s`` of stages 1..,
            ``loss_iou_s`` of those with an IoU branch, ``loss_semantic``, with a weight
            ``loss_semantic_dice`` and, of kernels that start at points, ``loss_point`` and, with a
            weight, ``loss_vote``; scalars whose sum is the training loss.
        """
        # sums over all pixels of a mask overflow half precision
        with torch.autocast(device_type=semantic_logits.device.type, enabled=False):
            stages = [_in_float32(stage) for stage in stages]
            return self._losses(stages, semantic_logits.float(), targets)

    def _losses(
        self, stages: List[StagePrediction], semantic_logits: torch.Tensor, targets: Targets
    ) -> Dict[str, torch.Tensor]:
        cells = choose_cells(targets, self.sampled_cells)
        semantic_logits = cells.of_images(semantic_logits)
        seen = stages
        if self.rank_weight > 0:  # else those of the matched kernels are enough
            seen = [replace(s, mask_logits=cells.of_images(s.mask_logits)) for s in stages]
        matched, stuff = self.match(*cells.to_match(stages, seen))
        points = stages[0].points
        # an object that no point is on is an object all the same
        num_things = len(matched[0].image) if points is None else sum(targets.num_things)
        num_positive, parts = num_things + len(stuff.image), self.counts_of_parts
        if parts is not None:
            num_positive = parts.matched if points is None else parts.present
        num_positive = self.normalizer.averaged(num_positive, semantic_logits.device)
        top_stuff = top_stuff_class(cells.targets)
        losses = {}
        if points is not None:
            losses.update(self.point_losses(points, targets))
        for index, stage in enumerate(stages):
            things = matched[self.matched_on(index)]
            top_kernel = top_matched_kernel(things, cells.targets)
            if index == 0:
                if points is None:
                    label = self.matched_label(things, top_kernel, top_stuff, targets)
                else:
                    label = largest_share(cells.targets, self.num_thing_classes)
                losses.update(self.semantic_losses(semantic_logits, label))
            else:
                losses[f"loss_class_{index}"] = self.class_loss(
                    stage.class_logits, things, stuff, targets, num_positive
                )
            of_masks = cells.of_masks(stage.mask_logits, things, stuff if index else None)
            stage_losses = self.mask_losses(*of_masks)
            if stage.iou_logits is not None:
                stage_losses["loss_iou"] = self.iou_loss(stage, things, targets)
            if self.rank_weight > 0:
                logits, winner = seen[index].mask_logits, top_kernel
                if index == 0:  # a slice, [:, :n], would copy the gradient once a dimension
                    logits = logits.narrow(1, 0, self.num_kernels)
                else:
                    winner = rank_target(top_kernel, top_stuff, self.num_kernels)
                num_pixels = self.normalizer.own(winner.numel(), logits.device)
                rank = rank_loss(logits, winner, num_pixels)
                stage_losses["loss_rank"] = self.rank_weight * rank
            losses.update({f"{name}_{index}": loss for name, loss in stage_losses.items()})
        return losses

    @staticmethod
    def matched_on(stage: int) -> int:
        """Whose prediction a stage is matched on: the stage before it; the first masks' own."""
        return max(stage - 1, 0)

    @torch.no_grad()
    def match(self, stages: List[StagePrediction], targets: Targets) -> Tuple[List[Pairs], Pairs]:
        """Match all stages of all images, with one copy to the host and one back.

        A kernel that starts at a point may only take an object that has a share in its cell.

        Returns:
            the matches made on the prediction of stage 0, 1, ..., of which :meth:`matched_on`
            tells the one that a stage learns by; and the stuff kernels whose class is there.
        """
        sources = stages[: self.matched_on(len(stages) - 1) + 1]
        points = stages[0].points
        allowed = None if points is None else reachable(points, targets)
        costs = torch.stack([self._costs(stage, targets, allowed) for stage in sources])
        present = targets.stuff_present
        packed = torch.cat((costs.flatten(), present.flatten().to(costs.dtype))).cpu().numpy()
        costs_host = packed[: costs.numel()].reshape(costs.shape)
        present_host = packed[costs.numel() :].reshape(present.shape) > 0

        solved = self.matcher.solve(costs_host, targets.num_things)
        groups = [
            np.concatenate(
                [
                    np.stack((np.full_like(kernel, image), kernel, target))
                    for image, (kernel, target) in enumerate(stage)
                ],
                axis=1,
            )
            for stage in solved
        ]
        image, stuff_class = present_host.nonzero()
        groups.append(np.stack((image, stuff_class + self.num_kernels, stuff_class)))
        sizes = [group.shape[1] for group in groups]
        indices = torch.from_numpy(np.concatenate(groups, axis=1)).long().to(costs.device)
        *matched, stuff = [Pairs(*group) for group in indices.split(sizes, dim=1)]
        return matched, stuff

    def _costs(
        self, stage: StagePrediction, targets: Targets, allowed: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        class_logits = stage.class_logits
        if class_logits is not None:
            class_logits = class_logits[:, : self.num_kernels, : self.num_thing_classes]
        mask_logits = stage.mask_logits[:, : self.num_kernels]
        mask_logits = resize(mask_logits, targets.thing_masks.shape[-2:])
        return self.matcher.costs(mask_logits, class_logits, targets, allowed)

    def class_loss(
        self, logits: torch.Tensor, things: Pairs, stuff: Pairs, targets: Targets, num_positive
    ) -> torch.Tensor:
        """Focal loss: instance kernels on thing columns, stuff kernel c on column c only.

        Args:
            logits: (B, N, K).
            num_positive: normaliser.
        """
        thing_logits = logits[:, : self.num_kernels, : self.num_thing_classes].float()
        thing_target = torch.zeros_like(thing_logits)
        thing_class = targets.thing_classes[things.image, things.target]
        thing_target[things.image, things.kernel, thing_class] = 1
        stuff_logits = logits[:, self.num_kernels :, self.num_thing_classes :].float()
        stuff_logits = stuff_logits.diagonal(dim1=1, dim2=2)
        stuff_target = targets.stuff_present.to(stuff_logits.dtype)
        total = focal_loss_sum(thing_logits, thing_target)
        total = total + focal_loss_sum(stuff_logits, stuff_target)
        return self.class_weight * total / num_positive

    def mask_losses(self, predicted: torch.Tensor, wanted: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Mask and dice loss of one stage.

        Args:
            predicted: (P, ...) logits.
            wanted: of the same shape.
        """
        num_cells, num_masks = (
            self.normalizer.own(count, predicted.device) for count in (wanted.numel(), len(wanted))
        )
        return {
            "loss_mask": self.mask_weight * mask_loss(predicted, wanted, num_cells),
            "loss_dice": self.dice_weight * dice_loss(predicted, wanted, count=num_masks),
        }

    def iou_loss(self, stage: StagePrediction, things: Pairs, targets: Targets) -> torch.Tensor:
        """Loss of the IoU branch; the IoU is that of all cells."""
        masks = AllCells(targets).of_masks(stage.mask_logits.detach(), things, None)
        predicted = stage.iou_logits[things.image, things.kernel].float()
        num_masks = self.normalizer.own(len(predicted), predicted.device)
        return self.iou_weight * iou_loss(predicted, mask_ious(*masks), num_masks)

    def point_losses(self, points: Points, targets: Targets) -> Dict[str, torch.Tensor]:
        """Focal loss of the point map and distance of the votes, per object of the mean worker."""
        _, num_classes, *size = points.logits.shape
        target, num_objects = point_target(targets, num_classes, tuple(size))
        if self.counts_of_parts is not None:
            num_objects = self.counts_of_parts.middles
        normaliser = self.normalizer.averaged(num_objects, points.logits.device)
        total = point_loss(points.logits.float(), target)
        losses = {"loss_point": self.point_weight * total / normaliser}
        if self.vote_weight > 0 and points.votes is not None:
            total = vote_loss(points.votes.float(), targets.thing_masks)
            losses["loss_vote"] = self.vote_weight * total / normaliser
        return losses

    def matched_label(
        self,
        things: Pairs,
        top_kernel: torch.Tensor,
        top_stuff: torch.Tensor,
        targets: Targets,
    ) -> torch.Tensor:
        """(B, h, w) class of each cell, see :func:`semantic_target`; matched things alone."""
        class_of_kernel = top_kernel.new_zeros((len(top_kernel), self.num_kernels))
        thing_class = targets.thing_classes[things.image, things.target]
        class_of_kernel[things.image, things.kernel] = thing_class
        return semantic_target(top_kernel, top_stuff, class_of_kernel, self.num_thing_classes)

    def semantic_losses(self, logits: torch.Tensor, label: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Losses of the semantic branch: per labelled cell of this worker's images, and dice.

        Args:
            logits: (B, K, h, w).
            label: (B, h, w) class of each cell, -1 for none (ignored, crowd, padding).
        """
        num_labelled = (label >= 0).sum()
        shared = self.normalizer.own(num_labelled, logits.device)
        num_labelled = num_labelled.clamp(min=1) if shared is None else shared
        logits = logits.float()
        if self.semantic_dice_weight <= 0:
            total = self.semantic_loss_of_cells(logits, label)
            return {"loss_semantic": self.semantic_weight * total / num_labelled}
        over_batch = self.normalizer.over_batch
        total, dice = cross_entropy_and_dice(logits, label, -1, over_batch=over_batch)
        if self.semantic_loss_of_cells is not cross_entropy_of_cells:
            total = self.semantic_loss_of_cells(logits, label)
        return {
            "loss_semantic": self.semantic_weight * total / num_labelled,
            "loss_semantic_dice": self.semantic_dice_weight * dice,
        }


def _in_float32(stage: StagePrediction) -> StagePrediction:
    classes = stage.class_logits
    return replace(
        stage,
        mask_logits=stage.mask_logits.float(),
        class_logits=None if classes is None else classes.float(),
    )
