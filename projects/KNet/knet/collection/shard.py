"""Predictions on the images of one shard, whatever the images do."""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch

from ..predictor import Predictor
from ..results.whole_files import replacing
from .folder import CollectionFolder
from .rows import result_row

__all__ = ["predict_shard"]

logger = logging.getLogger(__name__)

# A process may be killed for another reason than its image: it gets a second chance
_MAX_DEATHS = 2
_MAX_REASON = 500  # characters


@dataclass
class _Outcome:
    size: Tuple[int, int] = (0, 0)  # height, width
    result: Optional[Dict] = None
    reason: str = ""  # why there is no result


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
        outcomes = _all_ahead(predictor, paths, read_threads)
    else:
        outcomes = _one_by_one(predictor, paths, attempt)
    rows: List[Dict] = []
    failures: List[Dict] = []
    for image, outcome in zip(images, outcomes):
        if outcome.result is None:
            logger.warning("no result of %s: %s", image["image"], outcome.reason)
            failures.append({**image, "reason": outcome.reason})
            continue
        height, width = outcome.size
        columns = result_row(outcome.result, folder.classes, folder.kinds, score_threshold)
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


def _all_ahead(predictor: Predictor, paths: Sequence[str], read_threads: int) -> Iterator[_Outcome]:
    done = 0
    while done < len(paths):
        try:
            for prediction in predictor.stream(paths[done:], workers=read_threads):
                done += 1
                yield _outcome(prediction)
        except Exception:  # at one of the next images, which are in the model together
            for path in paths[done : done + predictor.batch_size]:
                done += 1
                yield _alone(predictor, path)


def _one_by_one(
    predictor: Predictor, paths: Sequence[str], attempt: _Attempt
) -> Iterator[_Outcome]:
    for path in paths:
        if attempt.deaths[path] >= _MAX_DEATHS:
            yield _Outcome(reason=f"the process was killed at it {_MAX_DEATHS} times")
            continue
        attempt.note(path)
        yield _alone(predictor, path)
    attempt.note(None)


def _alone(predictor: Predictor, path: str) -> _Outcome:
    try:
        (prediction,) = predictor.stream([path], workers=1)
    except Exception as error:
        if predictor.model.device.type == "cuda":
            torch.cuda.synchronize()  # raises where the device is lost, which no image explains
            torch.cuda.empty_cache()
        logger.exception("no result of %s", path)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _Outcome(reason=reason[:_MAX_REASON])
    return _outcome(prediction)


def _outcome(prediction) -> _Outcome:
    if prediction.error is not None:
        return _Outcome(reason=str(prediction.error)[:_MAX_REASON])
    return _Outcome(prediction.image.shape[:2], prediction.result)
