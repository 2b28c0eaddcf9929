"""Predictions as the evaluation servers of COCO, Cityscapes and ADE20K take them."""

from .servers import SERVERS, pack_predictions

__all__ = ["SERVERS", "pack_predictions"]
