"""Segments over their image: masks and outlines in given colours, names where there is room.

Detectron2's Visualizer draws the names; its masks are polygons, which fill holes and take most of
its time, so masks are painted here pixel by pixel.

Shape shorthand: S segments of one image, H x W its size in pixels.
"""

import unicodedata
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from matplotlib import rcParams

from .colors import Color, lighter
from .segmentation import Segmentation
from .text import PlainTextVisualizer

__all__ = ["draw_segmentation"]

# Fonts (in points) and lines grow with the side of the image, if it were a square
MIN_FONT_SIZE, PIXELS_PER_POINT = 8, 110
PIXELS_PER_LINE = 900
LETTER_WIDTH = 0.6  # of the font's height, about; letters of CJK are square
MIN_LETTERS = 20  # that are written even if their object is narrower
LABEL_SHARE = 0.5  # of a segment that its label may cover; of a smaller one it is left out


def draw_segmentation(
    image: np.ndarray,
    segmentation: Segmentation,
    metadata,
    colors: Sequence[Color],
    *,
    opacity: float = 0.5,
    labels: bool = True,
) -> np.ndarray:
    """Draw segments, large ones first, and over them the names of those that can carry one.

    Args:
        image: (H, W, 3) uint8 RGB.
        segmentation: of the same size.
        metadata: the data set's, with the names of classes.
        colors: (S,) of the segments.
        opacity: of the masks, 0 to 1.
        labels: whether to write names.

    Returns:
        (H, W, 3) uint8.
    """
    canvas = np.array(image, dtype=np.uint8)
    areas = segmentation.areas()
    order = [i for i in np.argsort(-areas, kind="stable") if areas[i] > 0]
    for i in order:
        _paint(canvas, segmentation.masks[i], segmentation.boxes[i], colors[i], opacity)
    if not labels:
        return canvas
    placed = _place_labels(segmentation, metadata, areas, order)
    if not placed:
        return canvas
    visualizer = PlainTextVisualizer(canvas, metadata)
    for i, text, position in placed:
        color = lighter(colors[i])
        visualizer.draw_text(text, position, font_size=_font_size(segmentation.size), color=color)
    return visualizer.get_output().get_image()


def _paint(
    canvas: np.ndarray, mask: np.ndarray, box: np.ndarray, color: Color, opacity: float
) -> None:
    """Tint the mask's pixels, and draw a line along its border and the borders of its holes."""
    top, left, bottom, right = box
    region = canvas[top:bottom, left:right]
    tint = (1 - opacity) * np.arange(256)[:, None] + opacity * 255 * np.array(color)
    tinted = cv2.LUT(region, np.rint(tint).astype(np.uint8)[None])  # (1, 256, 3): of each channel
    np.copyto(region, tinted, where=mask[..., None])
    contours = cv2.findContours(
        np.pad(mask, 1).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )[-2]
    line = [255 * c for c in lighter(color)]
    width = max(1, round(_length(canvas.shape) / PIXELS_PER_LINE))
    offset = (int(left) - 1, int(top) - 1)
    cv2.drawContours(canvas, contours, -1, line, width, cv2.LINE_8, offset=offset)


def _length(size: Tuple[int, ...]) -> float:
    """The side of a square as large as the image, in pixels."""
    return float(size[0] * size[1]) ** 0.5


def _font_size(size: Tuple[int, int]) -> float:
    """In points."""
    return max(MIN_FONT_SIZE, _length(size) / PIXELS_PER_POINT)


# ------------------------------------------------------------------------------------------- labels


def _place_labels(
    segmentation: Segmentation, metadata, areas: np.ndarray, order: Sequence[int]
) -> List[Tuple[int, str, Tuple[float, float]]]:
    """(segment, text, middle of its upper edge) of the labels to draw, none upon another."""
    placed, taken = [], []
    pixels = _font_size(segmentation.size) * rcParams["figure.dpi"] / 72
    letter = LETTER_WIDTH * pixels
    widths = segmentation.boxes[:, 3] - segmentation.boxes[:, 1]
    for i in order:
        room = min(max(widths[i], MIN_LETTERS * letter), segmentation.size[1] - 4)
        lines = _label(segmentation.segments[i], metadata).split("\n")
        text = "\n".join(_shortened(line, room / letter) for line in lines)
        width = min(letter * max(map(_letters, lines)), room) + 4
        height = 1.2 * pixels * len(lines) + 2
        if areas[i] * LABEL_SHARE < width * height:
            continue
        box = _label_box(segmentation, i, width, height, taken)
        if box is not None:
            taken.append(box)
            placed.append((i, text, ((box[0] + box[2]) / 2, box[1])))
    return placed


def _label_box(
    segmentation: Segmentation,
    i: int,
    width: float,
    height: float,
    taken: Sequence[Tuple[float, ...]],
) -> Optional[Tuple[float, ...]]:
    """Left, top, right, bottom where the mask is widest, or a few lines off if that is taken.

    The median of a mask, which Detectron2 takes, may lie outside of it (a ring, a bent road).

    Returns:
        the box within the image; None if there is no room.
    """
    mask, (top, left, _, _) = segmentation.masks[i], segmentation.boxes[i]
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    # of a band that is everywhere as wide its middle, not its end
    widest = np.argwhere(depth >= 0.95 * depth.max())
    row, column = widest[np.square(widest - widest.mean(axis=0)).sum(axis=1).argmin()]
    for shift in (0, 1, -1, 2, -2):
        middle = int(row + shift * height)
        if not (0 <= middle < len(mask) and mask[middle, column]):
            continue
        x = min(max(left + column, width / 2), segmentation.size[1] - width / 2)
        y = min(max(top + middle, height / 2), segmentation.size[0] - height / 2)
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(a: Tuple[float, ...], b: Tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _letters(line: str) -> float:
    """The width of a line in Latin letters."""
    square = sum(unicodedata.east_asian_width(c) in "FW" for c in line)
    return len(line) + square * (1 / LETTER_WIDTH - 1)


def _shortened(line: str, limit: float) -> str:
    """A line of so many letters at most, its middle left out."""
    if _letters(line) <= limit:
        return line
    kept = max(0, int(limit * len(line) / _letters(line)) - 1)
    return line[: kept - kept // 2] + "\u2026" + line[len(line) - kept // 2 :]


def _label(segment: Dict, metadata) -> str:
    name = _class_name(segment, metadata)
    if segment.get("iscrowd"):
        return f"{name} (crowd)"
    if segment["isthing"] and "score" in segment:
        return f"{name} {100 * segment['score']:.0f}%"
    return name


def _class_name(segment: Dict, metadata) -> str:
    """Of the list of its kind, else of the other one (which may hold all), else the number."""
    kinds = ("thing", "stuff") if segment["isthing"] else ("stuff", "thing")
    for kind in kinds:
        names = metadata.get(f"{kind}_classes") or ()
        if segment["category_id"] < len(names):
            return str(names[segment["category_id"]])
    return str(segment["category_id"])
