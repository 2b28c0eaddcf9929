"""The built-in data set: its scenes, their classes, and the files that Detectron2 loads."""

from .dataset import register_all_shapes, shapes_root

__all__ = ["register_all_shapes", "shapes_root"]
