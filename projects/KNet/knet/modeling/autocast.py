"""Half precision where it is safe: the network's, never that of results and losses."""

from contextlib import nullcontext
from typing import ContextManager, Optional

import torch

__all__ = ["DTYPES", "inference_autocast", "inference_dtype", "without_autocast"]

# by SOLVER.AMP.DTYPE
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def inference_dtype(cfg) -> Optional[torch.dtype]:
    """What ``TEST.AMP`` and ``SOLVER.AMP.DTYPE`` say; None for no autocast."""
    return DTYPES[cfg.SOLVER.AMP.DTYPE] if cfg.TEST.AMP else None


def inference_autocast(device: torch.device, dtype: Optional[torch.dtype]) -> ContextManager:
    """Autocast to ``dtype``; without one nothing is changed, whatever autocast there is outside."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def without_autocast(device: torch.device) -> ContextManager:
    """Each operation in its inputs' precision; also of tensors without values, which know none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
