"""One panel of a picture: segments over their image, with names, in steady colours.

An instance has the colour of its class in a shade of its own; a predicted one takes the shade of
the true one that it found, so that prediction and truth can be compared by eye.

Shape shorthand: S segments of one image, H x W its size, h x w the size it is drawn at, in pixels.
"""

import math
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

__all__ = ["Segmentation", "draw_segmentation", "number_instances", "shades_of_found"]

FONT_SIZE = 8  # points
MIN_LABEL_AREA = 250  # pixels; a smaller segment would vanish behind its label
MASK_OPACITY = 0.7
# How far each next instance of a class is mixed with white (above 0) or black
SHADES = (0.0, 0.35, -0.3, 0.55, -0.5, 0.18, -0.15)
LIGHT = 1  # the shade of outlines and names
MATCH_IOU = 0.5  # above it a prediction counts as found, as in panoptic quality


@dataclass
class Segmentation:
    """The segments of one image; they may overlap.

    Attributes:
        masks: (S, H, W) bool.
        segments: S dicts with the contiguous ``category_id``, ``isthing``, perhaps ``score`` (0..1)
            and ``iscrowd``.
    """

    masks: np.ndarray
    segments: List[Dict]

    @classmethod
    def from_masks(
        cls, masks: Sequence[np.ndarray], segments: List[Dict], size: Tuple[int, int]
    ) -> "Segmentation":
        """
        Args:
            masks: S of (H, W), bool or 0 and 1.
            segments: what they are.
            size: H and W, which no mask tells where S is 0.
        """
        stacked = np.zeros((len(masks), *size), dtype=bool)
        for row, mask in zip(stacked, masks):
            row[:] = mask
        return cls(stacked, segments)

    def areas(self) -> np.ndarray:
        """(S,) pixels of each segment."""
        return self.masks.sum(axis=(1, 2))

    def resized(self, size: Tuple[int, int]) -> "Segmentation":
        """The same at another (height, width), by the nearest pixel."""
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in zip(size, self.masks.shape[1:])
        )
        return Segmentation(self.masks[:, rows[:, None], columns], self.segments)


# ---------------------------------------------------------------------------------------- drawing


def draw_segmentation(
    image: np.ndarray, segmentation: Segmentation, metadata, shades: Sequence[int]
) -> np.ndarray:
    """Draw segments and their names over the image in grey, so that void is what has no colour.

    Detectron2's ``draw_panoptic_seg`` colours instances at random, differently in each picture,
    and fills their holes, so its parts are used here one by one.

    Args:
        image: (h, w, 3) uint8 RGB.
        segmentation: of the same size.
        metadata: the data set's, with class names and colours.
        shades: (S,) number of each segment among those of its class.

    Returns:
        (h, w, 3) uint8.
    """
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    visualizer = Visualizer(grey, metadata)
    areas = segmentation.areas()
    drawn = [i for i in np.argsort(-areas, kind="stable") if areas[i] > 0]
    labels = []
    for i in drawn:
        segment = segmentation.segments[i]
        name, base = _name_and_color(segment, metadata)
        mask = segmentation.masks[i]
        color = _shade(base, shades[i])
        visualizer.draw_binary_mask(mask, color=color, alpha=MASK_OPACITY, area_threshold=0)
        _draw_outline(visualizer, mask, color)
        if areas[i] >= MIN_LABEL_AREA:
            labels.append((_label(name, segment), mask, _shade(base, LIGHT)))
    for text, mask, color in labels:  # over all masks
        _draw_label(visualizer, text, mask, color)
    return visualizer.get_output().get_image()


def _draw_outline(visualizer: Visualizer, mask: np.ndarray, color: Tuple[float, ...]) -> None:
    """A line around the mask and around its holes."""
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2]
    for contour in contours:
        middles = contour[:, 0] + 0.5  # OpenCV counts pixels, the picture runs from edge to edge
        visualizer.draw_polygon(middles, color, edge_color=_shade(color, LIGHT), alpha=0)


def _draw_label(
    visualizer: Visualizer, text: str, mask: np.ndarray, color: Tuple[float, ...]
) -> None:
    """Write the text where the mask is widest, but never out of the picture.

    The median of a mask, which Detectron2 takes, may lie outside of it (a ring, a bent road).
    """
    height, width = mask.shape
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    pixels = FONT_SIZE * visualizer.output.fig.dpi / 72
    half_text = 0.3 * pixels * len(text) + 2  # a letter is about 0.6 of its height wide
    x = min(max(x, half_text), width - half_text)
    y = min(max(y - pixels / 2, 2), height - pixels - 2)  # of the text's upper edge
    visualizer.draw_text(text, (x, y), font_size=FONT_SIZE, color=color)


def _label(name: str, segment: Dict) -> str:
    if segment.get("iscrowd"):
        return f"{name} (crowd)"
    if segment["isthing"] and "score" in segment:
        return f"{name} {100 * segment['score']:.0f}%"
    return name


# ------------------------------------------------------------------------------------------ colours


def _name_and_color(segment: Dict, metadata) -> Tuple[str, Tuple[float, ...]]:
    """Name and colour (RGB, 0..1) of a segment's class."""
    kind, category = "thing" if segment["isthing"] else "stuff", segment["category_id"]
    colors = metadata.get(f"{kind}_colors")
    if not colors:  # Detectron2 does not ask for them
        colors = colormap(rgb=True, maximum=255)
    color = colors[category % len(colors)]
    return metadata.get(f"{kind}_classes")[category], tuple(float(c) / 255 for c in color)


def _shade(color: Tuple[float, ...], number: int) -> Tuple[float, ...]:
    """The colour (RGB, 0..1) of the instance with this number in its class."""
    share = SHADES[number % len(SHADES)]
    target = 1.0 if share > 0 else 0.0
    return tuple(c + abs(share) * (target - c) for c in color)


def number_instances(segmentation: Segmentation) -> np.ndarray:
    """(S,) number of each segment among those of its class: 0, 1, ... in the order given."""
    counts: Dict[int, int] = {}
    numbers = np.zeros(len(segmentation.segments), dtype=int)
    for i, segment in enumerate(segmentation.segments):
        numbers[i] = counts.get(segment["category_id"], 0)
        counts[segment["category_id"]] = numbers[i] + 1
    return numbers


def shades_of_found(
    truth: Segmentation, true_shades: np.ndarray, prediction: Segmentation
) -> np.ndarray:
    """(S,) of the prediction: the shade of the true segment that it found, else one of its own."""
    pixels = math.prod(truth.masks.shape[1:])
    rows = [each.masks.reshape(-1, pixels).astype(np.float32) for each in (truth, prediction)]
    shared = rows[0] @ rows[1].T  # (S of the truth, S) pixels; sums of 0 and 1 are exact
    union = truth.areas()[:, None] + prediction.areas() - shared
    iou = shared / np.maximum(union, 1)
    true_class, found_class = (
        np.array([s["category_id"] for s in each.segments], dtype=int)
        for each in (truth, prediction)
    )
    found = (iou > MATCH_IOU) & (true_class[:, None] == found_class)
    # the shades that the truth uses come first, those of false positives behind them
    shades = number_instances(prediction)
    shades += np.array([(true_class == c).sum() for c in found_class], dtype=int)
    # where nothing overlaps, two IoUs above a half exclude that a segment is found twice
    true_row, column = np.nonzero(found)
    shades[column] = true_shades[true_row]
    return shades
