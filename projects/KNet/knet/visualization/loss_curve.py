"""The curve of a training's losses, from Detectron2's ``metrics.json``."""

import json
import logging
import os
import re
from typing import Dict, List, Optional, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from ..errors import UsageError

__all__ = ["draw_losses", "read_losses", "read_records", "set_scale", "sum_over_stages"]

logger = logging.getLogger(__name__)

TOTAL = "total_loss"
# Kinds of loss in this order and colour; others follow by name
COLORS = {
    "dice": "tab:blue",
    "class": "tab:orange",
    "semantic": "tab:green",
    "mask": "tab:red",
    "rank": "tab:purple",
}


def draw_losses(source: str, path: Optional[str] = None) -> str:
    """Draw the total loss and each kind of loss, summed over stages, over the iterations.

    Args:
        source: ``OUTPUT_DIR`` of a training, or its ``metrics.json``.
        path: PNG to write; ``losses.png`` beside the ``metrics.json`` if None.

    Returns:
        the file written.

    Raises:
        UsageError: there is no ``metrics.json``, or no loss in it; the PNG cannot be written.
    """
    metrics = os.path.join(source, "metrics.json") if os.path.isdir(source) else source
    path = path or os.path.join(os.path.dirname(metrics), "losses.png")
    if not path.lower().endswith(".png"):
        raise UsageError(f"{path} is no name of a PNG: let it end in .png")
    records = read_losses(metrics)
    figure = _draw(records)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): give another file") from error
    logger.info("Drew the losses of %d iterations into %s", records[-1]["iteration"] + 1, path)
    return path


def _draw(records: List[Dict]) -> Figure:
    iterations = np.array([record["iteration"] + 1 for record in records])
    curves = sum_over_stages(records)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # a single record is a point, which a line would not show
    marker = "o" if len(records) == 1 else None
    for name, values in curves.items():
        style = (
            {"color": "black", "linewidth": 2.0}
            if name == TOTAL
            else {"color": COLORS.get(name), "linewidth": 1.3}
        )
        label = "total" if name == TOTAL else name
        axes.plot(iterations, values, label=label, marker=marker, **style)
    set_scale(axes, np.concatenate(list(curves.values())))
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss (weighted, summed over stages)")
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def read_losses(path: str) -> List[Dict]:
    """The records of :func:`read_records` that have losses, by rising iteration.

    Raises:
        UsageError: there is no such file, or no loss in it.
    """
    records = [record for record in read_records(path) if TOTAL in record]
    if not records:
        raise UsageError(f"{path} has no losses yet: train for 20 iterations at least")
    return records


def read_records(path: str) -> List[Dict]:
    """The lines of a ``metrics.json``, by rising iteration; one an iteration.

    A run that is resumed or repeated in its folder appends to the file. Where the iterations of
    training fall back, what the lines before said about these and later iterations no longer holds.
    (An evaluation's line stands behind that of a later iteration.)

    Raises:
        UsageError: there is no such file.
    """
    if not os.path.isfile(path):
        raise UsageError(f"{path} does not exist: give the OUTPUT_DIR of a training")
    records: Dict[int, Dict] = {}
    last = -1  # iteration of training
    with open(path, encoding="utf-8", errors="replace") as f:
        for number, line in enumerate(f, start=1):
            try:
                record = json.loads(line)
            except ValueError:  # a run was stopped while it wrote
                logger.warning("%s: line %d is not json, left out", path, number)
                continue
            if not isinstance(record, dict) or "iteration" not in record:
                continue
            iteration = record["iteration"]
            if TOTAL in record:
                if iteration <= last:
                    records = {i: r for i, r in records.items() if i < iteration}
                last = iteration
            records[iteration] = {**records.get(iteration, {}), **record}
    return [records[iteration] for iteration in sorted(records)]


def sum_over_stages(records: List[Dict]) -> Dict[str, np.ndarray]:
    """Add up the stages' losses of a kind: ``loss_dice_0``, ``loss_dice_1``, ... -> ``dice``.

    Args:
        records: R of :func:`read_losses`.

    Returns:
        {"total_loss" or kind: (R,) values, NaN where the kind was not recorded}.
    """
    kinds: Dict[str, List[str]] = {}
    for key in sorted({key for record in records for key in record}):
        match = re.fullmatch(r"loss_(.+?)(_\d+)?", key)
        if match:
            kinds.setdefault(match[1], []).append(key)
    curves = {TOTAL: np.array([record[TOTAL] for record in records], dtype=float)}
    for kind in sorted(kinds, key=_rank):
        values = [[record.get(key, np.nan) for key in kinds[kind]] for record in records]
        curves[kind] = np.array(values, dtype=float).sum(axis=1)
    return curves


def _rank(kind: str) -> Tuple[int, str]:
    order = list(COLORS)
    return (order.index(kind) if kind in order else len(order)), kind


def set_scale(axes, values: np.ndarray) -> None:
    """A logarithmic axis, with plain numbers, where all values are positive; else from zero."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")
