"""Which kernels look at which: the attention among the kernels of one image, stage by stage."""

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure

from ..data.classes import ModelClass
from ..errors import UsageError
from .colors import Color
from .kernel_figures import new_figure, show_picture, titled
from .kernel_record import FoundObjects, KernelRecord
from .kernel_stages import colors_of_kernels, draw_found, found_at_the_end, strongest
from .text import drawable

__all__ = ["attention_among", "draw_attention"]

SHOWN = 16  # kernels
INCHES = 3.4  # of a panel
OTHERS = "one of the rest"
MAP = "RdBu_r"
MOST = 6  # times that attention is halved; less is drawn as this


def attention_among(record: KernelRecord, kernels: Sequence[int]) -> List[np.ndarray]:
    """What each kernel takes from each, and from one of the others on average.

    Args:
        record: of an image.
        kernels: n of all N.

    Returns:
        for each stage (n, n + 1): how many times as much as if it took 1 / N from each kernel.

    Raises:
        UsageError: the model's kernels do not look at each other by PyTorch's attention.
    """
    if not record.attention:
        raise UsageError(
            "the stages of this model have no torch.nn.MultiheadAttention: there is no attention "
            "among kernels to draw"
        )
    kernels, parts = list(kernels), []
    for weights in record.attention:
        rows = len(weights) * weights[kernels].numpy()
        own = rows[:, kernels]
        others = (rows.sum(1) - own.sum(1)) / max(1, len(weights) - len(kernels))
        parts.append(np.concatenate((own, others[:, None]), axis=1))
    return parts


def draw_attention(
    record: KernelRecord,
    classes: Sequence[ModelClass],
    metadata,
    *,
    score_threshold: float = 0.3,
    num_kernels: int = SHOWN,
) -> Figure:
    """The result, and for each stage what its kernels (rows) take from which (columns).

    Args:
        record: of an image.
        classes, metadata: the model's.
        score_threshold: of things.
        num_kernels: rows, of the kernels of the result, sorted by class.

    Raises:
        UsageError: nothing is found, or there is no attention.
    """
    found = found_at_the_end(record, score_threshold)
    colors = colors_of_kernels(found, metadata)
    category = _categories(found)
    kernels = sorted(strongest(found, num_kernels), key=lambda kernel: category[kernel])
    parts = attention_among(record, kernels)
    names = {c.id: c.name for c in classes}
    labels = [f"{names[category[kernel][1]]} {kernel}" for kernel in kernels]

    figure = new_figure(INCHES * (len(parts) + 1), INCHES + 0.9)
    first, *panels = figure.subplots(1, len(parts) + 1)
    show_picture(first, draw_found(record.image, found, metadata, colors))
    titled(first, "result", size=9)
    parts = [np.log2(part.clip(min=2.0**-MOST)) for part in parts]
    most = max(2.0, *(np.abs(part).max() for part in parts))
    for stage, (axes, part) in enumerate(zip(panels, parts), 1):
        drawn = axes.imshow(part, cmap=MAP, vmin=-most, vmax=most, aspect="auto")
        axes.axvline(len(kernels) - 0.5, color="white", linewidth=2)
        titled(axes, f"stage {stage}", size=9)
        _label(axes.xaxis, [*labels, OTHERS], [*(colors[k] for k in kernels), None])
        axes.tick_params(axis="x", rotation=90)
        if stage == 1:
            _label(axes.yaxis, labels, [colors[k] for k in kernels])
        else:
            axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=panels, shrink=0.9)
    ticks = range(-int(most), int(most) + 1)
    bar.set_ticks(ticks, labels=[f"{2.0**tick:g}\u00d7" for tick in ticks], fontsize=7)
    bar.set_label("attention, as many times the even share", fontsize=8)
    return figure


def _categories(found: FoundObjects) -> Dict[int, Tuple[bool, int]]:
    """Kernel -> (is it stuff's, its class)."""
    return {
        kernel: (not segment["isthing"], segment["category_id"])
        for kernel, segment in zip(found.kernels, found.segmentation.segments)
    }


def _label(axis, texts: Sequence[str], colors: Sequence[Optional[Color]]) -> None:
    """Ticks with names, in the colours of the picture, dark enough to be read."""
    texts = [drawable(text) for text in texts]
    axis.set_ticks(range(len(texts)), labels=[text for text, _ in texts], fontsize=7)
    for artist, (_, families), color in zip(axis.get_ticklabels(), texts, colors):
        artist.set_parse_math(False)
        artist.set_family(families)
        artist.set_color("black" if color is None else tuple(0.7 * c for c in color))
