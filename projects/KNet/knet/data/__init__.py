"""Data: registering, checking and mapping data sets."""

from .class_layout import ClassLayout, SemanticClasses
from .dataset_mapper import KNetDatasetMapper
from .datasets import (
    adapt_ade20k,
    adapt_cityscapes,
    load_coco_panoptic_json,
    panoptic_metadata,
    register_all_shapes,
    register_coco_instances,
    register_coco_panoptic,
    register_semantic_folders,
    shapes_root,
)

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

register_all_shapes(shapes_root())
adapt_ade20k()
adapt_cityscapes()
