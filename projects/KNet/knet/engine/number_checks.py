"""Numbers of a config that cannot be meant: a minus, a per cent, a period of nothing."""

from functools import reduce
from math import inf
from typing import Iterator, Tuple

from ..errors import UsageError

__all__ = ["check_numbers"]

# the key, the least and the greatest value, and these in words
_NUMBERS: Tuple[Tuple[str, float, float, str], ...] = (
    ("SOLVER.IMS_PER_BATCH", 1, inf, "at least 1 is needed"),
    ("SOLVER.MAX_ITER", 1, inf, "at least 1 is needed"),
    ("SOLVER.CHECKPOINT_PERIOD", 1, inf, "at least 1 is needed"),
    ("SOLVER.CHECKPOINT_KEEP", 0, inf, "0 (all) or more"),
    ("SOLVER.MAX_BAD_STEPS", 0, inf, "0 (none) or more"),
    ("SOLVER.BASE_LR", 0, inf, "0 or more"),
    ("SOLVER.BACKBONE_MULTIPLIER", 0, inf, "0 or more"),
    ("SOLVER.WEIGHT_DECAY", 0, inf, "0 (none) or more"),
    ("DATALOADER.NUM_WORKERS", 0, inf, "0 (the training process loads) or more"),
    ("DATALOADER.MAX_UNREADABLE", 0, inf, "0 (none) or more"),
    ("DATALOADER.REPEAT_THRESHOLD", 0, inf, "0 (each image once) or more"),
    ("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 0, inf, "0 (none) or more"),
    ("MODEL.KNET.LOSS.SAMPLED_CELLS", 0, inf, "0 (all) or more"),
    ("MODEL.KNET.KERNEL_UPDATE.DROPOUT", 0, 1, "it is from 0 to 1"),
    ("MODEL.KNET.SEMANTIC.DROPOUT", 0, 1, "it is from 0 to 1"),
    ("MODEL.KNET.TEST.SCORE_THRESHOLD", 0, 1, "it is from 0 to 1"),
    ("MODEL.KNET.TEST.OVERLAP_THRESHOLD", 0, 1, "it is from 0 to 1"),
    ("MODEL.KNET.TEST.MAX_INSTANCES", 0, inf, "0 (none) or more"),
    ("MODEL.KNET.TEST.MASK_QUALITY_POWER", 0, inf, "0 (scores stay as they are) or more"),
)
_WITH_WEIGHTS = ("MODEL.KNET.LOSS", "MODEL.KNET.MATCHER", "MODEL.KNET.SEMANTIC")


def check_numbers(cfg) -> None:
    """
    Raises:
        UsageError: names the key and what it may be.
    """
    for key, least, greatest, words in (*_NUMBERS, *_weights(cfg)):
        value = _value(cfg, key)
        if not least <= value <= greatest or value == inf:  # NaN is neither
            raise UsageError(f"{key} is {value}: {words}")
    if not all(cfg.MODEL.PIXEL_STD):
        raise UsageError(
            f"MODEL.PIXEL_STD is {list(cfg.MODEL.PIXEL_STD)}: images are divided by it, none may "
            "be 0 (1.0 leaves values as they are)"
        )


def _weights(cfg) -> Iterator[Tuple[str, float, float, str]]:
    for section in _WITH_WEIGHTS:
        for name in _value(cfg, section):
            if name.endswith("_WEIGHT"):
                yield f"{section}.{name}", 0, inf, "0 (none) or more"


def _value(cfg, key: str):
    return reduce(getattr, key.split("."), cfg)
