"""Data: registering, checking and mapping data sets."""

import os

from .class_layout import ClassLayout
from .coco_panoptic import load_coco_panoptic_json, panoptic_metadata, register_coco_panoptic
from .dataset_mapper import KNetDatasetMapper
from .shapes import register_all_shapes

__all__ = [
    "ClassLayout",
    "KNetDatasetMapper",
    "load_coco_panoptic_json",
    "panoptic_metadata",
    "register_all_shapes",
    "register_coco_panoptic",
]

register_all_shapes(os.getenv("DETECTRON2_DATASETS", "datasets"))
