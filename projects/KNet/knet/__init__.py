"""K-Net: unified image segmentation for Detectron2.

Importing this package registers the model, its parts and the built-in data sets with Detectron2.
"""

import warnings

# Detectron2 compiles two functions as it is imported, by what PyTorch has deprecated: nothing that
# a user can mend
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
    import detectron2.modeling  # noqa: F401

from . import data
from .config import add_knet_config
from .engine.model_file import save_model
from .model_zoo import get_config, load_model
from .modeling import (
    KERNEL_HEAD_REGISTRY,
    KERNEL_UPDATE_HEAD_REGISTRY,
    NECK_REGISTRY,
    Criterion,
    KernelHead,
    KernelUpdateHead,
    KernelUpdater,
    KNet,
    KNetSemSegHead,
    Matcher,
    PointKernelHead,
    Postprocessor,
    SemanticFPN,
    SemanticKNet,
    backbones,
    semantic,
)
from .predictor import Predictor

__all__ = [
    "KERNEL_HEAD_REGISTRY",
    "KERNEL_UPDATE_HEAD_REGISTRY",
    "NECK_REGISTRY",
    "Criterion",
    "KNet",
    "KNetSemSegHead",
    "KernelHead",
    "KernelUpdateHead",
    "KernelUpdater",
    "Matcher",
    "PointKernelHead",
    "Postprocessor",
    "Predictor",
    "SemanticFPN",
    "SemanticKNet",
    "add_knet_config",
    "backbones",
    "data",
    "get_config",
    "load_model",
    "save_model",
    "semantic",
]
