"""From evaluated runs to the file of their report."""

import logging
from pathlib import Path
from typing import Optional, Sequence

from ..errors import UsageError
from ..evaluation.outputs import data_files
from ..files import refuse_overwriting, replacing
from ..visualization.run_curves import curves_of_run
from .analysis import analyse
from .page import Curves, report_page
from .run import Run

__all__ = ["write_run_report"]

logger = logging.getLogger(__name__)

NUM_IMAGES, PANEL_SIDE = 6, 640


def write_run_report(
    runs: Sequence[Run],
    path: str,
    *,
    num_images: int = NUM_IMAGES,
    side: int = PANEL_SIDE,
    score_threshold: Optional[float] = None,
) -> None:
    """Write a page about runs, which needs no other file.

    Args:
        runs: evaluated; see :func:`.run.open_run`.
        path: of the page.
        num_images: best and worst images of each run, so many of both.
        side: longest side of their pictures, in pixels.
        score_threshold: see :func:`.analysis.analyse`.

    Raises:
        UsageError: the predictions do not fit the data sets, or the page cannot be written.
        DatasetError: a file that cannot be read.
    """
    page = Path(path)
    for run in runs:
        refuse_overwriting(
            str(page.parent), [page.name], data_files(run.dicts, run.metadata), change="--output"
        )
    analyses = [analyse(run, score_threshold) for run in runs]
    html = report_page(analyses, [_curves(run) for run in runs], num_images, side)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        with replacing(page) as part:
            part.write_text(html, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"--output {path} cannot be written ({error.strerror}): choose another"
        ) from error


def _curves(run: Run) -> Curves:
    if not Path(run.folder, "metrics.json").is_file():
        return {}
    try:
        return curves_of_run(run.folder)
    except UsageError as error:  # an evaluation alone leaves no curves
        logger.info("No curves of %s: %s", run.folder, error)
        return {}
