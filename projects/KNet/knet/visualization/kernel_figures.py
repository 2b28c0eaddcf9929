"""What the figures of kernels share."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .colors import Color
from .text import set_text

__all__ = ["new_figure", "over_image", "show_map", "show_picture", "titled"]

MAPS = "magma"
LOWEST_BRIGHT = 0.02  # a map that is nowhere above it stays dark
STRENGTH = 0.8  # of a mask's colour where the mask is sure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    FigureCanvasAgg(figure)
    return figure


def titled(axes: Axes, text: str, size: float = 7, **options) -> None:
    """A title of users' words, in any script."""
    set_text(axes.set_title("", fontsize=size, pad=3, **options), text)


def show_map(axes: Axes, values: np.ndarray) -> None:
    """(H, W) probabilities as colours, dark for 0, bright for the highest."""
    axes.imshow(values, cmap=MAPS, vmin=0, vmax=max(LOWEST_BRIGHT, values.max()))
    _without_frame(axes)


def show_picture(axes: Axes, pixels: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB."""
    axes.imshow(pixels, interpolation="antialiased")
    _without_frame(axes)


def over_image(image: np.ndarray, mask: np.ndarray, color: Color) -> np.ndarray:
    """A soft mask over its image in grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) probabilities.
        color: of the mask.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    grey = 0.6 * image.mean(axis=2, keepdims=True) + 60
    share = STRENGTH * mask[..., None]
    return ((1 - share) * grey + share * 255 * np.array(color)).round().astype(np.uint8)


def _without_frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
