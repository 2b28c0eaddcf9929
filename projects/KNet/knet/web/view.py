"""What a visitor sees of a result: the drawn picture, a table, the segment that was clicked."""

import html
from dataclasses import dataclass
from functools import cached_property
from typing import Dict, List, Optional

import cv2
import numpy as np

from ..visualization.colors import Color, class_colors, object_colors
from ..visualization.segmentation import Segmentation
from ..visualization.segmentation_panel import draw_segmentation
from .segmenting import Found, Segmenter

__all__ = ["COLUMNS", "View"]

COLUMNS = ("no.", "class", "score", "pixels", "share")
LEAST_SIDE = 700  # pixels: smaller pictures are enlarged to it, or one could hardly click at parts
PIXELS_PER_LINE = 250  # the line around a chosen segment is a pixel wide for so many of the side


@dataclass
class View:
    """A result drawn in one way.

    Attributes:
        found: the result.
        segmenter: that made it.
        score_threshold: things below it are not shown.
        opacity: of the masks, 0 to 1.
        labels: whether names are written.
    """

    found: Found
    segmenter: Segmenter
    score_threshold: float
    opacity: float
    labels: bool

    @cached_property
    def segmentation(self) -> Segmentation:
        """The segments shown, the largest first."""
        every = self.found.segmentation
        areas = every.areas()
        shown = [
            i
            for i in np.argsort(-areas, kind="stable").tolist()
            if areas[i] > 0 and self._is_shown(every.segments[i])
        ]
        parts = [[every.masks[i] for i in shown], every.boxes[shown]]
        return Segmentation(*parts, [every.segments[i] for i in shown], every.size)

    @cached_property
    def picture(self) -> np.ndarray:
        """(h, w, 3) uint8: the result over its image, enlarged if that is small."""
        height, width = self._drawn.size
        image = self.found.image
        if (height, width) != image.shape[:2]:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        return draw_segmentation(
            image,
            self._drawn,
            self.segmenter.predictor.metadata,
            self._colors,
            opacity=self.opacity,
            labels=self.labels,
        )

    def picture_with(self, chosen: int) -> np.ndarray:
        """The picture with a white line around one segment."""
        picture = self.picture.copy()
        mask, (top, left, _, _) = self._drawn.masks[chosen], self._drawn.boxes[chosen]
        contours = cv2.findContours(
            np.pad(mask, 1).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )[-2]
        width = 1 + max(picture.shape[:2]) // PIXELS_PER_LINE
        for color, line in (((0, 0, 0), width + 2), ((255, 255, 255), width)):
            offset = (int(left) - 1, int(top) - 1)
            cv2.drawContours(picture, contours, -1, color, line, cv2.LINE_AA, offset=offset)
        return picture

    def segment_at(self, x: int, y: int) -> Optional[int]:
        """The segment seen at a pixel of the picture: of several the one drawn last."""
        boxes = self._drawn.boxes
        for i in reversed(range(len(boxes))):
            top, left, bottom, right = boxes[i]
            inside = top <= y < bottom and left <= x < right
            if inside and self._drawn.masks[i][y - top, x - left]:
                return i
        return None

    def rows(self) -> List[List]:
        """Of the table, ``COLUMNS`` of each segment shown."""
        return [
            [i + 1, self._name(segment), _percent(segment.get("score")), area, _percent(share)]
            for i, (segment, area, share) in enumerate(self._segments())
        ]

    def summary(self) -> str:
        """A line of text about the whole, HTML."""
        (height, width), found = self.segmentation.size, self.found
        old_height, old_width = found.original_size
        count = len(self.segmentation.segments)
        what = {"panoptic": "segment", "instance": "object", "semantic": "class"}
        noun = what[found.settings.kind]
        noun += "" if count == 1 else "es" if noun == "class" else "s"
        size = f"{width} x {height} pixels"
        if (height, width) != (old_height, old_width):
            size += f" (shrunk from {old_width} x {old_height})"
        parts = [f"<b>{count} {noun}</b>", size, f"{found.seconds:.1f} s"]
        return f'<div class="summary">{" &middot; ".join(parts)}</div>'

    def details(self, chosen: Optional[int]) -> str:
        """About one segment, HTML."""
        if chosen is None:
            return _card("There is no segment at this place.")
        segment, area, share = self._segments()[chosen]
        score = segment.get("score")
        kind = "thing" if segment["isthing"] else "stuff"
        facts = [
            *([] if self.found.settings.kind == "semantic" else [("kind", kind)]),
            *([] if score is None else [("score", _percent(score))]),
            ("area", f"{area:,} pixels, {_percent(share)} of the picture"),
        ]
        color = "#" + "".join(f"{round(255 * c):02x}" for c in self._colors[chosen])
        name = html.escape(self._name(segment))
        return _card(
            f'<span class="chip" style="background:{color}"></span><b>{name}</b>'
            + "".join(f"<span><i>{key}</i> {value}</span>" for key, value in facts)
        )

    @cached_property
    def _drawn(self) -> Segmentation:
        """The segments at the picture's size."""
        side = max(self.segmentation.size)
        if side >= LEAST_SIDE:
            return self.segmentation
        height, width = (max(1, round(each * LEAST_SIDE / side)) for each in self.segmentation.size)
        return self.segmentation.resized((height, width))

    @cached_property
    def _colors(self) -> List[Color]:
        metadata = self.segmenter.predictor.metadata
        if self.found.settings.kind == "semantic":
            return class_colors(self.segmentation, metadata)
        return object_colors(self.segmentation, metadata)

    def _is_shown(self, segment: Dict) -> bool:
        return not segment["isthing"] or segment.get("score", 1.0) >= self.score_threshold

    def _segments(self):
        """Segment, its area, and the area's share of the picture."""
        height, width = self.segmentation.size
        areas = self.segmentation.areas().tolist()
        return [
            (segment, area, area / (height * width))
            for segment, area in zip(self.segmentation.segments, areas)
        ]

    def _name(self, segment: Dict) -> str:
        return self.segmenter.names.get(segment["category_id"], str(segment["category_id"]))


def _percent(share: Optional[float]) -> str:
    if share is None:
        return ""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _card(content: str) -> str:
    return f'<div class="details">{content}</div>'
