"""Data: registering, checking and mapping data sets."""

from .class_layout import ClassLayout
from .coco_panoptic import load_coco_panoptic_json, panoptic_metadata, register_coco_panoptic
from .dataset_mapper import KNetDatasetMapper

__all__ = [
    "ClassLayout",
    "KNetDatasetMapper",
    "load_coco_panoptic_json",
    "panoptic_metadata",
    "register_coco_panoptic",
]
