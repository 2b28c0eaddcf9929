"""Captions above the panels of a picture, shown whole however long they are."""

from typing import List, Sequence, Tuple

import numpy as np
from detectron2.utils.visualizer import VisImage
from matplotlib.text import Text

from .text import set_text

__all__ = ["CAPTION_HEIGHT", "draw_captions"]

CAPTION_HEIGHT = 30  # pixels, of a caption of one line
FONT_SIZES = (11, 8)  # points; the smaller where a caption would not fit on a line
LINE_HEIGHT = 15  # pixels, of the smaller font
MAX_LINES = 8  # room for the longest names that files have
MARGIN = 4  # pixels on each side
BREAKS = " _-.,/\\"  # a line ends behind one of these where it can
ELLIPSIS = " \u2026 "


def draw_captions(texts: Sequence[str], width: int) -> List[np.ndarray]:
    """White strips of one height with a text in the middle of each.

    A long text has a smaller font, then several lines; of one longer still the middle is left out.

    Returns:
        for each text (height, width, 3) uint8, CAPTION_HEIGHT high if all fit on a line.
    """
    measure = _Measure(width)
    fitted = [_fit(text, measure) for text in texts]
    lines = max(text.count("\n") for text, _ in fitted)
    height = CAPTION_HEIGHT + lines * LINE_HEIGHT
    strips = []
    for text, font_size in fitted:
        strip = VisImage(np.full((height, width, 3), 255, np.uint8))
        place = {"ha": "center", "va": "center", "multialignment": "center"}
        set_text(strip.ax.text(width / 2, height / 2, "", size=font_size, **place), text)
        strips.append(strip.get_image())
    return strips


class _Measure:
    """Whether texts fit on a line."""

    def __init__(self, width: int):
        self.width = width - 2 * MARGIN
        self.strip = VisImage(np.zeros((1, width, 3), np.uint8))
        self.artist: Text = self.strip.ax.text(0, 0, "")

    def fits(self, line: str, font_size: float) -> bool:
        set_text(self.artist, line)
        self.artist.set_size(font_size)
        return self.artist.get_window_extent(self.strip.canvas.get_renderer()).width <= self.width


def _fit(text: str, measure: _Measure) -> Tuple[str, float]:
    """The text in lines that fit, and its font size."""
    for font_size in FONT_SIZES:
        if "\n" not in text and measure.fits(text, font_size):
            return text, font_size
    lines = _wrap(text, measure)
    if len(lines) > MAX_LINES:
        half = MAX_LINES // 2
        lines = [*lines[:half], ELLIPSIS, *lines[half - MAX_LINES + 1 :]]
    return "\n".join(lines), FONT_SIZES[-1]


def _wrap(text: str, measure: _Measure) -> List[str]:
    """Cut into lines that fit: behind a break in the last third of a line, else anywhere."""
    lines = []
    for rest in text.split("\n"):
        while True:
            count = _prefix(rest, measure)
            if count < len(rest):
                ends = [i + 1 for i in range(2 * count // 3, count) if rest[i] in BREAKS]
                count = ends[-1] if ends else count
            lines.append(rest[:count])
            rest = rest[count:]
            if not rest:
                break
    return lines


def _prefix(text: str, measure: _Measure) -> int:
    """How many characters fit on a line, at least one."""
    low, high = 1, max(1, len(text))
    while low < high:
        middle = (low + high + 1) // 2
        if measure.fits(text[:middle], FONT_SIZES[-1]):
            low = middle
        else:
            high = middle - 1
    return min(low, len(text))
