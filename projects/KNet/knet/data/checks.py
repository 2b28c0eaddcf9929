"""What can be wrong between a config and its data sets, found before training starts."""

import logging
from functools import reduce
from typing import List

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..errors import DatasetError, UsageError
from ..evaluation.build import check_evaluator
from .class_layout import ClassLayout
from .custom import register_custom_datasets
from .training_images import load_dicts

__all__ = ["check_config", "check_datasets", "resolve_class_layout"]

logger = logging.getLogger(__name__)


def resolve_class_layout(cfg) -> ClassLayout:
    """The classes of the model: from the data sets' metadata, checked against the config's counts.

    A config that names no registered data set must give both counts; things are then 0.., stuff
    follows. ``MODEL.KNET.NUM_STUFF_CLASSES`` 0 on a panoptic data set makes an instance model.

    Raises:
        UsageError: counts that contradict the metadata, data sets whose classes differ, or
            neither counts nor data set.
    """
    register_custom_datasets(cfg)
    knet = cfg.MODEL.KNET
    names = [n for n in _dataset_names(cfg) if n in DatasetCatalog.list()]
    if not names:
        if knet.NUM_THING_CLASSES < 1 or knet.NUM_STUFF_CLASSES < 0:
            raise UsageError(
                "no registered data set says how many classes there are: name one in "
                "DATASETS.TRAIN or DATASETS.TEST, or set MODEL.KNET.NUM_THING_CLASSES and "
                "MODEL.KNET.NUM_STUFF_CLASSES"
            )
        total = knet.NUM_THING_CLASSES + knet.NUM_STUFF_CLASSES
        return ClassLayout(range(knet.NUM_THING_CLASSES), range(knet.NUM_THING_CLASSES, total))
    layout = ClassLayout.from_metadata(MetadataCatalog.get(names[0]))
    for other in names[1:]:
        if _classes(other) != _classes(names[0]):
            raise UsageError(
                f"the data sets '{names[0]}' and '{other}' have different classes: DATASETS.TRAIN "
                "and DATASETS.TEST must name data sets of the same classes"
            )
    if knet.NUM_STUFF_CLASSES == 0 and layout.num_stuff:
        layout = ClassLayout(layout.thing_ids, ())
    for key, count in (
        ("NUM_THING_CLASSES", layout.num_things),
        ("NUM_STUFF_CLASSES", layout.num_stuff),
    ):
        if knet[key] not in (-1, count):
            raise UsageError(
                f"MODEL.KNET.{key} is {knet[key]}, but the data set '{names[0]}' has {count}: "
                f"set it to {count}, or to -1 to take it from the data set"
            )
    return layout


def check_config(cfg) -> None:
    """Look for values that cannot work together.

    Raises:
        UsageError: names the key and what to set it to.
    """
    knet = cfg.MODEL.KNET
    if knet.NUM_STAGES < 1:
        raise UsageError(f"MODEL.KNET.NUM_STAGES is {knet.NUM_STAGES}: at least 1 stage is needed")
    if knet.NUM_KERNELS < 1:
        raise UsageError(f"MODEL.KNET.NUM_KERNELS is {knet.NUM_KERNELS}: at least 1 is needed")
    for key, registry in _registries().items():
        name = reduce(getattr, key.split("."), cfg)
        if name not in registry:
            known = sorted(name for name, _ in registry)
            raise UsageError(f"{key} is '{name}', known are {', '.join(known)}")
    if not knet.NECK.IN_FEATURES:
        raise UsageError("MODEL.KNET.NECK.IN_FEATURES is empty: name the backbone's features")
    for key, divisor in (
        ("NUM_GROUPS", knet.NUM_GROUPS),
        ("KERNEL_UPDATE.NUM_HEADS", knet.KERNEL_UPDATE.NUM_HEADS),
    ):
        if divisor < 1 or knet.CHANNELS % divisor:
            raise UsageError(
                f"MODEL.KNET.CHANNELS {knet.CHANNELS} is not divisible by MODEL.KNET.{key} "
                f"{divisor}: change one of them"
            )
    if knet.MASK_STRIDE < 1 or knet.NECK.STRIDE < 1 or knet.NECK.STRIDE % knet.MASK_STRIDE:
        raise UsageError(
            f"MODEL.KNET.MASK_STRIDE {knet.MASK_STRIDE} must divide MODEL.KNET.NECK.STRIDE "
            f"{knet.NECK.STRIDE}"
        )
    for key in ("IMS_PER_BATCH", "MAX_ITER"):
        if cfg.SOLVER[key] < 1:
            raise UsageError(f"SOLVER.{key} is {cfg.SOLVER[key]}: at least 1 is needed")
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise UsageError("SOLVER.AMP.ENABLED True needs a GPU: set it to False")


def _registries():
    from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

    from ..kernel_head import KERNEL_HEAD_REGISTRY
    from ..kernel_update import KERNEL_UPDATE_HEAD_REGISTRY
    from ..neck import NECK_REGISTRY

    return {
        "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
        "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
        "MODEL.KNET.NECK.NAME": NECK_REGISTRY,
        "MODEL.KNET.KERNEL_HEAD.NAME": KERNEL_HEAD_REGISTRY,
        "MODEL.KNET.KERNEL_UPDATE.NAME": KERNEL_UPDATE_HEAD_REGISTRY,
    }


def check_datasets(cfg) -> None:
    """Look, before training, whether the data sets are registered and their files are there.

    Raises:
        UsageError: a name that is not registered.
        DatasetError: a file or folder that does not exist.
    """
    register_custom_datasets(cfg)
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if name not in DatasetCatalog.list():
                raise UsageError(
                    f"DATASETS.{key} names '{name}', which is not registered: describe it in "
                    "DATASETS.CUSTOM, or correct the name"
                )
            _check_files(name, key)
    for name in cfg.DATASETS.TEST:
        check_evaluator(name)
        load_dicts(name)  # finds what is wrong in it now and not after training


def _check_files(name: str, key: str) -> None:
    metadata = MetadataCatalog.get(name)
    prepare = metadata.get("prepare")
    if prepare is not None:  # a data set that the project writes itself
        prepare()
    for what in ("panoptic_json", "panoptic_root", "image_root"):
        path = metadata.get(what)
        if path is not None and not PathManager.exists(path):
            raise DatasetError(
                f"{path} ({what} of '{name}' in DATASETS.{key}) does not exist: set the "
                "environment variable DETECTRON2_DATASETS to the folder that holds the data, or "
                "mend the data set's paths"
            )


def _classes(name: str) -> List:
    """(contiguous id, is it a thing, name) of each class, in the model's order."""
    metadata = MetadataCatalog.get(name)
    layout = ClassLayout.from_metadata(metadata)
    things, stuff = metadata.get("thing_classes", ()), metadata.get("stuff_classes", ())
    return [(i, True, things[i : i + 1]) for i in layout.thing_ids] + [
        (i, False, stuff[i : i + 1]) for i in layout.stuff_ids
    ]


def _dataset_names(cfg) -> List[str]:
    return [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
