"""Predictions over many images into a folder, each image once, however often the run is stopped."""

import logging
from typing import Callable, Dict, List, Sequence, Tuple

from ..predictor import Predictor
from .predictions import predict_each
from .run_folder import RunFolder, RunImage
from .writers import ResultFiles, write_csv

__all__ = ["FAILURES", "predict_images"]

logger = logging.getLogger(__name__)

FAILURES = "failures.csv"


def predict_images(
    predictor: Predictor,
    folder: RunFolder,
    images: Sequence[RunImage],
    files: Sequence[ResultFiles],
    *,
    workers: int = 2,
    progress: Callable[[], object] = lambda: None,
) -> List[Tuple[str, str]]:
    """Predict on images, write their files and at the end the files about all of the folder.

    An image that cannot be read, or that the model cannot take, is left out and named in
    ``failures.csv``.

    Args:
        predictor: makes what the files need.
        folder: of the run.
        images: of ``folder.add``; those that are done are left out.
        files: what to write.
        workers: threads that read images.
        progress: called after each image.

    Returns:
        (file, error) of each image that failed.

    Raises:
        OSError: a file cannot be written.
    """
    left = [image for image in images if not folder.is_done(image)]
    failures = []
    predictions = predict_each(predictor, [image.source for image in left], workers)
    for item, image in zip(predictions, left):
        if item.error is not None:
            logger.warning("%s is left out: %s", image.source, item.error)
            failures.append((image.source, str(item.error)))
        else:
            height, width = item.image.shape[:2]
            record: Dict = {"height": height, "width": width}
            record.update((each.NAME, each.write(image, item.image, item.result)) for each in files)
            folder.finish(image, record)
        progress()
    for kind in files:
        kind.assemble()
    if failures:
        folder.write(FAILURES, lambda path: write_csv(path, ("file", "error"), failures))
    else:
        (folder.path / FAILURES).unlink(missing_ok=True)
    folder.mark_complete()
    return failures
