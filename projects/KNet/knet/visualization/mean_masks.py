"""Where each kernel's masks lie on average over many images (the paper's average activations).

Shape shorthand: N kernels (instance, then stuff), G x G a grid that every image fills.
"""

import math
from collections import Counter
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from ..data.classes import ModelClass
from ..errors import UsageError
from ..modeling.masks import sample
from .kernel_figures import new_figure, show_map, titled
from .kernel_record import KernelRecord

__all__ = ["MeanMasks"]

GRID = 96  # G, cells
WINDOW = 0.25  # of the longer side of the padded image, to each side of a point
COLUMNS = 10
TILE = 1.15  # inches


class MeanMasks:
    """Adds up the masks of the last stage, image by image."""

    def __init__(self, classes: Sequence[ModelClass], score_threshold: float):
        """
        Args:
            classes: the model's.
            score_threshold: of the objects that are counted.
        """
        self.num_images = 0
        self.finds: Dict[int, Counter] = {}  # kernel -> class id -> objects that it has found
        self._names = {c.id: c.name for c in classes}
        self._threshold = score_threshold
        self._total: Optional[torch.Tensor] = None  # (N, G, G)
        self._at_points: Dict[int, List[torch.Tensor]] = {}  # thing class -> sum (G, G), number

    def add(self, record: KernelRecord) -> None:
        """Add an image."""
        masks = record.masks(-1, (GRID, GRID))
        things = self._things(record)
        self._total = masks if self._total is None else self._total + masks
        self.num_images += 1
        for kernel, category in things:
            self.finds.setdefault(kernel, Counter())[category] += 1
        self._add_at_points(record, things)

    def _things(self, record: KernelRecord) -> List:
        found = record.found(-1, self._threshold)
        return [
            (kernel, segment["category_id"])
            for kernel, segment in zip(found.kernels, found.segmentation.segments)
            if segment["isthing"]
        ]

    def _add_at_points(self, record: KernelRecord, things: List) -> None:
        points = record.points()
        if points is None:
            return
        masks = record.stages[-1].mask_logits.float().sigmoid().cpu()
        steps = (torch.arange(GRID) + 0.5) / GRID * 2 * WINDOW - WINDOW
        side = max(record.stages[-1].mask_logits.shape[-2:])
        y_step, x_step = (steps * side / length for length in masks.shape[-2:])
        for kernel, category in things:
            y, x = points[kernel]
            window = sample(masks[:, [kernel]], y + y_step, x + x_step, "zeros")[0, 0]
            total = self._at_points.setdefault(category, [torch.zeros(GRID, GRID), 0])
            total[0] += window
            total[1] += 1

    @property
    def means(self) -> np.ndarray:
        """(N, G, G) mean probability of each kernel.

        Raises:
            UsageError: there was no image.
        """
        if self._total is None:
            raise UsageError("there is no image: give some")
        return (self._total / self.num_images).numpy()

    @property
    def means_at_points(self) -> Dict[int, np.ndarray]:
        """Thing class -> (G, G) mean mask around the point where its kernel started."""
        return {c: (total / n).numpy() for c, (total, n) in sorted(self._at_points.items())}

    def draw(self, num_kernels: int) -> Figure:
        """A tile for each instance kernel that has found something, those that find most first.

        Args:
            num_kernels: how many of the model's are instance kernels.

        Raises:
            UsageError: there was no image, or nothing was found.
        """
        means = self.means
        order = sorted(self.finds, key=lambda kernel: -sum(self.finds[kernel].values()))
        if not order:
            raise UsageError(
                f"nothing is found above a score of {self._threshold} in {self.num_images} images: "
                "lower --confidence-threshold, or give other pictures"
            )
        rows, columns = math.ceil(len(order) / COLUMNS), min(COLUMNS, len(order))
        figure = new_figure(max(columns * TILE, 6.0), rows * (TILE + 0.3) + 0.6)
        tiles = iter(figure.subplots(rows, columns, squeeze=False).flat)
        for kernel, axes in zip(order, tiles):
            show_map(axes, means[kernel])
            titled(axes, self._caption(kernel))
        for axes in tiles:
            axes.remove()
        figure.suptitle(
            f"Mean masks over {self.num_images} images: {len(order)} of {num_kernels} instance "
            "kernels find something",
            fontsize=10,
        )
        return figure

    def draw_at_points(self) -> Figure:
        """A tile for each thing class; see :attr:`means_at_points`."""
        means = self.means_at_points
        columns = min(COLUMNS, max(1, len(means)))
        rows = max(1, math.ceil(len(means) / columns))
        figure = new_figure(max(4.0, columns * 1.6), rows * 1.9 + 0.6)
        tiles = iter(figure.subplots(rows, columns, squeeze=False).flat)
        for (category, mean), axes in zip(means.items(), tiles):
            show_map(axes, mean)
            middle = GRID / 2 - 0.5
            axes.plot(middle, middle, "+", color="white", markersize=6, markeredgewidth=1)
            titled(axes, f"{self._names[category]} ({self._at_points[category][1]})")
        for axes in tiles:
            axes.remove()
        figure.suptitle("Mean mask around the point where the kernel starts", fontsize=10)
        return figure

    def _caption(self, kernel: int) -> str:
        finds = self.finds[kernel]
        (category, most), total = finds.most_common(1)[0], sum(finds.values())
        return f"{kernel}: {total} found\n{self._names[category]} {100 * most / total:.0f}%"
