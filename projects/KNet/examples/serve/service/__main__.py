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
        ImportError: a package is missing.
        ValueError: it or ``knet_runtime.py`` beside it cannot be read, it is none, or does not make
            the results.
    """
    if settings.result not in ("", *KINDS):
        raise ValueError(f"KNET_RESULT is {settings.result!r}: give {', '.join(KINDS)}")
    folder = Path(settings.model).resolve().parent
    check_readable(settings, Path(settings.model), "there is no such file")
    check_readable(
        settings,
        folder / "knet_runtime.py",
        "there is no knet_runtime.py beside it, which the export puts there",
    )
    sys.path.insert(0, str(folder))
    from knet_runtime import OnnxPredictor

    options = {
        "batch_size": settings.max_batch,
        "threads": settings.threads,
        "image_format": "RGB",
    }
    kind = settings.result
    if not kind:
        made = OnnxPredictor(settings.model, **options).results
        kind = next(each for each, key in KINDS.items() if key in made)
    predictor = OnnxPredictor(settings.model, results=[KINDS[kind]], **options)
    predictor([np.zeros((64, 64, 3), np.uint8)])  # the first run takes longer
    logger.info("the model is loaded", extra={"told": {"model": settings.model, "kind": kind}})
    return predictor


def check_readable(settings: Settings, path: Path, missing: str) -> None:
    """In a container the user is another one than that who has written the files.

    Raises:
        ValueError: the file is ``missing``, or the user of the service may not read it.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise ValueError(f"KNET_MODEL is {settings.model}: {missing}") from None
    except OSError as error:
        raise ValueError(
            f"KNET_MODEL is {settings.model}: {path} cannot be read ({error.strerror})"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
