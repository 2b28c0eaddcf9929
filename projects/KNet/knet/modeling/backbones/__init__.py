"""Backbones in the form that K-Net's published models use them, and any of timm's."""

from .deep_stem_resnet import build_deep_stem_resnet_backbone
from .resnet_fpn import build_knet_resnet_fpn_backbone
from .swin import build_swin_backbone, build_swin_fpn_backbone
from .timm_backbone import build_timm_backbone, build_timm_fpn_backbone

__all__ = [
    "build_deep_stem_resnet_backbone",
    "build_knet_resnet_fpn_backbone",
    "build_swin_backbone",
    "build_swin_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
]
