"""Predictions over many images into a folder, each image once, however often the run is stopped."""

import logging
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import DatasetError
from .run_folder import RunFolder, RunImage
from .writers import ResultFiles, write_csv

__all__ = ["FAILURES", "predict_images"]

logger = logging.getLogger(__name__)

FAILURES = "failures.csv"


def predict_images(
    predictor,
    folder: RunFolder,
    images: Sequence[RunImage],
    files: Sequence[ResultFiles],
    *,
    workers: int = 2,
    progress: Callable[[], object] = lambda: None,
) -> List[Tuple[str, str]]:
    """Predict on images, write their files and at the end the files about all of the folder.

    An image that cannot be read, or is too large for the memory, is left out and named in
    ``failures.csv``.

    Args:
        predictor: :class:`knet.Predictor`.
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
    for image, pixels, result, error in _predictions(predictor, left, workers):
        if error is not None:
            logger.warning("%s is left out: %s", image.source, error)
            failures.append((image.source, str(error)))
        else:
            record: Dict = {"height": pixels.shape[0], "width": pixels.shape[1]}
            record.update((kind.NAME, kind.write(image, pixels, result)) for kind in files)
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


def _predictions(
    predictor, images: Sequence[RunImage], workers: int
) -> Iterator[Tuple[RunImage, Optional[np.ndarray], Optional[Dict], Optional[Exception]]]:
    """Image, (H, W, 3) pixels, result, or error; what the memory cannot hold is an error too."""
    done = 0
    while done < len(images):
        try:
            for item in predictor.stream([i.source for i in images[done:]], workers=workers):
                done += 1
                yield images[done - 1], item.image, item.result, item.error
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            # of a batch any may be too large: the first of it again, alone, and the rest anew
            yield (images[done], *_predict_alone(predictor, images[done]))
            done += 1


def _predict_alone(predictor, image: RunImage):
    try:
        (item,) = predictor.stream([image.source], workers=1)
        return item.image, item.result, item.error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        return None, None, DatasetError(f"it is too large for the memory: {reason}")
