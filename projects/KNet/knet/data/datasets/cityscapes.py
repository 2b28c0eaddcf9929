"""Cityscapes as Detectron2 registers it: its files are looked for, its scripts found.

Detectron2's ``cityscapes_fine_panoptic_*`` need files that Cityscapes' own scripts make, but not
the scripts; its ``cityscapes_fine_instance_seg_*`` and its evaluators need the scripts themselves,
the package ``cityscapesscripts``.
"""

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import types
from typing import Callable, Dict, Iterator, List, Set, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...errors import DatasetError, UsageError
from .coco_panoptic import read_panoptic_json

__all__ = ["adapt_cityscapes", "check_cityscapes", "enable_cityscapes_scripts"]

SCRIPTS = "cityscapesscripts"
# Newer versions of Detectron2 import the scripts under this name, which exists at Meta alone.
INTERNAL = "deeplearning.projects.cityscapesApi"
# the modules of Detectron2 that import them
USERS = ("detectron2.data.datasets.cityscapes", "detectron2.evaluation.cityscapes_evaluation")


def adapt_cityscapes() -> None:
    """Let Detectron2's Cityscapes data sets be checked before they are loaded.

    What the dicts of the panoptic ones lack is added: ``isthing`` and the image's size. Calling
    it again is harmless.
    """
    for name in [n for n in DatasetCatalog.list() if n.startswith("cityscapes_fine_")]:
        metadata = MetadataCatalog.get(name)
        if metadata.get("prepare") is None:
            metadata.set(prepare=functools.partial(check_cityscapes, name))
            load = DatasetCatalog[name]
            DatasetCatalog.remove(name)
            DatasetCatalog.register(name, functools.partial(_load, name, load))


def _load(name: str, load: Callable[[], List[Dict]]) -> List[Dict]:
    """What Detectron2's loader gives, of a data set whose files are there."""
    check_cityscapes(name)
    dicts, metadata = load(), MetadataCatalog.get(name)
    if metadata.get("panoptic_json"):
        things = set(metadata.thing_dataset_id_to_contiguous_id.values())
        images = {i["id"]: i for i in read_panoptic_json(metadata.panoptic_json)["images"]}
        for d in dicts:
            image = images[d["image_id"]]
            d["height"], d["width"] = image["height"], image["width"]
            for segment in d["segments_info"]:
                segment["isthing"] = segment["category_id"] in things
    return dicts


# ------------------------------------------------------------------------------------------- files


def check_cityscapes(name: str) -> None:
    """Look whether a Cityscapes data set has the files and packages that its loader needs.

    Of the files that there are one an image it looks for the first.

    Args:
        name: registered as Detectron2 does, with ``gt_dir`` and ``image_root`` or ``image_dir``.

    Raises:
        DatasetError: a file is missing; the sentence has the command that makes it.
        UsageError: a package is missing.
    """
    metadata = MetadataCatalog.get(name)
    images = metadata.get("image_root") or metadata.image_dir
    for path, remedy in _needed_files(metadata, os.path.normpath(images)):
        if not PathManager.exists(path):
            raise DatasetError(f"{path} of the data set '{name}' does not exist: {remedy}")
    if metadata.get("panoptic_json") and "." in images:
        raise DatasetError(
            f"Detectron2 cannot load the data set '{name}' from {images}, as the path has a dot: "
            "set DETECTRON2_DATASETS to an absolute path without one"
        )
    if metadata.get("evaluator_type") == "cityscapes_instance":
        enable_cityscapes_scripts()
        if importlib.util.find_spec("shapely") is None:
            raise UsageError(f"the data set '{name}' needs shapely: pip install shapely")


def _needed_files(metadata, images: str) -> Iterator[Tuple[str, str]]:
    """(path, how to come by it), one after the other: the later are below the earlier."""
    root = os.path.dirname(os.path.dirname(images))
    script = f"make it by CITYSCAPES_DATASET={root} {{}} (pip install cityscapesscripts)"
    elsewhere = f"unpack {{}}_trainvaltest.zip into {root}, or mend DETECTRON2_DATASETS"
    yield images, elsewhere.format("leftImg8bit")
    yield metadata.gt_dir, elsewhere.format("gtFine")
    if metadata.get("panoptic_json"):
        yield metadata.panoptic_json, script.format("csCreatePanopticImgs")
        yield metadata.panoptic_root, script.format("csCreatePanopticImgs")
    if metadata.get("evaluator_type") != "cityscapes_instance":
        for stem in _first_image(images):
            path = os.path.join(metadata.gt_dir, f"{stem}_gtFine_labelTrainIds.png")
            yield path, script.format("csCreateTrainIdLabelImgs")


def _first_image(images: str) -> List[str]:
    """[city/name of the first image, without its ending], or [] where there is none."""
    ending = "_leftImg8bit.png"
    for city in sorted(PathManager.ls(images)):
        folder = os.path.join(images, city)
        names = sorted(PathManager.ls(folder)) if PathManager.isdir(folder) else []
        for name in names:
            if name.endswith(ending):
                return [os.path.join(city, name[: -len(ending)])]
    return []


# ----------------------------------------------------------------------------------------- scripts


def enable_cityscapes_scripts() -> None:
    """Let Detectron2 find Cityscapes' scripts, under whatever name it imports them.

    Where it asks for the name that exists at Meta alone, the modules of the package
    ``cityscapesscripts`` are entered in ``sys.modules`` under that name too. Processes that are
    forked have it; others call this function again. (On Python 3.14 the loader of
    ``cityscapes_fine_instance_seg_*`` starts processes that are not forked.)

    Raises:
        UsageError: the package is not installed.
    """
    if importlib.util.find_spec(SCRIPTS) is None:
        raise UsageError(
            "Cityscapes' instance data sets and its own protocol of evaluation need its scripts: "
            "pip install cityscapesscripts"
        )
    for internal in sorted(_internal_names()):
        parts = internal.split(".")
        for end in range(1, len(parts) + 1):
            _enter(".".join(parts[:end]))


def _internal_names() -> Set[str]:
    """The modules that Detectron2 asks for under Meta's name."""
    source = "".join(inspect.getsource(importlib.import_module(user)) for user in USERS)
    return set(re.findall(rf"\b{re.escape(INTERNAL)}\.{SCRIPTS}[\w.]*", source))


def _enter(internal: str) -> None:
    """Enter one module, or one package above the scripts, in ``sys.modules``."""
    try:
        importlib.import_module(internal)
    except ModuleNotFoundError:
        public = internal[len(INTERNAL) + 1 :]
        sys.modules[internal] = (
            importlib.import_module(public) if public else types.ModuleType(internal)
        )
