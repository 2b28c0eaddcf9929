"""Ground truth of a batch, as the criterion wants it: soft masks at the mask stride.

Shape shorthand: B images, T things, S stuff classes, H x W full resolution, h x w the mask
stride's map of the padded batch.
"""

from typing import Dict, List, Sequence, Tuple

import torch
from detectron2.structures import BitMasks, PolygonMasks
from torch.nn import functional as F

from ..data.class_layout import ClassLayout
from ..errors import DatasetError
from .structures import Targets

__all__ = ["TargetBuilder"]


def _middle(stride: int) -> List[int]:
    """The rows (or columns) of a cell that bilinear interpolation by 1 / stride, without
    antialias, reads: of an even stride the two in the middle, alike; of an odd one the middle.
    """
    return sorted({(stride - 1) // 2, stride // 2})


def count_cells(masks: torch.Tensor, stride: int, size: Tuple[int, int]) -> torch.Tensor:
    """How many of the pixels are inside that bilinear interpolation by 1 / stride reads.

    Their share is the interpolation, without ever making full-size float masks.

    Args:
        masks: (T, H, W) bool.
        stride: integer.
        size: (h, w) of the result; outside of ``masks`` is nothing.

    Returns:
        (T, h, w) uint8, 0 to 4 or 1.
    """
    count, (height, width), middle = len(masks), size, _middle(stride)
    # rows first: their pixels lie beside each other
    rows = torch.zeros((count, height, width * stride), dtype=torch.uint8, device=masks.device)
    for y in middle:
        row = masks[:, y::stride][:, :height, : width * stride].view(torch.uint8)
        rows[:, : row.shape[1], : row.shape[2]] += row
    return sum(rows[:, :, x::stride] for x in middle)


def sample_cells(labels: torch.Tensor, stride: int, size: Tuple[int, int]) -> torch.Tensor:
    """The pixels that bilinear interpolation by 1 / stride reads, of a label map.

    Args:
        labels: (H, W).
        stride, size: as above; outside of ``labels`` is label 0.

    Returns:
        (4 or 1, h, w).
    """
    height, width = labels.shape
    labels = F.pad(labels, (0, size[1] * stride - width, 0, size[0] * stride - height))
    middle = _middle(stride)
    return torch.stack([labels[y::stride, x::stride] for y in middle for x in middle])


class TargetBuilder:
    """Turns Detectron2's training inputs into :class:`Targets` in the model's class order."""

    def __init__(self, layout: ClassLayout, mask_stride: int, ignore_label: int = 255):
        """
        Args:
            layout: the data set's classes in the model's order.
            mask_stride: stride of the targets, in input pixels.
            ignore_label: of ``sem_seg``.
        """
        self.layout = layout
        self.mask_stride = mask_stride
        self.ignore_label = ignore_label

    def __call__(
        self, batched_inputs: Sequence[Dict], padded_size: Tuple[int, int], device: torch.device
    ) -> Targets:
        """
        Args:
            batched_inputs: dicts with ``instances`` (``gt_classes`` in contiguous ids of the data
                set, ``gt_masks``) and, for a model with stuff, ``sem_seg`` (H, W), the contiguous
                id of every pixel or ``ignore_label``.
            padded_size: (height, width) of the padded batch, multiples of the mask stride.
            device: where the targets shall live.
        """
        size = tuple(side // self.mask_stride for side in padded_size)
        things = [self._things(x, size, device) for x in batched_inputs]
        stuff = [self._stuff(x, size, device) for x in batched_inputs]
        num_things = [len(classes) for _, classes in things]
        padded = max(1, *num_things)  # one row at least: a maximum over no objects is undefined
        return Targets(
            thing_masks=torch.stack([_pad_rows(masks, padded) for masks, _ in things]),
            thing_classes=torch.stack([_pad_rows(classes, padded) for _, classes in things]),
            num_things=num_things,
            stuff_masks=torch.stack([masks for masks, _ in stuff]),
            stuff_present=torch.stack([present for _, present in stuff]),
        )

    def _things(self, x: Dict, size: Tuple[int, int], device) -> Tuple[torch.Tensor, torch.Tensor]:
        """Soft masks (T, h, w) and model classes (T,) of one image's things."""
        if "instances" not in x:
            raise DatasetError(
                f"{_name(x)} has no 'instances': training needs KNetDatasetMapper, or a mapper "
                "that gives what it gives"
            )
        instances = x["instances"]
        if len(instances) == 0:
            return torch.zeros((0, *size), device=device), torch.zeros(
                0, dtype=torch.long, device=device
            )
        masks = instances.gt_masks
        if isinstance(masks, PolygonMasks):
            masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
        masks = masks.tensor if isinstance(masks, BitMasks) else masks.bool()
        classes = self.layout.to_model(instances.gt_classes)
        wrong = (classes < 0) | (classes >= self.layout.num_things)
        if wrong.any():
            raise DatasetError(
                f"{_name(x)} has the thing class {int(instances.gt_classes[wrong][0])}, "
                f"the data set's thing classes are {list(self.layout.thing_ids)}: register it "
                "with contiguous ids, or mend DATASETS.TRAIN"
            )
        # counted where the loader left them: at stride 4 a sixteenth of their bytes is sent
        cells = count_cells(masks, self.mask_stride, size).to(device)
        return cells.float() / len(_middle(self.mask_stride)) ** 2, classes.to(device)

    def _stuff(self, x: Dict, size: Tuple[int, int], device) -> Tuple[torch.Tensor, torch.Tensor]:
        """Soft mask (S, h, w) and presence (S,) of each stuff class in one image."""
        num_stuff = self.layout.num_stuff
        if num_stuff == 0:
            return torch.zeros((0, *size), device=device), torch.zeros(
                0, dtype=torch.bool, device=device
            )
        if "sem_seg" not in x:
            raise DatasetError(
                f"{_name(x)} has no 'sem_seg', which a model with stuff classes learns from: use "
                "a panoptic data set in DATASETS.TRAIN, or MODEL.KNET.NUM_STUFF_CLASSES 0"
            )
        # counted and checked where the loader left it, on the host. Labels are numbered from 0,
        # which is any below the known ones, to the last, which is any above.
        least = min(0, self.ignore_label) - 1
        most = max(0, self.ignore_label, *self.layout.ids) + 1
        sem_seg = x["sem_seg"].long()
        sem_seg = sem_seg.reshape(sem_seg.shape[-2:])  # (1, H, W) is taken too
        numbers = sem_seg.clamp(least, most) - least
        labels = torch.arange(least, most + 1)
        classes = self.layout.to_model(labels)  # of each number
        ignored = labels == self.ignore_label
        there = torch.bincount(numbers.flatten(), minlength=len(labels)).cpu() > 0
        wrong = there & (classes < 0) & ~ignored
        if wrong.any():
            pixel = wrong.to(numbers.device)[numbers]
            raise DatasetError(
                f"{_name(x)} has the label {int(sem_seg[pixel][0])} in 'sem_seg', which is no "
                f"contiguous id of the data set's {len(self.layout.ids)} classes nor the ignore "
                f"label {self.ignore_label}: mend the labels or the class ids of DATASETS.TRAIN"
            )
        # a row for all that is no stuff comes last, and goes
        is_stuff = (classes >= self.layout.num_things) & ~ignored
        rows = torch.where(is_stuff, classes - self.layout.num_things, num_stuff)
        present = torch.zeros(num_stuff + 1, dtype=torch.bool)
        present[rows[there]] = True
        numbers = numbers.to(torch.int16 if len(labels) < 2**15 else torch.int32)
        cells = sample_cells(numbers, self.mask_stride, size).to(device)
        rows = rows.to(device)[cells.long()]
        masks = torch.zeros((num_stuff + 1, *size), device=device)
        for row in rows:
            masks.scatter_add_(0, row[None], masks.new_ones(()).expand(1, *size))
        return masks[:-1] / len(rows), present[:-1].to(device)


def _pad_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Append zeros to the first dimension up to ``count`` rows."""
    return torch.cat((rows, rows.new_zeros((count - len(rows), *rows.shape[1:]))))


def _name(x: Dict) -> str:
    return str(x.get("file_name", "an input"))
