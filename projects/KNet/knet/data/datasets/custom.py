"""Data sets that a config describes itself, under ``DATASETS.CUSTOM``."""

import os
from dataclasses import dataclass
from typing import Callable, Dict, List, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import UsageError
from .coco_instances import register_coco_instances
from .coco_panoptic import register_coco_panoptic
from .semantic_folders import register_semantic_folders

__all__ = ["custom_datasets", "register_custom_datasets"]

PATHS = ("IMAGE_ROOT", "PANOPTIC_ROOT", "PANOPTIC_JSON", "INSTANCES_JSON", "LABEL_ROOT")


@dataclass(frozen=True)
class Kind:
    """A kind of entry: its keys, and what registers it."""

    name: str
    marks: Tuple[str, ...]  # an entry that has one of these keys is of this kind
    required: Tuple[str, ...]
    optional: Tuple[str, ...]
    register: Callable  # takes the keys in lower case
    truth: str = ""  # the required key that images to predict on do without

    def __str__(self) -> str:
        keys = f"{self.name} data needs {', '.join(self.required)}"
        keys += f" and may have {', '.join(self.optional)}" if self.optional else ""
        return keys + (f" ({self.truth} only where there is ground truth)" if self.truth else "")


# the first whose mark an entry has
KINDS = (
    Kind(
        "panoptic",
        ("PANOPTIC_ROOT", "PANOPTIC_JSON"),
        ("NAME", "IMAGE_ROOT", "PANOPTIC_ROOT", "PANOPTIC_JSON"),
        ("INSTANCES_JSON",),
        register_coco_panoptic,
        truth="PANOPTIC_ROOT",
    ),
    Kind(
        "semantic",
        ("LABEL_ROOT", "CLASSES", "IGNORE_LABEL"),
        ("NAME", "IMAGE_ROOT", "LABEL_ROOT", "CLASSES"),
        ("IGNORE_LABEL",),
        register_semantic_folders,
        truth="LABEL_ROOT",
    ),
    Kind(
        "instance",
        ("INSTANCES_JSON",),
        ("NAME", "IMAGE_ROOT", "INSTANCES_JSON"),
        (),
        register_coco_instances,
    ),
)


def register_custom_datasets(cfg) -> None:
    """Register what ``DATASETS.CUSTOM`` describes and ``DATASETS.TRAIN`` or ``TEST`` uses.

    Entries are panoptic, instance or semantic, which is told by their keys (see
    ``DATASETS.CUSTOM`` in :mod:`knet.config`). Calling it again is harmless.

    Raises:
        UsageError: an entry lacks a key, has an unknown or a wrong one, or takes the name of
            another set.
        DatasetError: its json cannot be read.
    """
    for kind, arguments in custom_datasets(cfg):
        name = arguments["name"]
        if name not in DatasetCatalog.list():
            kind.register(**arguments)
            MetadataCatalog.get(name).set(custom=arguments)
        elif MetadataCatalog.get(name).get("custom") != arguments:
            raise UsageError(
                f"DATASETS.CUSTOM describes '{name}', a name that another data set has already: "
                "give it another NAME"
            )


def custom_datasets(cfg) -> List[Tuple[Kind, Dict]]:
    """The entries that ``DATASETS.TRAIN`` or ``TEST`` uses: kind, and the arguments of what
    registers them.

    Raises:
        UsageError: see :func:`register_custom_datasets`.
    """
    names = [entry.get("NAME") for entry in cfg.DATASETS.CUSTOM if isinstance(entry, dict)]
    used = []
    for entry in cfg.DATASETS.CUSTOM:
        name = entry.get("NAME") if isinstance(entry, dict) else None
        alone = name in cfg.DATASETS.TEST and name not in cfg.DATASETS.TRAIN
        kind = _kind(entry, needs_truth=not alone)
        if names.count(name) > 1:
            raise UsageError(f"DATASETS.CUSTOM describes '{name}' twice: give one another NAME")
        if name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):  # else its files need not be there
            arguments = {kind.truth.lower(): None} if kind.truth else {}
            used.append((kind, {**arguments, **_arguments(entry)}))
    return used


def _kind(entry: Dict, needs_truth: bool) -> Kind:
    """Which kind of data set an entry describes; all its keys and values are in order.

    Args:
        needs_truth: whether images alone will not do.

    Raises:
        UsageError: they are not.
    """
    kinds = "; ".join(str(kind) for kind in KINDS)
    if not isinstance(entry, dict):
        raise UsageError(
            f"DATASETS.CUSTOM has the entry {entry!r}, but each must be a mapping: {kinds}"
        )
    of_entry = [kind for kind in KINDS if any(mark in entry for mark in kind.marks)]
    what = f"an entry of DATASETS.CUSTOM ({entry.get('NAME') or 'without NAME'})"
    if not of_entry:
        raise UsageError(f"{what} does not tell its kind: {kinds}")
    kind = of_entry[0]
    required = [key for key in kind.required if needs_truth or key != kind.truth]
    missing = [key for key in required if not entry.get(key)]
    unknown = [key for key in entry if key not in kind.required + kind.optional]
    if missing or unknown:
        raise UsageError(
            f"{what} "
            + (f"lacks {', '.join(missing)}" if missing else f"has unknown keys {unknown}")
            + f": {kind}"
        )
    for key in ("NAME", *PATHS):
        if entry.get(key) is not None and not isinstance(entry[key], str):
            raise UsageError(f"{what} has the {key} {entry[key]!r}, which must be a text")
    _check_classes(entry, what)
    return kind


def _check_classes(entry: Dict, what: str) -> None:
    classes, ignore_label = entry.get("CLASSES"), entry.get("IGNORE_LABEL")
    if classes is not None and (
        not isinstance(classes, (list, tuple))
        or not all(isinstance(name, str) for name in classes)
        or len(set(classes)) != len(classes)
    ):
        raise UsageError(
            f"{what} has the CLASSES {classes!r}, which must be a list of different names, the "
            "first for the label 0"
        )
    if ignore_label is not None and (
        not isinstance(ignore_label, int) or 0 <= ignore_label < len(classes)
    ):
        raise UsageError(
            f"{what} has the IGNORE_LABEL {ignore_label!r}, which must be a number that is no "
            f"class of {len(classes)}"
        )


def _arguments(entry: Dict) -> Dict:
    """Keys in lower case; paths start at DETECTRON2_DATASETS."""
    root = os.getenv("DETECTRON2_DATASETS", "datasets")
    return {
        key.lower(): os.path.join(root, value) if key in PATHS else value
        for key, value in entry.items()
        if value not in (None, "")
    }
