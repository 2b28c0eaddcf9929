"""Runs the service: ``python -m service``; see README.md for the variables it takes."""

import logging
import sys
from pathlib import Path

import numpy as np
import uvicorn

from .answers import KINDS
from .app import create_app
from .observing import write_json_lines
from .settings import Settings

logger = logging.getLogger("service")


def main() -> int:
    write_json_lines()
    try:
        settings = Settings.from_environment()
        host, port = settings.address
        predictor = load_predictor(settings)
    except (ImportError, ValueError) as error:
        logger.error("%s", error)
        return 1
    uvicorn.run(
        create_app(predictor, settings),
        host=host,
        port=port,
        log_config=None,  # ours
        access_log=False,
        timeout_graceful_shutdown=settings.stop_seconds,
        backlog=256,
    )
    return 0


def load_predictor(settings: Settings):
    """The model, warm.

    Raises:
        ImportError: ``knet_runtime.py`` is not beside it.
        ValueError: it is none, or does not make the results.
    """
    if settings.result not in ("", *KINDS):
        raise ValueError(f"KNET_RESULT is {settings.result!r}: give {', '.join(KINDS)}")
    sys.path.insert(0, str(Path(settings.model).resolve().parent))
    from knet_runtime import OnnxPredictor

    options = {
        "batch_size": settings.max_batch,
        "threads": settings.threads,
        "image_format": "RGB",
    }
    kinds = [settings.result] if settings.result else list(KINDS)
    for kind in kinds:
        try:
            predictor = OnnxPredictor(settings.model, results=[KINDS[kind]], **options)
            break
        except ValueError:
            if kind == kinds[-1]:
                raise
    predictor([np.zeros((64, 64, 3), np.uint8)])  # the first run takes longer
    logger.info("the model is loaded", extra={"told": {"model": settings.model, "kind": kind}})
    return predictor


if __name__ == "__main__":
    sys.exit(main())
