"""Inference: kernels' masks and class scores -> Detectron2's panoptic, instance, semantic results.

Shape shorthand: N kernels (instance, then stuff), K classes (things, then stuff), H x W the
size of the result.
"""

from typing import Dict, List, Tuple

import torch
from detectron2.config import configurable
from detectron2.structures import Boxes, Instances

from ..data.class_layout import ClassLayout
from .enlarging import SLACK, EnlargedLogits, EnlargedMasks, ImageSizes

__all__ = ["Postprocessor", "mask_quality", "masks_to_boxes", "merge_panoptic"]


def mask_quality(masks: EnlargedMasks, threshold: float = 0.5) -> torch.Tensor:
    """Mean probability of each mask over the pixels above the threshold, 0 for an empty one.

    Args:
        masks: N probabilities.

    Returns:
        (N,).
    """
    total = torch.zeros(len(masks), device=masks.device)
    count = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    full = masks.inside(threshold)
    for block in masks.blocks(masks.crossing(threshold)):
        inside = block.values > threshold
        total += block.sum_of_masks(block.values * inside, len(masks))
        count += block.sum_of_masks(inside, len(masks))
        full[block.mask, block.index[:, None]] = False  # counted
    total += masks.sums(full)
    count += (full * masks.pixels).sum(1)
    return total / count.clamp(min=1)


def binary_masks(masks: EnlargedMasks, threshold: float) -> torch.Tensor:
    """(N, H, W) bool, the pixels above the threshold."""
    maps = masks.new_maps(len(masks), masks.inside(threshold))
    for block in masks.blocks(masks.crossing(threshold)):
        row, column = masks.place(block)
        above = (block.values > threshold).transpose(1, 2)  # (t, K, S, S)
        maps[block.mask, row, :, column] = above
    return masks.cut(maps)


def masks_to_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Tight boxes (x0, y0, x1, y1), the far side exclusive; zeros for an empty mask.

    Equal to ``BitMasks.get_bounding_boxes``, which loops over masks.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) float32.
    """

    def extent(line: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        position = torch.arange(1, line.shape[1] + 1, device=line.device)
        last = (line * position).amax(1)
        first = line.shape[1] - (line * position.flip(0)).amax(1)
        return torch.where(last > 0, first, 0), last

    if masks.numel() == 0:
        return masks.new_zeros((len(masks), 4), dtype=torch.float32)
    x0, x1 = extent(masks.any(1))
    y0, y1 = extent(masks.any(2))
    return torch.stack((x0, y0, x1, y1), dim=1).float()


def merge_panoptic(
    masks: EnlargedMasks,
    scores: torch.Tensor,
    is_thing: torch.Tensor,
    score_threshold: float = 0.3,
    overlap_threshold: float = 0.6,
    mask_threshold: float = 0.5,
    things_first: bool = False,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give every pixel to one kernel, then drop weak kernels (paper's implementation details).

    A pixel goes to the kernel with the highest score x mask probability, of all kernels. A thing
    below the score threshold, a kernel that won less than the overlap threshold of its own area,
    and one without area are dropped; their pixels stay void.

    Args:
        masks: N probabilities.
        scores: (N,) one score per kernel.
        is_thing: (N,) bool; stuff has no score threshold.
        things_first: drop the things below the score threshold before pixels are given away, not
            after, and give the pixels inside the others' masks to these, whatever the stuff scores;
            the area of stuff is then what it has beside them.

    Returns:
        the segment id of each pixel (H, W) int32, 0 for void; the segment id of each kernel (N,)
        int32, 1.. by falling score, 0 for a dropped one; the pixels that each kernel won (N,).
    """
    weak = is_thing & (scores < score_threshold)
    winner, own = _give_pixels(masks, scores, is_thing, weak, mask_threshold, things_first)
    won = torch.zeros_like(own)
    # not bincount: on a GPU that waits for the device to learn its length
    won.scatter_add_(0, winner.flatten(), won.new_ones(()).expand(winner.numel()))
    keep = (won > 0) & (own > 0) & ~weak
    keep &= won.double() / own.clamp(min=1).double() >= overlap_threshold

    # a kept kernel's id is its place among the kept ones, visited by falling score
    order = torch.argsort(scores, descending=True, stable=True)
    kept = keep[order]
    segment_ids = torch.zeros(len(masks), dtype=torch.int32, device=scores.device)
    segment_ids[order] = torch.where(kept, kept.cumsum(0), 0).to(torch.int32)
    return segment_ids[winner], segment_ids, won


def _give_pixels(
    masks: EnlargedMasks,
    scores: torch.Tensor,
    is_thing: torch.Tensor,
    weak: torch.Tensor,
    threshold: float,
    things_first: bool,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """
    Args:
        weak: (N,) bool, kernels that are dropped whatever they win.
        masks, scores, is_thing, threshold, things_first: see :func:`merge_panoptic`.

    Returns:
        the kernel of each pixel (H, W) int64, and the area of each kernel that is not weak (N,).
    """
    ahead, out = (is_thing & ~weak & things_first), weak & things_first

    def rank(values: torch.Tensor, inside: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """Score x mask, 0..1, and 1 more for what things that go ahead have in their masks."""
        value = values * scores[kernel]
        if things_first:
            value = value + (ahead[kernel] & inside)
            value = value.masked_fill(out[kernel], -1.0)
        return value

    all_kernels = torch.arange(len(masks), device=scores.device)[:, None]
    full, crossing = masks.inside(threshold), masks.crossing(threshold)
    least = rank(masks.lowest, full, all_kernels).amax(0)
    wanted = rank(masks.highest, full | crossing, all_kernels) >= least - SLACK  # they may win
    wanted |= crossing & ~weak[:, None]
    taken = (full & ahead[:, None]).any(0)  # whole blocks, by things that go ahead
    if things_first:  # what stuff has beside things
        wanted |= full & ~is_thing[:, None] & (crossing & ahead[:, None]).any(0)

    own = torch.zeros(len(masks), dtype=torch.long, device=scores.device)
    winner = masks.new_maps(1, torch.zeros_like(taken, dtype=torch.long))
    for block in masks.blocks(wanted):
        kernel = block.mask[:, None, :, None]
        inside = block.values >= threshold
        best = rank(block.values, inside, kernel).max(2).indices
        row, column = masks.place(block)
        winner[0, row, :, column] = block.mask.gather(1, best.flatten(1)).view_as(best)[:, None]
        if things_first:
            here = (ahead[kernel] & inside).any(2, keepdim=True)
            here |= taken[block.index].view(-1, 1, 1, 1)
            inside &= is_thing[kernel] | ~here
        own += block.sum_of_masks(inside, len(masks))
        full[block.mask, block.index[:, None]] = False  # counted
    full &= is_thing[:, None] | ~taken
    return masks.cut(winner)[0], own + (full * masks.pixels).sum(1)


class Postprocessor:
    """Turns the last stage's prediction of one image into Detectron2's outputs."""

    @configurable
    def __init__(
        self,
        *,
        layout: ClassLayout,
        num_kernels: int,
        panoptic_on: bool = True,
        instance_on: bool = True,
        semantic_on: bool = True,
        score_threshold: float = 0.3,
        overlap_threshold: float = 0.6,
        mask_threshold: float = 0.5,
        max_instances: int = 100,
        mask_quality: bool = False,
        mask_quality_power: float = 1.0,
        things_first: bool = False,
        enlarge_logits: bool = False,
    ):
        """
        Args:
            layout: the classes; results are in the data set's contiguous ids.
            num_kernels: instance kernels; those behind them are one per stuff class.
            panoptic_on, instance_on, semantic_on: which results to make.
            score_threshold, overlap_threshold: see :func:`merge_panoptic`.
            mask_threshold: a pixel is in an instance's mask above it.
            max_instances: instances an image; no score threshold, no NMS.
            mask_quality: multiply the scores of instances by :func:`mask_quality`.
            mask_quality_power: the power to which it is raised first.
            things_first: see :func:`merge_panoptic`.
            enlarge_logits: masks become probabilities after they are enlarged, not before.
        """
        self.layout = layout
        self.num_kernels = num_kernels
        self.panoptic_on = panoptic_on
        self.instance_on = instance_on
        self.semantic_on = semantic_on
        self.score_threshold = score_threshold
        self.overlap_threshold = overlap_threshold
        self.mask_threshold = mask_threshold
        self.max_instances = max_instances
        self.mask_quality = mask_quality
        self.mask_quality_power = mask_quality_power
        self.things_first = things_first
        self.enlarge_logits = enlarge_logits

    @classmethod
    def from_config(cls, cfg, layout: ClassLayout):
        test = cfg.MODEL.KNET.TEST
        return {
            "layout": layout,
            "num_kernels": cfg.MODEL.KNET.NUM_KERNELS,
            "panoptic_on": test.PANOPTIC_ON,
            "instance_on": test.INSTANCE_ON,
            "semantic_on": test.SEMANTIC_ON,
            "score_threshold": test.SCORE_THRESHOLD,
            "overlap_threshold": test.OVERLAP_THRESHOLD,
            "mask_threshold": cfg.MODEL.KNET.MASK_THRESHOLD,
            "max_instances": test.MAX_INSTANCES,
            "mask_quality": test.MASK_QUALITY,
            "mask_quality_power": test.MASK_QUALITY_POWER,
            "things_first": test.THINGS_FIRST,
            "enlarge_logits": test.ENLARGE_LOGITS,
        }

    def __call__(
        self, class_logits: torch.Tensor, mask_logits: torch.Tensor, sizes: ImageSizes
    ) -> Dict:
        """
        Args:
            class_logits: (N, K).
            mask_logits: (N, h, w) at the mask stride.
            sizes: of the image.

        Returns:
            ``panoptic_seg``, ``instances``, ``sem_seg`` as Detectron2 defines them, those that
            are switched on. Each segment and each instance tells its kernel, 0 to N - 1.
        """
        mask_logits = mask_logits.float()
        if self.enlarge_logits:
            masks = EnlargedLogits(mask_logits, sizes)
        else:
            masks = EnlargedMasks(mask_logits.sigmoid(), sizes)
        return self.results(class_logits.float().sigmoid(), masks)

    def results(self, class_scores: torch.Tensor, masks: EnlargedMasks) -> Dict:
        """The same of probabilities: (N, K), and N masks."""
        scores, labels = self.kernel_labels(class_scores)
        results = {}
        if self.panoptic_on:
            results["panoptic_seg"] = self.panoptic(masks, scores, labels)
        if self.instance_on:
            results["instances"] = self.instances(masks, class_scores)
        if self.semantic_on:
            results["sem_seg"] = self.semantic(masks, scores, labels)
        return results

    def kernel_labels(self, class_scores: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Score and model class of each kernel: the best thing class, or stuff kernel's own.

        Args:
            class_scores: (N, K).

        Returns:
            (N,) and (N,).
        """
        num_things = self.layout.num_things
        score, label = class_scores[: self.num_kernels, :num_things].max(1)
        stuff_score = class_scores[self.num_kernels :, num_things:].diagonal()
        stuff_label = torch.arange(len(stuff_score), device=label.device) + num_things
        return torch.cat((score, stuff_score)), torch.cat((label, stuff_label))

    def panoptic(
        self, masks: EnlargedMasks, scores: torch.Tensor, labels: torch.Tensor
    ) -> Tuple[torch.Tensor, List[Dict]]:
        """
        Args:
            masks: N probabilities; scores, labels: (N,) of :meth:`kernel_labels`.

        Returns:
            (H, W) int32 segment ids, 0 for void, and Detectron2's ``segments_info``.
        """
        segments, segment_ids, areas = merge_panoptic(
            masks,
            scores,
            labels < self.layout.num_things,
            self.score_threshold,
            self.overlap_threshold,
            self.mask_threshold,
            self.things_first,
        )
        # one transfer for all segments
        kernels = torch.stack([x.double() for x in (segment_ids, labels, scores, areas)], dim=1)
        kept = sorted((*row, i) for i, row in enumerate(kernels.tolist()) if row[0] > 0)
        ids = self.layout.ids
        info = [
            {
                "id": int(segment_id),
                "isthing": label < self.layout.num_things,
                "category_id": ids[int(label)],
                "score": score,
                "area": int(area),
                "kernel": kernel,
            }
            for segment_id, label, score, area, kernel in kept
        ]
        return segments, info

    def instances(self, masks: EnlargedMasks, class_scores: torch.Tensor) -> Instances:
        """The best (kernel, class) pairs of the instance kernels; a mask may come twice.

        Args:
            masks: N probabilities.
            class_scores: (N, K).
        """
        num_things = self.layout.num_things
        if self.mask_quality:
            quality = mask_quality(masks, self.mask_threshold) ** self.mask_quality_power
            class_scores = class_scores * quality[:, None]
        flat = class_scores[: self.num_kernels, :num_things].flatten()
        scores, index = flat.topk(min(self.max_instances, len(flat)))
        kernel = torch.div(index, num_things, rounding_mode="floor")
        result = Instances(masks.size)
        result.pred_masks = binary_masks(masks[kernel], self.mask_threshold)
        result.pred_boxes = Boxes(masks_to_boxes(result.pred_masks))
        result.scores = scores
        ids = torch.tensor(self.layout.thing_ids, device=index.device)
        result.pred_classes = ids[index % num_things]
        result.pred_kernels = kernel
        return result

    def semantic(
        self, masks: EnlargedMasks, scores: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Per class the highest score x mask of its kernels.

        Returns:
            (largest contiguous id + 1, H, W); rows of ids that are no class are 0.
        """
        ids = self.layout.ids
        maps = masks.new_maps(max(ids) + 1, scores.new_zeros(masks.num_blocks))
        labels = labels.tolist()
        for rows, values in masks.scaled(scores).rows():  # (Tx, N, rows, S, S)
            for label, value in zip(labels, values.unbind(1)):
                so_far = maps[ids[label], rows].permute(2, 0, 1, 3)
                torch.maximum(so_far, value, out=so_far)
        return masks.cut(maps)
