"""What a file tells of the model that its weights are of, where their shapes tell nothing."""

from typing import Any, Optional

from detectron2.config import CfgNode
from yaml import YAMLError

from ..config import config_from_text

__all__ = ["config_of", "residual_of"]


def config_of(description: Any) -> Optional[CfgNode]:
    """The config of the model that a file describes, None if it does not.

    Args:
        description: see :meth:`knet.engine.model_file.ModelInfo.to_plain`.
    """
    try:
        return config_from_text(description["config"])
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, YAMLError):
        return None  # weights alone are enough here


def residual_of(description: Any) -> Optional[bool]:
    """MODEL.KNET.KERNEL_UPDATE.RESIDUAL of the model that a file describes, None if it does not."""
    cfg = config_of(description)
    return None if cfg is None else cfg.MODEL.KNET.KERNEL_UPDATE.RESIDUAL
