"""The page: what runs have in common, then a part for each, of which one is shown at a time."""

from pathlib import Path
from typing import Dict, Sequence, Tuple

from ..visualization.html_page import Html, document, table, text
from ..visualization.loss_curve import TOTAL
from ..visualization.run_curves import RATES, VALIDATION, Curve, is_result, panels_of
from . import sections
from .analysis import Analysis
from .charts import Line, line_chart
from .pictures import draw_examples, draw_images

__all__ = ["report_page"]

_HERE = Path(__file__).parent
_DIALOG = (
    '<dialog aria-label="enlarged picture"><div><img alt=""></div><p></p><form method="dialog">'
    '<button type="button" class="previous">← previous</button>'
    '<button type="button" class="next">next →</button>'
    '<button class="close">close</button></form></dialog>'
)
# Curves of a run, by the names of knet.visualization.run_curves; {} where there is no metrics.json
Curves = Dict[str, Curve]


def report_page(
    analyses: Sequence[Analysis], curves: Sequence[Curves], num_images: int, side: int
) -> str:
    """A page about runs.

    Args:
        analyses: one a run.
        curves: of each run.
        num_images: best and worst images to show, so many of each, and of examples of a failure.
        side: longest side of a picture, in pixels.
    """
    titles = [analysis.run.title for analysis in analyses]
    body = [
        f'<header class="page"><h1>{text(" · ".join(titles))}</h1>',
        f'<p class="soft">{text(_subtitle(analyses))}</p></header>',
    ]
    if len(analyses) > 1:
        body.append(_comparison(analyses, curves))
        body.append(_tabs(titles))
    for i, analysis in enumerate(analyses):
        alone = len(analyses) == 1  # of several the curves are compared above
        part = _part(i, analysis, curves[i] if alone else {}, num_images, side)
        name = "" if alone else f'<h2 class="name run{i % 6}">{text(titles[i])}</h2>'
        body.append(f'<div class="part" id="run{i}">{name}{part}</div>')
    body.append(f"{_FOOTER}{_DIALOG}")
    return document(
        f"Report: {', '.join(titles)}",
        "\n".join(body),
        style=(_HERE / "report.css").read_text(encoding="utf-8"),
        script=(_HERE / "report.js").read_text(encoding="utf-8"),
    )


_FOOTER = (
    "<footer>Figures are those of the evaluators, of the predictions that the evaluation kept. "
    "This page needs nothing from elsewhere.</footer>"
)


def _subtitle(analyses: Sequence[Analysis]) -> str:
    kinds = " and ".join(dict.fromkeys(a.run.kind for a in analyses))
    datasets = " and ".join(dict.fromkeys(a.run.dataset for a in analyses))
    return f"K-Net, {kinds} segmentation, evaluated on {datasets}"


# -------------------------------------------------------------------------------- runs side by side


def _comparison(analyses: Sequence[Analysis], curves: Sequence[Curves]) -> str:
    parts = ["<section id='comparison'><h2>Runs beside each other</h2>", _figures_table(analyses)]
    parts.append(_class_comparison(analyses))
    charts = _charts(curves, [a.run.title for a in analyses])
    if charts:
        legend = "".join(
            f'<li class="run{i % 6}"><i></i>{text(a.run.title)}</li>'
            for i, a in enumerate(analyses)
        )
        parts.append(f'<h3>Curves</h3><ul class="legend">{legend}</ul>{charts}')
    return "".join((*parts, "</section>"))


def _figures_table(analyses: Sequence[Analysis]) -> Html:
    """A row a run: the figures of all kinds, and the numbers of failures."""
    names: Dict[Tuple[str, str], None] = {}  # in order
    for analysis in analyses:
        for kind in analysis.figures:
            details = sections.DETAILS[kind] if kind == analysis.run.kind else ()
            names.update({(kind, name): None for name in (sections.MAIN[kind][1], *details)})
    names = {
        (kind, name): None
        for kind, name in names
        if any(name in a.figures[kind].overall for a in analyses if kind in a.figures)
    }
    rows = []
    for analysis in analyses:
        row = [analysis.run.title]
        for kind, name in names:
            figures = analysis.figures.get(kind)
            row.append(sections.number(figures.overall.get(name, _NAN) if figures else _NAN))
        totals = analysis.totals
        rows.append([*row, totals["objects"] - totals["found"], totals["wrong"]])
    labels = [sections.LABELS.get(name, name) for _, name in names]
    return table(("run", *labels, "not found", "wrong"), rows, classes="sortable runs")


_NAN = float("nan")


def _class_comparison(analyses: Sequence[Analysis]) -> str:
    """A row a class: the main figure of each run; of runs of one kind alone."""
    kinds = {analysis.run.kind for analysis in analyses}
    if len(kinds) > 1:
        return ""
    (kind,) = kinds
    figure = sections.CLASS_FIGURES[kind][0]
    names = dict.fromkeys(name for a in analyses for name in a.class_names)
    rows = []
    for name in names:
        values = [a.figures[kind].classes.get(name, {}).get(figure, _NAN) for a in analyses]
        row = [name, *map(sections.number, values)]
        rows.append(row if len(values) != 2 else [*row, sections.number(values[1] - values[0])])
    headers = ["class", *(f"{figure} {a.run.title}" for a in analyses)]
    headers += ["difference"] if len(analyses) == 2 else []
    return f"<h3>Classes</h3>{table(headers, rows, classes='sortable')}"


def _tabs(titles: Sequence[str]) -> str:
    buttons = "".join(
        f'<button type="button" role="tab" class="run{i % 6}" id="tab{i}" aria-controls="run{i}">'
        f"{text(title)}</button>"
        for i, title in enumerate(titles)
    )
    return f'<div class="tabs" role="tablist" aria-label="runs">{buttons}</div>'


# ------------------------------------------------------------------------------------------ one run


def _part(i: int, analysis: Analysis, curves: Curves, num_images: int, side: int) -> str:
    ranked = sorted(analysis.images, key=lambda image: image.quality)
    worst = ranked[:num_images]
    best = ranked[len(worst) :][::-1][:num_images]
    pictures = [draw_images(analysis, chosen, side) for chosen in (worst, best)]
    examples = draw_examples(analysis, num_images)
    parts = {
        "Overview": sections.overview(analysis),
        "Classes": sections.classes(analysis),
        "Curves": _charts([curves], [analysis.run.title]),
        "Images": sections.images(*pictures, analysis.run.kind),
        "Failures": sections.failures(analysis, examples),
        "Confusion": sections.confusion(analysis),
        "Calibration": sections.calibration(analysis),
        "Sizes": sections.sizes(analysis),
    }
    parts = {title: content for title, content in parts.items() if content}
    links = "".join(f'<a href="#run{i}-{t.lower()}">{t}</a>' for t in parts)
    return "".join(
        (
            f'<nav class="sections" aria-label="sections">{links}</nav>',
            *(
                f'<section id="run{i}-{t.lower()}"><h2>{t}</h2>{content}</section>\n'
                for t, content in parts.items()
            ),
        )
    )


def _charts(curves: Sequence[Curves], titles: Sequence[str]) -> str:
    """A chart a curve, all runs in it, results first; "" where no run has any."""
    panels = panels_of(curves)
    first = [name for name in panels if is_result(name) or name == TOTAL]
    first.sort(key=is_result, reverse=True)
    parts = []
    for names in (first, [name for name in panels if name not in first]):
        charts = "".join(_chart(name, panels[name], curves, titles) for name in names)
        parts.append(f'<div class="charts">{charts}</div>' if charts else "")
    if not any(parts):
        return ""
    note = "Over the iterations. Losses are summed over the stages; dashed: on validation images."
    more = f"<details><summary>losses of each kind, rates</summary>{parts[1]}</details>"
    return f"<p>{note}</p>{parts[0]}{more if parts[1] else ''}"


def _chart(name: str, title: str, curves: Sequence[Curves], titles: Sequence[str]) -> str:
    lines = []
    for i, (run, run_title) in enumerate(zip(curves, titles)):
        has_validation = VALIDATION + name in run
        for key, dashed in ((name, False), (VALIDATION + name, True)):
            if key in run:
                x, y = run[key]
                label = "validation" if dashed else "training" if has_validation else ""
                if len(curves) > 1:
                    label = f"{run_title} {label}".strip()
                lines.append(Line(label or "last", i, dashed, x + 1, y))
    return line_chart(title, lines, from_zero=is_result(name) or name in RATES)
