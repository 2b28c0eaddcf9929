"""The network: image -> backbone -> neck -> kernel head -> kernel update -> results or losses."""

from . import backbones, semantic
from .criterion import Criterion
from .inference import Postprocessor
from .kernel_head import KERNEL_HEAD_REGISTRY, KernelHead
from .kernel_update import KERNEL_UPDATE_HEAD_REGISTRY, KernelUpdateHead, KernelUpdater
from .matcher import Matcher
from .meta_arch import KNet
from .neck import NECK_REGISTRY, SemanticFPN
from .panoptic_fpn import PanopticFPNOfOneRange
from .point_kernel_head import PointKernelHead
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
    "PanopticFPNOfOneRange",
    "PointKernelHead",
    "Postprocessor",
    "SemanticFPN",
    "SemanticKNet",
    "backbones",
    "semantic",
]
