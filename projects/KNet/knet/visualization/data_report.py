"""What a check of data sets leaves in a folder: report.json, a page with statistics, samples."""

import base64
import io
import json
import logging
import os
from pathlib import Path
from typing import Iterable, List, Sequence

import numpy as np
from detectron2.data import DatasetCatalog
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..data.checks import KINDS, Report
from ..errors import DatasetError, UsageError
from ..files import refuse_overwriting, replacing
from .html_page import document, table, text
from .training_samples import draw_training_samples

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

JSON, PAGE, SAMPLES = "report.json", "report.html", "samples"
_SHOWN = 20  # occurrences of a kind on the page; report.json has all
_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def write_report(report: Report, cfg, folder: str, samples: int = 0) -> List[str]:
    """
    Args:
        report: of :func:`knet.data.checks.check_data`.
        cfg: its config.
        folder: gets ``report.json``, ``report.html`` and ``samples/``; it is made.
        samples: how many training images to draw.

    Returns:
        the files written.

    Raises:
        UsageError: the folder cannot be written, or holds the data.
    """
    refuse_overwriting(folder, [JSON, PAGE], report.inputs, change="--output")
    pictures = os.path.join(folder, SAMPLES)
    if samples and any(_is_below(path, pictures) for path in report.inputs):
        raise UsageError(f"{pictures} holds data that are read: choose another --output")
    try:
        os.makedirs(folder, exist_ok=True)
        drawn = _draw_samples(cfg, samples, pictures) if samples else []
        written = [os.path.join(folder, JSON), os.path.join(folder, PAGE)]
        content = json.dumps(report.as_json(), indent=1, ensure_ascii=True)
        page = _page(report, cfg, [os.path.relpath(path, folder) for path in drawn])
        for path, each in zip(written, (content, page)):
            with replacing(Path(path)) as temporary:
                temporary.write_text(each, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"--output {folder} cannot be written ({error.strerror}): choose another"
        ) from error
    return written + drawn


def _is_below(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))


def _draw_samples(cfg, number: int, folder: str) -> List[str]:
    unread = [name for name in cfg.DATASETS.TRAIN if name not in DatasetCatalog]
    if unread:
        logger.warning("no samples can be drawn: %s cannot be read", ", ".join(unread))
        return []
    try:
        return draw_training_samples(cfg, number, folder)
    except (DatasetError, UsageError) as error:  # the report tells why
        logger.warning("no samples can be drawn: %s", error)
        return []


# ------------------------------------------------------------------------------------------- page


def _page(report: Report, cfg, samples: Sequence[str]) -> str:
    num_kernels = cfg.MODEL.KNET.NUM_KERNELS if cfg.MODEL.META_ARCHITECTURE == "KNet" else 0
    parts = [
        f"<h1>{text(', '.join(report.statistics))}</h1>",
        f"<p>{text(report.summary())}</p>",
        *(f"<p>Paths are below {text(report.root)}</p>" for _ in range(bool(report.root))),
        *_faults(report),
    ]
    if any(each.sizes for each in report.statistics.values()):
        parts.append(
            f"<h2>Statistics</h2><img alt='statistics' src='{_picture(report, num_kernels)}'>"
        )
    for name, each in report.statistics.items():
        rows = ((c, *numbers) for c, numbers in each.classes.items())
        parts.append(f"<h2>{text(name)} ({text(each.split)}): {len(each.sizes)} images</h2>")
        parts.append(table(("class", each.unit, "images"), rows))
    if samples:
        parts.append("<h2>As training sees them</h2>")
        parts += [f"<p><img alt='' src='{text(path)}'></p>" for path in samples]
    return document("Data sets", "\n".join(parts))


def _faults(report: Report) -> Iterable[str]:
    for kind, faults in report.by_kind().items():
        severity, title, remedy = KINDS[kind]
        yield f"<h3 class='{severity}'>{severity}: {text(title)} ({len(faults)})</h3>"
        yield f"<p>{text(remedy)}</p><ul>"
        yield from (f"<li>{text(report.shown(f.sentence))}</li>" for f in faults[:_SHOWN])
        yield f"</ul>{'<p>... (all in report.json)</p>' if len(faults) > _SHOWN else ''}"


def _picture(report: Report, num_kernels: int) -> str:
    """Sizes of images, objects an image and areas of objects, as a PNG inside of the page."""
    with_objects = any(each.areas for each in report.statistics.values())
    figure = Figure(figsize=(14 if with_objects else 5, 4), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3 if with_objects else 1, squeeze=False)[0]
    axes[0].set(title="image sizes", xlabel="width (pixels)", ylabel="height (pixels)")
    for i, (name, each) in enumerate(report.statistics.items()):
        if each.sizes:
            heights, widths = zip(*each.sizes)
            # names as they are, whatever "$" they have
            style = {"color": _COLORS[i % len(_COLORS)], "label": name.replace("$", r"\$")}
            axes[0].scatter(widths, heights, s=12, alpha=0.5, **style)
    axes[0].set(xlim=(0, None), ylim=(0, None))
    if with_objects:
        _draw_objects(axes[1], axes[2], report, num_kernels)
    axes[0].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _draw_objects(counts_axes, areas_axes, report: Report, num_kernels: int) -> None:
    """Two histograms; of the shares of each set, as sets differ in size."""
    most = max(max(each.objects, default=0) for each in report.statistics.values())
    largest = max(max(each.areas, default=1) for each in report.statistics.values())
    bins = np.linspace(-0.5, most + 0.5, min(most + 2, 41))
    sides = np.linspace(0, np.sqrt(largest), 41)
    for i, each in enumerate(report.statistics.values()):
        style = {"histtype": "step", "color": _COLORS[i % len(_COLORS)], "linewidth": 1.5}
        for axes, values, edges in (
            (counts_axes, each.objects, bins),
            (areas_axes, np.sqrt(each.areas), sides),
        ):
            if len(values):
                axes.hist(values, edges, weights=np.full(len(values), 1 / len(values)), **style)
    counts_axes.set(title="objects an image", xlabel="objects", ylabel="share of images")
    areas_axes.set(title="sizes of objects", xlabel="root of the area (pixels)")
    areas_axes.set_ylabel("share of objects")
    if num_kernels:
        counts_axes.set_title(f"objects an image; {num_kernels} kernels")
        if num_kernels < 2 * most:
            counts_axes.axvline(num_kernels, color="black", linestyle=":")
