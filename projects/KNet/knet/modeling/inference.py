"""Inference: kernels' masks and class scores -> Detectron2's panoptic, instance, semantic results.

Shape shorthand: N kernels (instance, then stuff), K classes (things, then stuff), H x W the
size of the result.
"""

from dataclasses import dataclass
from typing import Dict, List, Tuple

import torch
from detectron2.config import configurable
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from ..data.class_layout import ClassLayout

__all__ = [
    "Postprocessor",
    "mask_quality",
    "masks_to_boxes",
    "merge_panoptic",
    "resize_masks",
]

# An image is scored in strips of about so many pixels: at 12 megapixels the scores of all kernels
# at once are 7 GB.
_STRIP_PIXELS = 2**18


def resize_masks(
    mask_logits: torch.Tensor,
    padded_size: Tuple[int, int],
    image_size: Tuple[int, int],
    output_size: Tuple[int, int],
) -> torch.Tensor:
    """Mask probabilities at the size that the user wants.

    Args:
        mask_logits: (N, h, w) at the mask stride of the padded image.
        padded_size, image_size, output_size: (height, width) of the padded input, of the input
            before padding, and of the result.

    Returns:
        (N, H, W) of the output size.
    """
    masks = mask_logits.float().sigmoid()[None]
    masks = F.interpolate(masks, padded_size, mode="bilinear", align_corners=False)
    masks = masks[:, :, : image_size[0], : image_size[1]]
    if tuple(output_size) != tuple(image_size):
        masks = F.interpolate(masks, output_size, mode="bilinear", align_corners=False)
    return masks[0]


def mask_quality(masks: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """Mean probability of each mask over the pixels above the threshold, 0 for an empty one.

    Args:
        masks: (N, H, W) probabilities.

    Returns:
        (N,).
    """
    total, count = 0, 0
    for strip in _row_strips(masks):
        inside = strip > threshold
        total = total + (strip * inside).sum((1, 2))
        count = count + inside.sum((1, 2))
    return total / count.clamp(min=1)


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
    masks: torch.Tensor,
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
        masks: (N, H, W) probabilities.
        scores: (N,) one score per kernel.
        is_thing: (N,) bool; stuff has no score threshold.
        things_first: drop the things below the score threshold before pixels are given away, not
            after, and give the pixels inside the others' masks to these, whatever the stuff scores;
            the area of stuff is then what it has beside them.

    Returns:
        the segment id of each pixel (H, W) int32, 0 for void; the segment id of each kernel (N,)
        int32, 1.. by falling score, 0 for a dropped one; the pixels that each kernel won (N,).
    """
    num_kernels = len(masks)
    strips = _row_strips(masks)
    strong = scores >= score_threshold
    ahead, out = (is_thing & strong)[:, None, None], (is_thing & ~strong)[:, None, None]

    def winner_of(strip: torch.Tensor) -> torch.Tensor:
        value = strip * scores[:, None, None]  # 0..1
        if things_first:
            value = value + (ahead & (strip >= mask_threshold))
            value = value.masked_fill(out, -1.0)
        return value.argmax(0)

    def own_area(strip: torch.Tensor) -> torch.Tensor:
        inside = strip >= mask_threshold
        if things_first:
            taken = (ahead & inside).any(0)
            inside = inside & (is_thing[:, None, None] | ~taken)
        return inside.flatten(1).sum(1)

    winner = torch.cat([winner_of(strip) for strip in strips])
    # not bincount: on a GPU that waits for the device to learn its length
    won = torch.zeros(num_kernels, dtype=torch.long, device=masks.device)
    won.scatter_add_(0, winner.flatten(), torch.ones_like(winner).flatten())
    own = torch.stack([own_area(strip) for strip in strips]).sum(0)
    keep = (won > 0) & (own > 0)
    keep &= won.double() / own.clamp(min=1).double() >= overlap_threshold
    keep &= ~is_thing | strong

    # a kept kernel's id is its place among the kept ones, visited by falling score
    order = torch.argsort(scores, descending=True, stable=True)
    kept = keep[order]
    segment_ids = torch.zeros(num_kernels, dtype=torch.int32, device=masks.device)
    segment_ids[order] = torch.where(kept, kept.cumsum(0), 0).to(torch.int32)
    return segment_ids[winner], segment_ids, won


def _row_strips(masks: torch.Tensor) -> Tuple[torch.Tensor, ...]:
    """(N, H, W) -> views of some rows: what is computed of them takes little memory."""
    return masks.split(max(1, _STRIP_PIXELS // max(1, masks.shape[2])), dim=1)


@dataclass
class ImageSizes:
    """(height, width) of the padded input, of the input before padding, and of the result."""

    padded: Tuple[int, int]
    image: Tuple[int, int]
    output: Tuple[int, int]


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
        things_first: bool = False,
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
            things_first: see :func:`merge_panoptic`.
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
        self.things_first = things_first

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
            "things_first": test.THINGS_FIRST,
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
        class_scores = class_logits.float().sigmoid()
        masks = resize_masks(mask_logits, sizes.padded, sizes.image, sizes.output)
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
        self, masks: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
    ) -> Tuple[torch.Tensor, List[Dict]]:
        """
        Args:
            masks: (N, H, W) probabilities; scores, labels: (N,) of :meth:`kernel_labels`.

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

    def instances(self, masks: torch.Tensor, class_scores: torch.Tensor) -> Instances:
        """The best (kernel, class) pairs of the instance kernels; a mask may come twice.

        Args:
            masks: (N, H, W) probabilities.
            class_scores: (N, K).
        """
        num_things = self.layout.num_things
        if self.mask_quality:
            class_scores = class_scores * mask_quality(masks, self.mask_threshold)[:, None]
        flat = class_scores[: self.num_kernels, :num_things].flatten()
        scores, index = flat.topk(min(self.max_instances, len(flat)))
        kernel = torch.div(index, num_things, rounding_mode="floor")
        result = Instances(tuple(masks.shape[-2:]))
        result.pred_masks = (masks > self.mask_threshold)[kernel]
        result.pred_boxes = Boxes(masks_to_boxes(result.pred_masks))
        result.scores = scores
        ids = torch.tensor(self.layout.thing_ids, device=index.device)
        result.pred_classes = ids[index % num_things]
        result.pred_kernels = kernel
        return result

    def semantic(
        self, masks: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Per class the highest score x mask of its kernels.

        Returns:
            (largest contiguous id + 1, H, W); rows of ids that are no class are 0.
        """
        ids = torch.tensor(self.layout.ids, device=masks.device)
        result = masks.new_zeros((max(self.layout.ids) + 1, *masks.shape[1:]))
        for rows, strip in zip(_row_strips(result), _row_strips(masks)):
            index = ids[labels][:, None, None].expand_as(strip)
            rows.scatter_reduce_(0, index, strip * scores[:, None, None], "amax")
        return result
