"""What cannot work of the keys that save memory and time, or average weights."""

from ..errors import UsageError
from ..modeling.autocast import DTYPES

__all__ = ["check_saving"]

_WITH_TEST_AMP = ("KNet", "SemanticKNet")


def check_saving(cfg, num_workers: int) -> None:
    """Look for values that cannot work, alone or together.

    Args:
        cfg: the config.
        num_workers: processes that train together, on all machines.

    Raises:
        UsageError: names the key and what to set it to.
    """
    _check_parts(cfg, num_workers)
    _check_precision(cfg)
    if not 0 <= cfg.MODEL_EMA.DECAY < 1:
        raise UsageError(
            f"MODEL_EMA.DECAY is {cfg.MODEL_EMA.DECAY}: 0 (no average) or more, and below 1"
        )
    if cfg.MODEL_EMA.ENABLED and cfg.TEST.PRECISE_BN.ENABLED:
        raise UsageError(
            "TEST.PRECISE_BN.ENABLED True is for the weights themselves, and MODEL_EMA.ENABLED "
            "evaluates their average: set one of them to False"
        )


def _check_parts(cfg, num_workers: int) -> None:
    solver, parts = cfg.SOLVER, cfg.SOLVER.ACCUMULATE
    if solver.FUSED is not None and not isinstance(solver.FUSED, bool):
        raise UsageError(f"SOLVER.FUSED is {solver.FUSED!r}: use True, False or None")
    if parts < 1:
        raise UsageError(f"SOLVER.ACCUMULATE is {parts}: 1 (the batch at once) or more")
    if solver.IMS_PER_BATCH % (num_workers * parts):
        raise UsageError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} images cannot be shared by {num_workers} "
            f"processes with SOLVER.ACCUMULATE {parts} parts each: make it a multiple of "
            f"{num_workers * parts}"
        )
    if parts > 1 and cfg.MODEL.KNET.LOSS.NORMALIZER == "batch":
        raise UsageError(
            f"MODEL.KNET.LOSS.NORMALIZER batch knows the images of one part alone: set it to "
            f"process, or SOLVER.ACCUMULATE {parts} to 1"
        )


def _check_precision(cfg) -> None:
    amp = cfg.SOLVER.AMP
    if amp.DTYPE not in DTYPES:
        raise UsageError(f"SOLVER.AMP.DTYPE is '{amp.DTYPE}': use {' or '.join(DTYPES)}")
    if cfg.TEST.AMP and cfg.MODEL.META_ARCHITECTURE not in _WITH_TEST_AMP:
        raise UsageError(
            f"TEST.AMP is True, which {cfg.MODEL.META_ARCHITECTURE} does not know: set it to False"
        )
    for key, is_on in (("SOLVER.AMP.ENABLED", amp.ENABLED), ("TEST.AMP", cfg.TEST.AMP)):
        if is_on and amp.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
            raise UsageError(
                f"{key} True with float16 needs a GPU: set it to False, or SOLVER.AMP.DTYPE to "
                "bfloat16"
            )
