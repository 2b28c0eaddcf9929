"""What a file tells of the model that its weights are of, where their shapes tell nothing."""

from typing import Any, Optional

from yaml import YAMLError

from ..config import config_from_text

__all__ = ["residual_of"]


def residual_of(description: Any) -> Optional[bool]:
    """MODEL.KNET.KERNEL_UPDATE.RESIDUAL of the model that a file describes, None if it does not.

    Args:
        description: see :meth:`knet.engine.model_file.ModelInfo.to_plain`.
    """
    try:
        cfg = config_from_text(description["config"])
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, YAMLError):
        return None  # weights alone are enough here
    return cfg.MODEL.KNET.KERNEL_UPDATE.RESIDUAL
