"""One image, stage by stage: the result so far, and the mask of each kernel that ends in it."""

from typing import Dict, List, Optional, Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure

from ..data.classes import ModelClass
from ..errors import UsageError
from .colors import Color, object_colors
from .kernel_figures import new_figure, over_image, show_picture, titled
from .kernel_record import FoundObjects, KernelRecord
from .segmentation_panel import draw_segmentation

__all__ = ["colors_of_kernels", "draw_stages", "strongest"]

PANEL = 320  # pixels, of the longer side
INCHES = 1.7  # of a panel's width
OPACITY = 0.6
SHOWN = 6  # kernels


def draw_stages(
    record: KernelRecord,
    classes: Sequence[ModelClass],
    metadata,
    *,
    score_threshold: float = 0.3,
    num_kernels: int = SHOWN,
) -> Figure:
    """A row a stage: the result that it would give, and a column a kernel.

    Args:
        record: of an image.
        classes, metadata: the model's.
        score_threshold: of things.
        num_kernels: columns, of the kernels with the best scores at the end, things first.

    Raises:
        UsageError: nothing is found.
    """
    found = found_at_the_end(record, score_threshold)
    colors = colors_of_kernels(found, metadata)
    kernels = strongest(found, num_kernels)
    names = {c.id: c.name for c in classes}
    image = _panel_of(record.image)
    height, width = image.shape[:2]
    rows, columns = len(record.stages), len(kernels) + 1
    figure = new_figure(INCHES * columns, (INCHES * height / width + 0.25) * rows + 0.3)
    for stage, row in enumerate(figure.subplots(rows, columns, squeeze=False)):
        result = record.found(stage, score_threshold)
        show_picture(row[0], draw_found(image, result, metadata, colors))
        title = f"stage {stage}" if result else f"stage {stage}: no classes yet"
        titled(row[0], title, size=8)
        masks, labels = record.masks(stage, (height, width)), record.labels(stage)
        for axes, kernel in zip(row[1:], kernels):
            show_picture(axes, over_image(image, masks[kernel].numpy(), colors[kernel]))
            text = f"kernel {kernel}"
            if labels is not None:
                text += f": {names[labels[1][kernel]]} {100 * labels[0][kernel]:.0f}%"
            titled(axes, text)
    return figure


def found_at_the_end(record: KernelRecord, score_threshold: float) -> FoundObjects:
    found = record.found(-1, score_threshold)
    if not found.kernels:
        raise UsageError(
            f"nothing is found above a score of {score_threshold}: lower --confidence-threshold, "
            "or give another picture"
        )
    return found


def colors_of_kernels(found: FoundObjects, metadata) -> Dict[int, Color]:
    """Kernel -> the colour of its segment."""
    return dict(zip(found.kernels, object_colors(found.segmentation, metadata)))


def strongest(found: FoundObjects, number: int) -> List[int]:
    """So many kernels at most: those of things by falling score, then those of stuff by area."""
    segments, areas = found.segmentation.segments, found.segmentation.areas()
    order = sorted(
        range(len(segments)),
        key=lambda i: (
            not segments[i]["isthing"],
            -segments[i]["score"] if segments[i]["isthing"] else -areas[i],
        ),
    )
    things = [i for i in order if segments[i]["isthing"]]
    stuff = [i for i in order if not segments[i]["isthing"]]
    # some of both: a third at most is stuff's where there are things enough
    num_stuff = min(len(stuff), max(number // 3, number - len(things)))
    return [found.kernels[i] for i in things[: number - num_stuff] + stuff[:num_stuff]]


def _panel_of(image: np.ndarray) -> np.ndarray:
    scale = PANEL / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def draw_found(
    image: np.ndarray, found: Optional[FoundObjects], metadata, colors: Dict[int, Color]
) -> np.ndarray:
    """A result over its image; a kernel keeps its colour from stage to stage."""
    if found is None:
        return image
    known = {i: colors[kernel] for i, kernel in enumerate(found.kernels) if kernel in colors}
    segmentation = found.segmentation
    own = object_colors(segmentation, metadata, known)
    resized = segmentation.resized(image.shape[:2])
    return draw_segmentation(image, resized, metadata, own, opacity=OPACITY, labels=False)
