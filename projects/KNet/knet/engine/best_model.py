"""The best model of a run by a metric of its evaluations, as a model file."""

import logging
import os
import pickle
from typing import Any, Dict, Optional

from detectron2.engine.hooks import BestCheckpointer
from torch import nn

from ..checkpoint.safe_load import INFO_KEY, load_file
from ..errors import UsageError
from .averaged_weights import with_averaged_weights
from .model_file import save_model

__all__ = ["BestModel", "check_best_metric"]

logger = logging.getLogger(__name__)

_RESULT = "result"  # of the model, in what the file tells of it
# The figures of K-Net's evaluators; those with a class or another ending stand beside them
_FIGURES: Dict[str, tuple] = {
    "panoptic_seg": ("PQ", "SQ", "RQ"),
    "segm": ("AP",),
    "sem_seg": ("mIoU", "fwIoU", "mACC", "pACC", "IoU-", "ACC-"),
}


def check_best_metric(cfg) -> None:
    """
    Raises:
        UsageError: ``MODEL_FILE.BEST_*`` cannot be meant.
    """
    metric, mode = cfg.MODEL_FILE.BEST_METRIC, cfg.MODEL_FILE.BEST_MODE
    if mode not in ("max", "min"):
        raise UsageError(f"MODEL_FILE.BEST_MODE is '{mode}': it is max or min")
    if not metric:
        return
    if not cfg.DATASETS.TEST:
        raise UsageError(
            f"MODEL_FILE.BEST_METRIC is {metric}, but DATASETS.TEST is empty: name a data set to "
            "measure it on"
        )
    if metric.startswith("val_"):
        if not cfg.TEST.VALIDATION_LOSS:
            raise UsageError(
                f"MODEL_FILE.BEST_METRIC is {metric}, a validation loss: set TEST.VALIDATION_LOSS "
                "True"
            )
        return
    *dataset, group, figure = ("", *metric.split("/"))
    dataset = "/".join(dataset[1:])
    several = len(cfg.DATASETS.TEST) > 1
    if several and dataset not in cfg.DATASETS.TEST:
        raise UsageError(
            f"MODEL_FILE.BEST_METRIC is {metric}: with several DATASETS.TEST it begins with one of "
            f"them, as {cfg.DATASETS.TEST[0]}/{group or 'panoptic_seg'}/{figure}"
        )
    known = _FIGURES.get(group)
    if not group or (dataset and not several) or (known and not figure.startswith(known)):
        example = ", ".join(f"{name}/{figures[0]}" for name, figures in _FIGURES.items())
        raise UsageError(f"MODEL_FILE.BEST_METRIC is {metric}: it is one such as {example}")


class BestModel(BestCheckpointer):
    """Writes the model file after each evaluation that is better than all before.

    The file itself tells the metric's value, so that a run that goes on knows it whenever it was
    stopped. It must come after the hooks that evaluate, in the main process.
    """

    def __init__(self, model: nn.Module, cfg):
        ending = cfg.MODEL_FILE.FORMAT or "pth"
        self._model = model
        self._half = cfg.MODEL_FILE.HALF
        self._path = os.path.join(cfg.OUTPUT_DIR, f"model_best.{ending}")
        metric, mode = cfg.MODEL_FILE.BEST_METRIC, cfg.MODEL_FILE.BEST_MODE
        super().__init__(cfg.TEST.EVAL_PERIOD, self, metric, mode)

    def before_train(self):
        result = self._result_of_file() if self.trainer.start_iter > 0 else None
        if result is None:
            return
        if result["metric"] != self._val_metric:
            logger.warning(
                f"{self._path} is the best by {result['metric']}: the first by {self._val_metric} "
                "takes its place"
            )
            return
        self._update_best(result["value"], result["iteration"])

    def _result_of_file(self) -> Optional[Dict[str, Any]]:
        if not os.path.exists(self._path):
            return None
        try:
            result = load_file(self._path)[INFO_KEY][_RESULT]
            return {"metric": result["metric"], **result}
        except (OSError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            logger.warning(f"{self._path} does not tell how good its model is: {error!r}")
            return None

    def _best_checking(self):
        latest = self.trainer.storage.latest()
        if self._val_metric not in latest:
            known = sorted(name for name in latest if "/" in name or name.startswith("val_"))
            raise UsageError(
                f"MODEL_FILE.BEST_METRIC is {self._val_metric}, and the evaluation gives "
                f"{', '.join(known) or 'nothing'}: choose one of these"
            )
        super()._best_checking()

    def save(self, name: str, iteration: int) -> None:
        """What Detectron2's hook asks of a checkpointer."""
        value, _ = self.trainer.storage.latest()[self._val_metric]
        result = {"metric": self._val_metric, "value": float(value), "iteration": int(iteration)}
        with with_averaged_weights(self._model):  # what was evaluated
            save_model(self._model, self._path, half=self._half, more={_RESULT: result})
