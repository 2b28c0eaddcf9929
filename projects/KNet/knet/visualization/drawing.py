"""Results of a model drawn over their image, and over the frames of a video."""

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.utils.video_visualizer import VideoVisualizer, _DetectedInstance
from pycocotools import mask as mask_util

from ..errors import UsageError
from .colors import Color, class_colors, object_colors
from .segmentation import Segmentation, find_kind, read_result
from .segmentation_panel import draw_segmentation

__all__ = ["VideoDrawer", "draw_result"]

FRAMES_KEPT = 8  # a lost object has its colour again if it comes back within so many
MAX_TRACKING_SIDE = 480  # pixels; masks of larger frames are compared at a fraction of their size
MARGIN = 0.01  # of that side, by which they are widened: or a small object's move would lose it


def draw_result(
    image: np.ndarray,
    result: Dict,
    metadata,
    *,
    kind: Optional[str] = None,
    score_threshold: float = 0.3,
    opacity: float = 0.5,
    labels: bool = True,
) -> np.ndarray:
    """Draw a result over its image.

    The same result gives the same picture: a class has the colour of the metadata, its objects
    colours around it, as far apart as neighbours need. Names too large for their object are left
    out.

    Args:
        image: (H, W, 3) uint8 RGB.
        result: of a model for it, in Detectron2's form, on any device.
        metadata: of the data set (``model.info.metadata``); colours may be missing.
        kind: "panoptic", "instance" or "semantic"; None: the first of these that the result has.
        score_threshold: things below it (0..1) are not drawn.
        opacity: of the masks, 0 (outlines only) to 1.
        labels: whether to write the names of classes.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: the result has not that kind, or is of another size; an image or an opacity that
            is none.
    """
    style = _Style(metadata, kind, score_threshold, opacity, labels)
    return style.draw(image, result, lambda found: object_colors(found, metadata))


class VideoDrawer:
    """Draws the results of a video's frames, in their order; colours stay with an object.

    An object is known again by Detectron2's VideoVisualizer: of its class and with at least half of
    its pixels where they were in the frame before.
    """

    def __init__(
        self,
        metadata,
        kind: Optional[str] = None,
        *,
        score_threshold: float = 0.3,
        opacity: float = 0.5,
        labels: bool = True,
    ):
        """
        Args:
            metadata, kind, score_threshold, opacity, labels: see :func:`draw_result`.
        """
        self._style = _Style(metadata, kind, score_threshold, opacity, labels)
        self._memory = _ColorMemory(metadata)

    def __call__(self, frame: np.ndarray, result: Dict) -> np.ndarray:
        """
        Args:
            frame: (H, W, 3) uint8 RGB.
            result: of a model for it.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            UsageError: see :func:`draw_result`.
        """
        return self._style.draw(frame, result, self._memory.colors_of)


@dataclass(frozen=True)
class _Style:
    """The options of :func:`draw_result`, in order."""

    metadata: Metadata
    kind: Optional[str]
    score_threshold: float
    opacity: float
    labels: bool

    def __post_init__(self):
        if not 0 <= self.opacity <= 1:
            raise UsageError(f"the opacity is {self.opacity}: give a number from 0 to 1")

    def draw(
        self, image: np.ndarray, result: Dict, object_colors: Callable[[Segmentation], List[Color]]
    ) -> np.ndarray:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(
                f"the image is {image.dtype} of {image.shape}: give uint8 RGB (height, width, 3)"
            )
        kind = find_kind(result, self.kind)
        found = read_result(result, kind, image.shape[:2], self.score_threshold)
        is_semantic = kind == "semantic"
        colors = class_colors(found, self.metadata) if is_semantic else object_colors(found)
        return draw_segmentation(
            image, found, self.metadata, colors, opacity=self.opacity, labels=self.labels
        )


class _ColorMemory(VideoVisualizer):
    """Detectron2's, which gives new objects random colours, with colours of this project."""

    def colors_of(self, segmentation: Segmentation) -> List[Color]:
        """A colour for each segment of the next frame."""
        segments = segmentation.segments
        things = [i for i, segment in enumerate(segments) if segment["isthing"]]
        if not things:
            return class_colors(segmentation, self.metadata)
        objects = [
            _DetectedInstance(
                segments[i]["category_id"],
                bbox=None,
                mask_rle=_to_rle(segmentation, i),
                color=None,
                ttl=FRAMES_KEPT,
            )
            for i in things
        ]
        before = {id(each.color) for each in self._old_instances}
        self._assign_colors(objects)
        # an object known again has the very colour of the old one
        known = {i: o.color for i, o in zip(things, objects) if id(o.color) in before}
        colors = object_colors(segmentation, self.metadata, known)
        for i, each in zip(things, objects):
            each.color = colors[i]
        return colors


def _to_rle(segmentation: Segmentation, i: int) -> Dict:
    """The mask of a segment as COCO's RLE, in the form that is compared."""
    step = -(-max(segmentation.size) // MAX_TRACKING_SIDE)
    height, width = (-(-side // step) for side in segmentation.size)
    full = np.zeros((height, width), dtype=np.uint8)
    top, left = segmentation.boxes[i, :2]
    # of every line whose number is a multiple of the step
    rows, columns = -(-top // step), -(-left // step)
    part = segmentation.masks[i][rows * step - top :: step, columns * step - left :: step]
    full[rows : rows + part.shape[0], columns : columns + part.shape[1]] = part
    side = 2 * round(MARGIN * max(height, width)) + 1
    return mask_util.encode(np.asfortranarray(cv2.dilate(full, np.ones((side, side), np.uint8))))
