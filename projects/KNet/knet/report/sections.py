"""The sections of a report about one run, each as HTML."""

import json
import math
import os
from typing import Dict, List, Sequence

import numpy as np

from ..visualization.html_page import Html, table, text
from .analysis import Analysis
from .charts import reliability_chart, size_chart
from .failures import KINDS
from .figures import MAIN
from .pictures import ERRORS, Example, Panels
from .tallies import LEAST_SCORE, Confusion

__all__ = [
    "calibration",
    "classes",
    "confusion",
    "failures",
    "images",
    "number",
    "overview",
    "sizes",
]

# What is said of each kind of result beside its main figure
DETAILS = {
    "panoptic": ("SQ", "RQ", "PQ_th", "PQ_st"),
    "instance": ("AP50", "AP75", "APs", "APm", "APl"),
    "semantic": ("fwIoU", "mACC", "pACC", "BoundaryIoU"),
}
LABELS = {"PQ_th": "PQ things", "PQ_st": "PQ stuff"}
# of the class table, the first as a bar
CLASS_FIGURES = {"panoptic": ("PQ", "SQ", "RQ"), "instance": ("AP",), "semantic": ("IoU", "ACC")}
MAX_CLASSES = 16  # of a matrix; of more those that are mistaken most
MAX_MISTAKES = 12  # in the list of the most frequent
NOTHING = "(nothing)"
# Kinds of failure that regions of a class cannot have
_OF_OBJECTS = ("merged", "split", "found twice")


def number(value: float, digits: int = 1) -> Html:
    """A cell of a table; a dash where there is no value."""
    if math.isnan(value):
        return Html('<span data-value="">-</span>')
    return Html(f'<span data-value="{value:.6g}">{value:.{digits}f}</span>')


def _bar(value: float) -> Html:
    """A cell with a percentage and a bar."""
    if math.isnan(value):
        return number(value)
    return Html(
        f'<span class="bar" data-value="{value:.6g}"><i style="--p:{value:.1f}%"></i>'
        f"{value:.1f}</span>"
    )


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _counted(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


# ---------------------------------------------------------------------------------------- overview


def overview(analysis: Analysis) -> Html:
    """The figures, one sentence about what they hide, and what was evaluated."""
    parts = [f'<p class="lead">{text(_in_words(analysis))}</p><div class="cards">']
    for kind, figures in analysis.figures.items():
        _, name = MAIN[kind]
        value = figures.overall.get(name, math.nan)
        rows = [
            f"<div><dt>{text(LABELS.get(key, key))}</dt>"
            f"<dd>{number(figures.overall[key])}</dd></div>"
            for key in DETAILS[kind]
            if key in figures.overall
        ]
        parts.append(
            f'<div class="card" data-kind="{kind}"><div class="name">{name} ({kind})</div>'
            f'<div class="value">{number(value)}</div><dl>{"".join(rows)}</dl></div>'
        )
    parts.append("</div>" + _facts(analysis))
    return Html("".join(parts))


def _in_words(analysis: Analysis) -> str:
    totals, what = analysis.totals, _what(analysis)
    words = (
        f"Of {totals['objects']} true {what} {totals['found']} "
        f"({_percent(totals['found'], totals['objects'])}) were found; {totals['wrong']} "
        "predictions found none."
    )
    if analysis.failures:
        kind, count = analysis.failures.most_common(1)[0]
        words += f" The most frequent failure: {KINDS[kind].title.lower()} ({count})."
    return words


def _what(analysis: Analysis) -> str:
    return {"panoptic": "segments", "instance": "objects", "semantic": "regions"}[analysis.run.kind]


def _facts(analysis: Analysis) -> str:
    run, cfg = analysis.run, analysis.run.cfg
    backbone = cfg.MODEL.BACKBONE.NAME.removeprefix("build_").removesuffix("_backbone")
    facts = {
        "data set": f"{run.dataset}, {_counted(len(run.dicts), 'image')}, "
        f"{_counted(len(analysis.class_names), 'class')}",
        "model": f"{cfg.MODEL.META_ARCHITECTURE} on {backbone}",
        "training": f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images, "
        f"{cfg.SOLVER.OPTIMIZER}, learning rate {cfg.SOLVER.BASE_LR:g}",
        "predictions": os.path.join(os.path.basename(os.path.abspath(run.folder)), "inference"),
    }
    if run.kind == "instance":
        facts["objects counted"] = f"of a score of {analysis.score_threshold:g} and more"
    rows = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>'


# ----------------------------------------------------------------------------------------- classes


def classes(analysis: Analysis) -> Html:
    """A table of the classes: figures of the evaluator, counts of segments."""
    kind, figures = analysis.run.kind, analysis.figures[analysis.run.kind].classes
    names = CLASS_FIGURES[kind]
    headers = ["class", *names, f"true {_what(analysis)}", "found", "not found", "wrong"]
    rows = []
    for name in analysis.class_names:
        of_class, counts = figures.get(name, {}), analysis.counts[name]
        first, *others = (of_class.get(figure, math.nan) for figure in names)
        rows.append(
            [
                name,
                _bar(first),
                *map(number, others),
                counts["objects"],
                counts["found"],
                counts["objects"] - counts["found"],
                counts["wrong"],
            ]
        )
    best = {name: figures.get(name, {}).get(names[0], math.nan) for name in analysis.class_names}
    rows.sort(key=lambda row: (math.isnan(best[row[0]]), -best[row[0]]))
    return Html(
        f"<p>{text(_CLASS_NOTES[kind])} A click on a column's head sorts.</p>"
        + table(headers, rows, classes="sortable classes")
    )


_COUNTS_NOTE = (
    "Found: a prediction of the class has an IoU above 0.5 with it (instances: from 0.5 on). "
    "Wrong: a prediction that found none."
)
_CLASS_NOTES = {
    "panoptic": "PQ = SQ x RQ, in percent: the mean IoU of the segments found, times how many of "
    f"all were found. {_COUNTS_NOTE}",
    "instance": "AP is COCO's mask AP, in percent, over all scores; the counts are of the objects "
    f"above the score threshold. {_COUNTS_NOTE}",
    "semantic": "IoU and accuracy of the pixels, in percent. A region is all of a class in one "
    f"image. {_COUNTS_NOTE}",
}


# ------------------------------------------------------------------------------------------ images


def images(worst: Sequence[Panels], best: Sequence[Panels], kind: str) -> Html:
    """Galleries of the images, with the legend of the error maps."""
    quality = "mean IoU of its classes" if kind == "semantic" else "PQ over all of its segments"
    shown = [
        name for name in ERRORS if (name == "extra") == (kind == "instance") or name != "extra"
    ]
    shown = [name for name in shown if kind != "semantic" or name in ("right", "class")]
    legend = "".join(
        f'<li><i style="--c:rgb{color}"></i>{text(words)}</li>'
        for color, words in (ERRORS[name] for name in shown)
    )
    parts = [
        f"<p>By the {quality}. Where the truth has no class, and on crowd, the error map is grey. "
        "A click enlarges and names the segments; the arrow keys go on.</p>",
        f'<ul class="legend">{legend}</ul>',
    ]
    for title, panels in (("Worst", worst), ("Best", best)):
        if panels:
            parts.append(f"<h3>{title}</h3><div class='gallery'>{''.join(map(_row, panels))}</div>")
    return Html("".join(parts))


def _row(image: Panels) -> str:
    buttons = "".join(
        f'<button type="button" class="picture" title="enlarge" '
        f'data-names="{text(json.dumps(panel.names, ensure_ascii=False))}">'
        f'<img decoding="async" alt="{text(image.name)}: {text(panel.caption)}" '
        f'src="{panel.picture}"><span>{text(panel.caption)}</span></button>'
        for panel in image.panels
    )
    return (
        f"<figure><figcaption><b>{100 * image.quality:.1f}</b> {text(image.name)}</figcaption>"
        f'<div class="panels">{buttons}</div></figure>'
    )


# ---------------------------------------------------------------------------------------- failures


def failures(analysis: Analysis, examples: Dict[str, List[Example]]) -> Html:
    """Each kind: its number, its definition, its largest examples."""
    total = sum(analysis.failures.values())
    what = _what(analysis)
    parts = [
        f"<p>Every true one of the {text(what)} that was not found is of one kind, the first that "
        "fits in this order. A prediction that found none is counted, as one of the last two "
        "kinds, only if it explains no failure above.</p>"
    ]
    for kind, (title, definition) in KINDS.items():
        if analysis.run.kind == "semantic" and kind in _OF_OBJECTS:
            continue
        count = analysis.failures[kind]
        share = 100 * count / max(total, 1)
        pictures = "".join(_example(title, each) for each in examples.get(kind, ()))
        parts.append(
            f'<div class="failure" data-kind="{kind}"><h3>{title} <span><b class="count">{count}'
            f"</b> ({_percent(count, total)} of the failures)</span></h3>"
            f'<div class="share" style="--p:{share:.1f}%"></div><p>{text(definition)}</p>'
            f'<div class="examples">{pictures}</div></div>'
        )
    parts.append(
        '<p class="soft">Examples are the largest; truth on the left, prediction on the right, the '
        "failed segment in orange. Scores stand behind predicted classes.</p>"
    )
    return Html("".join(parts))


def _example(title: str, example: Example) -> str:
    name, words = text(example.name), text(example.words)
    return (
        '<figure><button type="button" class="picture" title="enlarge">'
        f'<img decoding="async" alt="{title}, {name}: {words}" src="{example.picture}"></button>'
        f'<figcaption>{words}<span class="file" title="{name}">{name}</span></figcaption></figure>'
    )


# --------------------------------------------------------------------------------------- confusion


def confusion(analysis: Analysis) -> Html:
    """Of segments, and of pixels where there is one."""
    parts = [
        "<p>A row is a true class, in percent of it; a column what was predicted. Point at a cell "
        "for its number.</p>",
        "<h3>Segments</h3><p class='soft'>A true segment that was not found counts as the class of "
        "a prediction of another class that has its outline (IoU above 0.5), or as nothing. The "
        "last row: predictions that found nothing.</p>",
        _matrix(analysis, analysis.segments, "segments"),
    ]
    if analysis.pixels is not None:
        parts += ["<h3>Pixels</h3>", _matrix(analysis, analysis.pixels, "pixels")]
    return Html("".join(parts))


def _matrix(analysis: Analysis, counted: Confusion, unit: str) -> str:
    counts = counted.counts
    names = [*analysis.class_names, NOTHING]
    chosen = _most_mistaken(counts)
    header = "".join(f"<th>{text(names[j])}</th>" for j in chosen)
    rows = []
    for i in chosen:
        whole = counts[i].sum()
        if not whole:
            continue
        cells = "".join(_cell(names, counts, i, j, whole, unit) for j in chosen)
        rows.append(f"<tr><th>{text(names[i])}</th>{cells}</tr>")
    left_out = len(names) - len(chosen)
    note = f"<p class='soft'>{left_out} classes that are mistaken less are left out.</p>"
    mistakes = [
        (names[i], names[j], count, number(100 * count / counts[i].sum()))
        for i, j, count in counted.most_frequent(MAX_MISTAKES)
    ]
    return (
        f'<div class="beside"><div><div class="scroll"><table class="matrix {unit}"><thead><tr>'
        f"<th></th>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{note if left_out else ''}</div><div>"
        + table(("true", "predicted as", unit, "% of the row"), mistakes, classes="sortable")
        + "</div></div>"
    )


def _most_mistaken(counts: np.ndarray) -> List[int]:
    """Up to ``MAX_CLASSES`` classes in their order, and nothing."""
    nothing = len(counts) - 1
    mistakes = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    order = np.argsort(-mistakes[:nothing], kind="stable")[:MAX_CLASSES]
    return [*sorted(order.tolist()), nothing]


def _cell(names: List[str], counts: np.ndarray, i: int, j: int, whole: int, unit: str) -> str:
    share = counts[i, j] / whole
    if not counts[i, j]:
        return "<td></td>"
    color = "47,125,91" if i == j else "200,70,60"
    words = f"{names[i]} as {names[j]}: {counts[i, j]} {unit}, {100 * share:.1f} %"
    shown = f"{100 * share:.0f}" if share >= 0.005 else ""
    opacity = 0.03 + 0.67 * share
    return (
        f'<td style="background:rgba({color},{opacity:.2f})" title="{text(words)}" '
        f'data-count="{counts[i, j]}">{shown}</td>'
    )


# --------------------------------------------------------------------------- calibration and sizes


def calibration(analysis: Analysis) -> Html:
    """Reliability of the scores."""
    measured = analysis.calibration
    if not measured.count:
        return Html(
            "<p>These predictions have no scores: the evaluation kept the class of each pixel "
            "alone. A report of <code>--weights</code> measures the scores of pixels too.</p>"
        )
    pixels = analysis.run.kind == "semantic"
    what = "pixels of a class" if pixels else "predicted segments"
    right = (
        "its class is the true one"
        if pixels
        else "it found a true segment of its class (IoU of 0.5)"
    )
    lean = "too sure" if measured.bias > 0 else "too modest"
    least = "" if pixels else f" Segments of a score below {LEAST_SCORE:g} are left out."
    return Html(
        f"<p>Of {what} with a score of 0.8, 80 % should be right: {right}. The expected "
        f"calibration error is <b class='ece'>{100 * measured.error:.1f} %</b>, the mean distance "
        f"of score and share of right ones in ten bins; on the whole the scores are {lean} by "
        f"{100 * abs(measured.bias):.1f} %.{least}</p>"
        f'<div class="charts">{reliability_chart(measured.bins)}</div>'
    )


def sizes(analysis: Analysis) -> Html:
    """Quality by size."""
    what = "regions" if analysis.run.kind == "semantic" else "true objects"
    return Html(
        f"<p>How many of the {what} of each size were found, and how well.</p>"
        f'<div class="charts">{size_chart(analysis.sizes.bins)}</div>'
    )
