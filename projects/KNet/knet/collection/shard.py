"""Predictions on the images of one shard, whatever the images do."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence

from ..errors import DatasetError
from ..files import replacing
from ..predictor import Prediction, Predictor
from ..results.predictions import predict_alone, predict_each
from .folder import CollectionFolder
from .rows import result_row

__all__ = ["predict_shard"]

logger = logging.getLogger(__name__)

# A process may be killed for another reason than its image: it gets a second chance
_MAX_DEATHS = 2
_MAX_REASON = 500  # characters


def predict_shard(
    predictor: Predictor,
    folder: CollectionFolder,
    shard: int,
    score_threshold: float = 0.0,
    read_threads: int = 1,
) -> int:
    """Predict on the images of a shard and write its files.

    Images that have no result, be it that they cannot be read or that the model cannot take them
    or that they killed the process twice, are its failures.

    Args:
        predictor: makes the folder's kinds of results.
        folder, shard: where, and which.
        score_threshold: instances below it are left out.
        read_threads: read images ahead of the model.

    Returns:
        the number of failures.
    """
    images = folder.images(shard)
    paths = [image["image"] for image in images]
    attempt = _Attempt(folder.unfinished_file(f"{shard:05d}.json"))
    if attempt.is_first:
        predictions = predict_each(predictor, paths, read_threads)
    else:
        predictions = _one_by_one(predictor, paths, attempt)
    rows: List[Dict] = []
    failures: List[Dict] = []
    for item, image in zip(predictions, images):
        if item.error is not None:
            logger.warning("no result of %s: %s", image["image"], item.error)
            failures.append({**image, "reason": str(item.error)[:_MAX_REASON]})
            continue
        height, width = item.image.shape[:2]
        columns = result_row(item.result, folder.classes, folder.kinds, score_threshold)
        rows.append({**image, "height": height, "width": width, **columns})
    folder.finish(shard, rows, failures)
    attempt.forget()
    return len(failures)


class _Attempt:
    """A note beside an unfinished shard: has its process been killed, and at which image?

    The first attempt reads ahead, so nobody knows what it was killed by. The next ones note each
    image before they take it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.is_first = not path.exists()
        self.deaths: Counter = Counter()
        if not self.is_first:
            note = json.loads(path.read_text())
            self.deaths.update(note["deaths"])
            if note["at"] is not None:
                self.deaths[note["at"]] += 1
        self.note(None)

    def note(self, image: Optional[str]) -> None:
        with replacing(self.path) as file:
            file.write_text(json.dumps({"deaths": self.deaths, "at": image}))

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


def _one_by_one(
    predictor: Predictor, paths: Sequence[str], attempt: _Attempt
) -> Iterator[Prediction]:
    for path in paths:
        if attempt.deaths[path] >= _MAX_DEATHS:
            error = DatasetError(f"the process was killed at it {_MAX_DEATHS} times")
            yield Prediction(path, error=error)
            continue
        attempt.note(path)
        yield predict_alone(predictor, path)
    attempt.note(None)
