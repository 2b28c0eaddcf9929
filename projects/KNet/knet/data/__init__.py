"""Data: registering, checking and mapping data sets."""

import os

from .ade20k import adapt_ade20k
from .cityscapes import adapt_cityscapes
from .class_layout import ClassLayout, SemanticClasses
from .coco_instances import register_coco_instances
from .coco_panoptic import load_coco_panoptic_json, panoptic_metadata, register_coco_panoptic
from .dataset_mapper import KNetDatasetMapper
from .semantic_folders import register_semantic_folders
from .shapes import register_all_shapes

__all__ = [
    "ClassLayout",
    "KNetDatasetMapper",
    "SemanticClasses",
    "load_coco_panoptic_json",
    "panoptic_metadata",
    "register_all_shapes",
    "register_coco_instances",
    "register_coco_panoptic",
    "register_semantic_folders",
]

register_all_shapes(os.getenv("DETECTRON2_DATASETS", "datasets"))
adapt_ade20k()
adapt_cityscapes()
