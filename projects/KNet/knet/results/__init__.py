"""Results as files: COCO's formats, label maps, a table."""

from .coco import instance_annotations, label_map, panoptic_png_and_annotation

__all__ = ["instance_annotations", "label_map", "panoptic_png_and_annotation"]
