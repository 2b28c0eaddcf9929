"""Semantic segmentation: kernel update on top of any semantic head of Detectron2."""

from detectron2.projects import deeplab  # registers its heads; any of them can be the base head

from .aspp_head import SemSegASPPHead
from .base import ClassifierHead, segmentation_loss
from .fcn_head import SemSegFCNHead
from .knet_head import KNetSemSegHead, find_classifier
from .meta_arch import SemanticKNet
from .psp_head import SemSegPSPHead
from .uper_head import SemSegUPerHead

__all__ = [
    "ClassifierHead",
    "KNetSemSegHead",
    "SemSegASPPHead",
    "SemSegFCNHead",
    "SemSegPSPHead",
    "SemSegUPerHead",
    "SemanticKNet",
    "deeplab",
    "find_classifier",
    "segmentation_loss",
]
