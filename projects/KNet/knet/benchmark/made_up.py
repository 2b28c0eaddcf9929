"""Images, objects, and what a trained model would find: random weights find nothing.

Shape shorthand: N kernels (instance, then stuff), K classes (things, then stuff), H x W the map at
the neck's stride, D objects.
"""

from dataclasses import replace
from typing import Callable, Dict, List, Sequence, Tuple

import torch
from detectron2.structures import BitMasks, Boxes, Instances

from ..modeling.structures import StagePrediction

__all__ = ["SCENES", "blobs", "boxes_apart", "found_by_knet", "proposals", "training_input"]

# What the results of K-Net are made from: objects on regions of stuff, noise whose every cell may
# belong to any kernel (the worst case), or what random weights find
SCENES = ("objects", "noise", "weights")
_SURE, _NEVER = 4.0, -6.0  # logits


def training_input(size: Sequence[int], num_objects: int, num_things: int, num_stuff: int) -> Dict:
    """An image of noise, with squares of all sizes as objects and bands of stuff behind them."""
    height, width = size
    masks = torch.zeros(num_objects, height, width, dtype=torch.bool)
    for mask in masks:
        side = int(torch.randint(4, max(5, min(size) // 2), ()))
        top, left = (int(torch.randint(max(1, length - 4), ())) for length in size)
        mask[top : top + side, left : left + side] = True
    gt_masks = BitMasks(masks)
    instances = Instances((height, width), gt_masks=gt_masks)
    instances.gt_classes = torch.randint(num_things, (num_objects,))
    instances.gt_boxes = gt_masks.get_bounding_boxes()
    bands = torch.arange(height) * 8 // height % max(1, num_stuff) + num_things
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "instances": instances,
        "sem_seg": bands[:, None].expand(height, width).contiguous(),
    }


def blobs(count: int, size: Sequence[int]) -> torch.Tensor:
    """Logits of ellipses of all sizes, soft at their border: (count, H, W)."""
    height, width = size
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    middle, radius = torch.rand(2, count, 1, 1), 0.02 + 0.18 * torch.rand(2, count, 1, 1)
    distance = ((y - middle[0]) / radius[0]) ** 2 + ((x - middle[1]) / radius[1]) ** 2
    return (_SURE * (1 - distance)).clamp(min=_NEVER)


def _regions(count: int, size: Sequence[int]) -> torch.Tensor:
    """Logits of up to eight bands behind the objects, the other classes being nowhere."""
    height, width = size
    band = torch.arange(height) * min(8, count) // height
    here = band[:, None] == torch.arange(count)[:, None, None]
    return torch.where(here, _SURE, _NEVER).expand(count, height, width)


def found_by_knet(
    scene: str, num_objects: int, num_kernels: int, num_things: int
) -> Callable[[StagePrediction], StagePrediction]:
    """What replaces the last stage's prediction, after it has been computed.

    Args:
        scene: of :data:`SCENES`; "objects": as many instance kernels as there are objects are sure
            of one each, the others see the same objects and are sure of nothing.
        num_objects: D.
        num_kernels: instance kernels.
        num_things: thing classes.
    """
    made: List[Tuple[torch.Tensor, torch.Tensor]] = []

    def make(prediction: StagePrediction) -> Tuple[torch.Tensor, torch.Tensor]:
        _, count, num_classes = prediction.class_logits.shape
        size = prediction.mask_logits.shape[-2:]
        if scene == "noise":
            return torch.randn(count, *size), torch.randn(count, num_classes)
        objects = min(num_objects, num_kernels)
        shapes = blobs(max(1, objects), size)
        seen = shapes[torch.arange(num_kernels) % len(shapes)]
        masks = torch.cat((seen, _regions(count - num_kernels, size)))
        masks = masks + torch.randn_like(masks) / 2
        classes = torch.full((count, num_classes), _NEVER) + torch.randn(count, num_classes) / 2
        sure = torch.arange(objects)
        classes[sure, torch.randint(num_things, (objects,))] = _SURE
        stuff = torch.arange(min(8, count - num_kernels))
        classes[num_kernels + stuff, num_things + stuff] = _SURE
        return masks, classes

    def found(prediction: StagePrediction) -> StagePrediction:
        if not made:
            made.append(make(prediction))
        wanted = (prediction.mask_logits, prediction.class_logits)
        masks, classes = (m.to(w).expand_as(w) for m, w in zip(made[0], wanted))
        return replace(prediction, mask_logits=masks, class_logits=classes, iou_logits=None)

    return (lambda prediction: prediction) if scene == "weights" else found


def boxes_apart(count: int, size: Sequence[int]) -> torch.Tensor:
    """(count, 4) boxes on a grid, so that no two overlap."""
    height, width = size
    columns = max(1, round((count * width / height) ** 0.5))
    rows = -(-count // columns)
    index = torch.arange(count)
    step = torch.tensor([width / columns, height / rows])
    corner = torch.stack((index % columns, index // columns), dim=1) * step
    return torch.cat((corner, corner + 0.9 * step), dim=1)


def proposals(size: Sequence[int], count: int, first: torch.Tensor) -> Instances:
    """Proposals of a region proposal network: some given ones, and random ones.

    Args:
        size: of the image.
        count: of all.
        first: (D, 4) boxes that are among them, D <= count.
    """
    height, width = size
    limit = torch.tensor([width, height])
    corner = torch.rand(count - len(first), 2) * limit * 0.9
    side = (0.02 + 0.3 * torch.rand(count - len(first), 2)) * limit
    boxes = Boxes(torch.cat((first, torch.cat((corner, corner + side), dim=1))))
    boxes.clip((height, width))
    result = Instances((height, width), proposal_boxes=boxes)
    result.objectness_logits = torch.linspace(_SURE, _NEVER, count)
    return result
