"""K-Net: unified image segmentation for Detectron2.

Importing this package registers the model, its parts and the built-in data sets with Detectron2.
"""

from . import backbones, data, semantic
from .config import add_knet_config
from .criterion import Criterion
from .inference import Postprocessor
from .kernel_head import KERNEL_HEAD_REGISTRY, KernelHead
from .kernel_update import KERNEL_UPDATE_HEAD_REGISTRY, KernelUpdateHead, KernelUpdater
from .matcher import Matcher
from .meta_arch import KNet
from .model_zoo import get_config, load_model
from .neck import NECK_REGISTRY, SemanticFPN
from .semantic import KNetSemSegHead, SemanticKNet

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
    "Postprocessor",
    "SemanticFPN",
    "SemanticKNet",
    "add_knet_config",
    "backbones",
    "data",
    "get_config",
    "load_model",
    "semantic",
]
