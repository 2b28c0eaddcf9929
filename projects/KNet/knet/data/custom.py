"""Data sets that a config describes itself, under ``DATASETS.CUSTOM``."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import UsageError
from .coco_panoptic import register_coco_panoptic

__all__ = ["register_custom_datasets"]

REQUIRED = ("NAME", "IMAGE_ROOT", "PANOPTIC_ROOT", "PANOPTIC_JSON")
OPTIONAL = ("INSTANCES_JSON",)


def register_custom_datasets(cfg) -> None:
    """Register what ``DATASETS.CUSTOM`` describes and ``DATASETS.TRAIN`` or ``TEST`` uses.

    Calling it again is harmless.

    Raises:
        UsageError: an entry lacks a key, has an unknown one, or takes the name of another set.
        DatasetError: its json cannot be read.
    """
    root = os.getenv("DETECTRON2_DATASETS", "datasets")
    names = [entry.get("NAME") for entry in cfg.DATASETS.CUSTOM if isinstance(entry, dict)]
    for entry in cfg.DATASETS.CUSTOM:
        if not isinstance(entry, dict):
            raise UsageError(
                f"DATASETS.CUSTOM has the entry {entry!r}: each must be a mapping of "
                f"{', '.join(REQUIRED)}"
            )
        if names.count(entry.get("NAME")) > 1:
            raise UsageError(
                f"DATASETS.CUSTOM describes '{entry['NAME']}' twice: give one another NAME"
            )
        missing = [key for key in REQUIRED if not entry.get(key)]
        unknown = [key for key in entry if key not in REQUIRED + OPTIONAL]
        if missing or unknown:
            raise UsageError(
                f"an entry of DATASETS.CUSTOM ({entry.get('NAME', 'without NAME')}) "
                + (f"lacks {', '.join(missing)}" if missing else f"has unknown keys {unknown}")
                + f": it needs {', '.join(REQUIRED)} and may have {', '.join(OPTIONAL)}"
            )
        paths = {
            key.lower(): os.path.join(root, entry[key])
            for key in (*REQUIRED[1:], *OPTIONAL)
            if entry.get(key)
        }
        name = entry["NAME"]
        if name not in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            continue  # not used: its json need not be there
        if name not in DatasetCatalog.list():
            register_coco_panoptic(name, **paths)
        elif MetadataCatalog.get(name).get("panoptic_json") != paths["panoptic_json"]:
            raise UsageError(
                f"DATASETS.CUSTOM describes '{name}', a name that another data set has already: "
                "give it another NAME"
            )
