"""Where a training's numbers go: the log, ``metrics.json``, TensorBoard, W&B, MLflow."""

import logging
import os
from importlib.util import find_spec
from typing import Callable, List

from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager

from ..errors import UsageError
from .progress import ProgressPrinter
from .tracking import MLflowWriter, WandbWriter

__all__ = ["build_writers", "check_logging", "has_tensorboard"]

logger = logging.getLogger(__name__)

_SERVICES = {"WANDB": ("wandb", WandbWriter), "MLFLOW": ("mlflow", MLflowWriter)}


def build_writers(cfg, max_iter: int, is_resumed: Callable[[], bool]) -> List[EventWriter]:
    """
    Args:
        cfg: the config.
        max_iter: iterations of the training.
        is_resumed: tells, once the training runs, whether it goes on with an earlier one.
    """
    PathManager.mkdirs(cfg.OUTPUT_DIR)
    writers: List[EventWriter] = [
        ProgressPrinter(max_iter, cfg.SOLVER.IMS_PER_BATCH),
        JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json")),
    ]
    if has_tensorboard():
        writers.append(TensorboardXWriter(cfg.OUTPUT_DIR))
    else:
        logger.info("TensorBoard is not installed (pip install tensorboard): nothing is written")
    for key, (_, writer) in _SERVICES.items():
        if cfg.LOGGING[key]:
            writers.append(writer(cfg, is_resumed))
    return writers


def has_tensorboard() -> bool:
    return find_spec("tensorboard") is not None


def check_logging(cfg) -> None:
    """
    Raises:
        UsageError: a service is wanted whose package is not installed; a number that is none.
    """
    for key, (package, _) in _SERVICES.items():
        if cfg.LOGGING[key] and not _is_there(package):
            raise UsageError(
                f"LOGGING.{key} True needs the package {package}: pip install {package}, or set "
                f"LOGGING.{key} False"
            )
    if cfg.TEST.PICTURES < 0:
        raise UsageError(f"TEST.PICTURES is {cfg.TEST.PICTURES}: at least 0 images are drawn")


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # already imported from elsewhere than a file
        return True
