"""A prediction for each image, whatever the images do to the model."""

import contextlib
import logging
from typing import Iterator, Sequence

import torch

from ..errors import DatasetError
from ..predictor import Prediction, Predictor

__all__ = ["predict_alone", "predict_each"]

logger = logging.getLogger(__name__)


def predict_each(
    predictor: Predictor, sources: Sequence[str], workers: int = 1
) -> Iterator[Prediction]:
    """One for each source, in order; what the model cannot take has an ``error`` too.

    Args:
        predictor: gives its model ``batch_size`` images together. Where the model cannot take
            them, it gets each of them alone.
        sources: paths of images.
        workers: threads that read images ahead of the model.
    """
    done = 0
    while done < len(sources):
        with contextlib.suppress(Exception):
            for prediction in predictor.stream(sources[done:], workers=workers):
                done += 1
                yield prediction
        # behind the block: the error would keep what the model has allocated until then
        for source in sources[done : done + predictor.batch_size]:
            done += 1
            yield predict_alone(predictor, source)


def predict_alone(predictor: Predictor, source: str) -> Prediction:
    """Of one image.

    Raises:
        RuntimeError: the GPU is lost, which no image explains.
    """
    try:
        (prediction,) = predictor.stream([source], workers=1)
        return prediction
    except Exception as error:
        reason = " ".join(str(error).split())
        if isinstance(error, MemoryError) or "memory" in reason:
            failure = DatasetError(f"it is too large for the memory: {reason}")
        else:
            logger.exception("no result of %s", source)
            failure = DatasetError(f"the model cannot take it: {type(error).__name__}: {reason}")
    if predictor.model.device.type == "cuda":
        torch.cuda.synchronize(predictor.model.device)
        torch.cuda.empty_cache()
    return Prediction(source, error=failure)
