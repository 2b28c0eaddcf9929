"""Curves of one or several trainings: losses, learning rate, results of each evaluation.

Shape shorthand: P points of a curve.
"""

import math
import os
import re
from typing import Dict, List, Sequence, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import UsageError
from .loss_curve import COLORS, TOTAL, read_records, set_scale

__all__ = ["RATES", "VALIDATION", "Curve", "curves_of_run", "draw_runs", "is_result", "panels_of"]

# Curve: iterations (P,), values (P,)
Curve = Tuple[np.ndarray, np.ndarray]

VALIDATION = "val_"
# Of the numbers of an evaluation, those that sum it up; behind the name of one of several data sets
_RESULTS = re.compile(r"(.+/)?(panoptic_seg/(PQ|SQ|RQ)|segm/(AP|AP50)|sem_seg/mIoU)")
_LOSS = re.compile(r"(val_)?loss_(.+?)(_\d+)?")
RATES = {"lr": "learning rate", "images_per_second": "images a second"}
COLUMNS = 4
PANEL_SIZE = (3.6, 2.5)  # inches
MAX_RUNS = 10  # that colours tell apart


def draw_runs(sources: Sequence[str], path: str) -> None:
    """Draw everything that trainings tell of themselves, a panel each, a colour a training.

    Losses of a kind are summed over stages; those on validation images are dashed.

    Args:
        sources: each the ``OUTPUT_DIR`` of a training, or its ``metrics.json``.
        path: PNG to write.

    Raises:
        UsageError: there is no ``metrics.json``, or nothing in it; the PNG cannot be written.
    """
    if not path.lower().endswith(".png"):
        raise UsageError(f"{path} is no name of a PNG: let it end in .png")
    if len(sources) > MAX_RUNS:
        raise UsageError(f"{len(sources)} trainings are too many for one picture: {MAX_RUNS} fit")
    runs = [curves_of_run(source) for source in sources]
    figure = _draw(runs, _titles(sources))
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): give another file") from error


def curves_of_run(source: str) -> Dict[str, Curve]:
    """{"total_loss", kind of loss, "lr", "images_per_second" or result: its curve}.

    Of validation losses the names start with ``val_``.

    Raises:
        UsageError: see :func:`draw_runs`.
    """
    metrics = os.path.join(source, "metrics.json") if os.path.isdir(source) else source
    values: Dict[str, Dict[int, float]] = {}
    for record in read_records(metrics):
        of_record: Dict[str, float] = {}
        for key, value in record.items():
            name = _name_of(key)
            if name and isinstance(value, (int, float)):
                of_record[name] = of_record.get(name, 0.0) + value
        for name, value in of_record.items():
            values.setdefault(name, {})[record["iteration"]] = value
    if not values:
        raise UsageError(f"{metrics} has no numbers yet: train for 20 iterations at least")
    return {
        name: (np.array(sorted(points)), np.array([points[i] for i in sorted(points)], float))
        for name, points in values.items()
    }


def _name_of(key: str) -> str:
    """The curve that a key of ``metrics.json`` belongs to; "" for none."""
    if key in (TOTAL, VALIDATION + TOTAL, *RATES) or _RESULTS.fullmatch(key):
        return key
    match = _LOSS.fullmatch(key)
    return f"{match[1] or ''}{match[2]}" if match else ""


def _titles(sources: Sequence[str]) -> List[str]:
    """The trainings' folders, without what all of their paths begin with."""
    folders = [
        os.path.abspath(s if os.path.isdir(s) else os.path.dirname(s) or ".") for s in sources
    ]
    if len(set(folders)) == 1:
        return [os.path.basename(folder) for folder in folders]
    return [os.path.relpath(folder, os.path.commonpath(folders)) for folder in folders]


def _draw(runs: List[Dict[str, Curve]], titles: List[str]) -> Figure:
    panels = panels_of(runs)
    rows = math.ceil(len(panels) / COLUMNS)
    columns = min(COLUMNS, len(panels))
    size = (PANEL_SIZE[0] * columns, PANEL_SIZE[1] * rows + 0.5)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in all_axes[len(panels) :]:
        axes.remove()
    for axes, (name, title) in zip(all_axes, panels.items()):
        _draw_panel(axes, runs, name, title)
    handles = [Line2D([], [], color=f"C{i}", label=title) for i, title in enumerate(titles)]
    if any(name.startswith(VALIDATION) for run in runs for name in run):
        handles.append(Line2D([], [], color="0.3", label="training"))
        handles.append(Line2D([], [], color="0.3", linestyle="--", label="validation"))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    return figure


def panels_of(runs: Sequence[Dict[str, Curve]]) -> Dict[str, str]:
    """{curve: title of its panel}: losses, results, rates; validation losses have no own panel."""
    names = {
        name[len(VALIDATION) :] if name.startswith(VALIDATION) else name
        for run in runs
        for name in run
    }
    results = sorted(name for name in names if is_result(name))
    kinds = sorted(names - {*results, TOTAL, *RATES})
    kinds.sort(key=lambda kind: list(COLORS).index(kind) if kind in COLORS else len(COLORS))
    panels = {TOTAL: "total loss"} if TOTAL in names else {}
    panels.update((kind, f"{kind} loss") for kind in kinds)
    panels.update((name, name.replace("/", " ")) for name in results)
    return {**panels, **{name: title for name, title in RATES.items() if name in names}}


def is_result(name: str) -> bool:
    """Is a curve one of the results of evaluations?"""
    return bool(_RESULTS.fullmatch(name))


def _draw_panel(axes, runs: List[Dict[str, Curve]], name: str, title: str) -> None:
    drawn = []
    for i, run in enumerate(runs):
        for curve, style in ((name, "-"), (VALIDATION + name, "--")):
            if curve not in run:
                continue
            iterations, values = run[curve]
            # few points, as evaluations give, are seen as such
            marker = "o" if len(iterations) <= 20 else None
            axes.plot(
                iterations + 1, values, style, color=f"C{i}", marker=marker, markersize=3, lw=1.3
            )
            drawn.append(values)
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    if name in RATES or is_result(name):
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="0.9")
    else:
        set_scale(axes, np.concatenate(drawn))
