"""One file a format or a data set: reading its files, registering it with Detectron2."""

from .ade20k import adapt_ade20k
from .cityscapes import adapt_cityscapes
from .coco_instances import register_coco_instances
from .coco_panoptic import load_coco_panoptic_json, panoptic_metadata, register_coco_panoptic
from .custom import register_custom_datasets
from .semantic_folders import register_semantic_folders
from .shapes import register_all_shapes, shapes_root

__all__ = [
    "adapt_ade20k",
    "adapt_cityscapes",
    "load_coco_panoptic_json",
    "panoptic_metadata",
    "register_all_shapes",
    "register_coco_instances",
    "register_coco_panoptic",
    "register_custom_datasets",
    "register_semantic_folders",
    "shapes_root",
]
