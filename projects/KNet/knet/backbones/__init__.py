"""Backbones in the form that K-Net's published models use them."""

from .resnet_fpn import build_knet_resnet_fpn_backbone

__all__ = ["build_knet_resnet_fpn_backbone"]
