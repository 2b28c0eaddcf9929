"""A run that goes on with other keys than before: they count, or are refused; never ignored."""

import logging
from functools import reduce
from typing import Any, Dict, List, Optional

import torch
import yaml
from detectron2.config import CfgNode

from ..config import config_from_text
from ..errors import UsageError
from .optimizer import is_fused

__all__ = ["Rates", "compare_keys"]

logger = logging.getLogger(__name__)

# What is in the checkpoint means nothing to another
_REFUSED = ("SOLVER.OPTIMIZER", "SOLVER.NO_MUON")
_TAKEN_OVER = (
    *("BASE_LR", "BACKBONE_MULTIPLIER", "BIAS_LR_FACTOR", "WEIGHT_DECAY", "MOMENTUM", "NESTEROV"),
    *("MAX_ITER", "STEPS", "GAMMA", "LR_SCHEDULER_NAME", "WARMUP_ITERS", "WARMUP_FACTOR"),
    *("WARMUP_METHOD", "BASE_LR_END", "NUM_DECAYS", "RESCALE_INTERVAL", "IMS_PER_BATCH"),
    *("ACCUMULATE", "AMP.ENABLED", "AMP.DTYPE", "FUSED"),
)
_ALSO_TAKEN_OVER = ("DATASETS.TRAIN", "MODEL_EMA.ENABLED", "MODEL_EMA.DECAY")


def compare_keys(plain: Any, cfg: CfgNode) -> None:
    """Tell which keys of the schedule and of the data are others than in a checkpoint.

    Args:
        plain: see :meth:`.model_file.ModelInfo.to_plain`; None if the file tells none.
        cfg: of the run that goes on.

    Raises:
        UsageError: a change that makes it another run.
    """
    try:
        before = config_from_text(plain["config"])
    except (AssertionError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return  # of another version
    for key in _REFUSED:
        was, now = _value(before, key), _value(cfg, key)
        if _is_other_optimizer(key, was, now, cfg):
            raise UsageError(
                f"{key} is {now}, and was {was} in the checkpoint that --resume goes on from: set "
                "it back, or start a run in another OUTPUT_DIR with MODEL.WEIGHTS of this one"
            )
    changes = []
    for key in (*_ALSO_TAKEN_OVER, *(f"SOLVER.{name}" for name in _TAKEN_OVER)):
        was, now = _value(before, key), _value(cfg, key)
        if was != now and not (key == "SOLVER.FUSED" and _is_as_fused(before, cfg)):
            changes.append(f"{key} {now} (was {was})")
    if changes:
        logger.warning(f"Going on with other keys than before: {', '.join(changes)}")


def _is_other_optimizer(key: str, was: Any, now: Any, cfg: CfgNode) -> bool:
    if key == "SOLVER.OPTIMIZER":
        return was.upper() != now.upper()
    return cfg.SOLVER.OPTIMIZER.upper() == "MUON" and list(was or []) != list(now)


def _is_as_fused(before: CfgNode, cfg: CfgNode) -> bool:
    """None, which older runs do not have, may be what their False is."""
    device = torch.device(cfg.MODEL.DEVICE).type
    return is_fused(before, device) == is_fused(cfg, device)


def _value(cfg: CfgNode, key: str) -> Optional[Any]:
    *sections, name = key.split(".")
    value = reduce(getattr, sections, cfg).get(name)  # not every Detectron2 has each
    return tuple(value) if isinstance(value, (list, tuple)) else value


class Rates:
    """Learning rates and the other numbers of an optimizer, as the config gives them."""

    def __init__(self, optimizer, scheduler):
        """
        Args:
            optimizer, scheduler: made of the config, and not yet loaded.
        """
        self._optimizer, self._scheduler = optimizer, scheduler
        self._base = list(scheduler.base_lrs)
        self._groups: List[Dict[str, Any]] = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in optimizer.param_groups
        ]

    def restore(self) -> None:
        """Put them in place of those of a checkpoint, at the iteration that it was left at."""
        self._scheduler.base_lrs = self._base
        rates = self._scheduler.get_lr()
        for group, ours, rate in zip(self._optimizer.param_groups, self._groups, rates):
            group.update(ours, lr=rate)
