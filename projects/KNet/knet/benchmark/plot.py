"""The records of a run as a picture: parts stacked, candidates beside each other, growth."""

import os
from typing import Any, Dict, List, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import UsageError
from .jobs import MACHINE
from .report import point_of

__all__ = ["plot"]

# what is swept, as it is called in the records
SWEPT = {
    "pixels": lambda record: record["size"][0] * record["size"][1] * record["batch"],
    "kernels": lambda record: record["kernels"],
    "objects": lambda record: record["objects"],
}
# twenty that can be told apart, dark and light in turns far from each other
COLORS = [f"C{i}" for i in range(10)] + [
    "navy", "gold", "darkgreen", "salmon", "indigo", "tan", "turquoise", "black", "hotpink", "lime",
]  # fmt: skip
# parts that are one colour, whatever stands behind the colon
_WHOLE = ("backward", "losses", "region heads", "update stage")


def plot(records: Sequence[Dict[str, Any]], path: str) -> None:
    """Draw the parts of all candidates at the first point of each kind and, of what was swept, the
    growth of each candidate, and of K-Net's results.

    Args:
        path: PNG, PDF or SVG to write.

    Raises:
        UsageError: it cannot be written, or there is nothing to draw.
    """
    done = [r for r in records if "error" not in r and r["candidate"] != MACHINE]
    if not done:
        raise UsageError(f"no candidate was measured: there is nothing to draw in {path}")
    kinds = list(dict.fromkeys(r["kind"] for r in done))
    swept = [name for name, of in SWEPT.items() if len({of(r) for r in done}) > 1]
    columns = 1 + len(swept)
    figure = Figure(figsize=(7 * columns, 4.2 * len(kinds)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(_group(part) for r in done for part in r["parts"]))
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    axes = figure.subplots(len(kinds), columns, squeeze=False)
    for row, kind in zip(axes, kinds):
        of_kind = [r for r in done if r["kind"] == kind]
        first = [r for r in of_kind if point_of(r) == point_of(of_kind[0])]
        _draw_parts(row[0], first, colors)
        for ax, name in zip(row[1:], swept):
            _draw_growth(ax, of_kind, name)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path} ({error}): give another file") from error


def _group(part: str) -> str:
    return next((whole for whole in _WHOLE if part.startswith(whole)), part)


def _label(candidate: str) -> str:
    return os.path.splitext(os.path.basename(candidate))[0]


def _draw_parts(ax, records: List[Dict[str, Any]], colors: Dict[str, str]) -> None:
    """A bar for each candidate."""
    names = list(dict.fromkeys(_group(part) for r in records for part in r["parts"]))
    ends = [0.0] * len(records)
    labels = [_label(r["candidate"]) for r in records]
    for name in names:
        lengths = [
            sum(p["seconds"]["median"] for part, p in r["parts"].items() if _group(part) == name)
            for r in records
        ]
        ax.barh(labels, lengths, left=ends, color=colors[name], edgecolor="white", label=name)
        ends = [end + length for end, length in zip(ends, lengths)]
    kind, size, batch, *_ = point_of(records[0])
    ax.set_title(f"{kind}, {batch} of {size}")
    ax.set_xlabel("seconds")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_growth(ax, records: List[Dict[str, Any]], name: str) -> None:
    """Seconds over what is swept; everything else is as at the first point."""
    of = SWEPT[name]
    others = [other for other in SWEPT if other != name]
    fixed = [SWEPT[other](records[0]) for other in others]
    records = [r for r in records if [SWEPT[other](r) for other in others] == fixed]
    for index, candidate in enumerate(dict.fromkeys(r["candidate"] for r in records)):
        mine = sorted((r for r in records if r["candidate"] == candidate), key=of)
        x = [of(r) for r in mine]
        color = COLORS[index % len(COLORS)]
        whole = [r["seconds"]["median"] for r in mine]
        ax.plot(x, whole, marker="o", color=color, label=_label(candidate))
        results = [
            sum(p["seconds"]["median"] for k, p in r["parts"].items() if k.startswith("results"))
            for r in mine
        ]
        if any(results):
            ax.plot(x, results, marker=".", ls=":", color=color, label="its results")
    ax.set_title(f"{records[0]['kind']}, growth with {name}")
    ax.set_xlabel(name)
    ax.set_ylabel("seconds")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
