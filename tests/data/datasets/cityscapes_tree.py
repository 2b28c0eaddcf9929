"""A small Cityscapes, with the files of its download and those that its scripts make."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import numpy as np
import pytest
from detectron2.data.datasets import builtin, cityscapes_panoptic
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from panopticapi.utils import id2rgb
from PIL import Image

from knet.data.datasets.cityscapes import adapt_cityscapes

CATEGORIES = {c["id"]: c for c in CITYSCAPES_CATEGORIES}
ROAD, BUILDING, SKY, PERSON, CAR = 7, 11, 23, 24, 26
STATIC = 4  # of the classes that are not evaluated


def instance_ids(size: Tuple[int, int] = (64, 128)) -> np.ndarray:
    """(H, W) ids as in ``*_instanceIds.png``: road, sky, two cars, a group of cars, a person.

    Objects are 1000 x class + number; a group has the id of its class alone, as stuff has.
    """
    ids = np.full(size, ROAD, dtype=np.int32)
    ids[: size[0] // 3] = SKY
    ids[10:30, 40:80] = BUILDING
    ids[30:50, 5:30], ids[35:60, 60:100], ids[34:40, 105:120] = 1000 * CAR, 1000 * CAR + 1, CAR
    ids[25:45, 34:40] = 1000 * PERSON
    ids[60:] = STATIC
    return ids


def write_split(root: Path, split: str, images: Dict[str, np.ndarray]) -> None:
    """Write images of noise and their annotation.

    Args:
        root: that has ``cityscapes/``.
        images: name as "aachen_000000_000019" -> (H, W) ids of :func:`instance_ids`.
    """
    gt, entries, annotations = root / "cityscapes" / "gtFine", [], []
    pngs = gt / f"cityscapes_panoptic_{split}"
    pngs.mkdir(parents=True)
    for name, ids in images.items():
        city = name.split("_")[0]
        labels = np.where(ids < 1000, ids, ids // 1000)
        image = np.random.default_rng(len(entries)).integers(0, 256, (*ids.shape, 3), np.uint8)
        known = np.isin(labels, list(CATEGORIES))
        train_ids = np.full(ids.shape, 255, np.uint8)
        for label, category in CATEGORIES.items():
            train_ids[labels == label] = category["trainId"]
        for path, pixels in (
            (gt.parent / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image),
            (gt / split / city / f"{name}_gtFine_instanceIds.png", ids.astype(np.uint16)),
            (gt / split / city / f"{name}_gtFine_labelIds.png", labels.astype(np.uint8)),
            (gt / split / city / f"{name}_gtFine_labelTrainIds.png", train_ids),
            (pngs / f"{name}_gtFine_panoptic.png", id2rgb(np.where(known, ids, 0))),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        size = {"imgHeight": ids.shape[0], "imgWidth": ids.shape[1]}
        polygons = gt / split / city / f"{name}_gtFine_polygons.json"
        polygons.write_text(json.dumps({**size, "objects": []}))  # none: the PNGs are read
        entries.append(
            {
                "id": name,
                "file_name": f"{name}_gtFine_leftImg8bit.png",  # csCreatePanopticImgs writes this
                "height": ids.shape[0],
                "width": ids.shape[1],
            }
        )
        annotations.append(
            {
                "image_id": name,
                "file_name": f"{name}_gtFine_panoptic.png",
                "segments_info": segments(np.where(known, ids, 0)),
            }
        )
    categories = [
        {k: c[k] for k in ("id", "name", "isthing", "color")} for c in CATEGORIES.values()
    ]
    (gt / f"{pngs.name}.json").write_text(
        json.dumps({"images": entries, "annotations": annotations, "categories": categories})
    )


def segments(ids: np.ndarray) -> List[Dict]:
    """``segments_info`` as csCreatePanopticImgs makes it."""
    found = []
    for i in np.unique(ids[ids > 0]).tolist():
        category = CATEGORIES[i if i < 1000 else i // 1000]
        y, x = np.nonzero(ids == i)
        found.append(
            {
                "id": i,
                "category_id": category["id"],
                "area": len(y),
                "bbox": [int(v) for v in (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)],
                "iscrowd": int(i < 1000 and category["isthing"]),
            }
        )
    return found


@contextlib.contextmanager
def installed_scripts(folder: Path) -> Iterator[None]:
    """Write a package ``cityscapesscripts`` into a folder, and have modules imported from there.

    What was imported is forgotten afterwards.
    """
    _write_scripts(folder)
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for name in set(sys.modules) - known:
        if name.split(".")[0] in ("cityscapesscripts", "deeplearning", "new_d2"):
            del sys.modules[name]


def _write_scripts(folder: Path) -> None:
    """What Detectron2 uses of the package.

    Its figures are the shares of ground truth files for which there is a prediction.
    """
    package = folder / "cityscapesscripts"
    rows = [
        (c["name"], c["id"], c["trainId"], bool(c["isthing"]), False) for c in CITYSCAPES_CATEGORIES
    ]
    rows.append(("static", STATIC, 255, False, True))
    labels = f"""
from collections import namedtuple

Label = namedtuple("Label", "name id trainId hasInstances ignoreInEval")
labels = [Label(*row) for row in {rows!r}]
name2label = {{label.name: label for label in labels}}
id2label = {{label.id: label for label in labels}}
trainId2label = {{label.trainId: label for label in labels}}
"""
    evaluation = """
import glob
import os


class args:
    groundTruthSearch = "nowhere"


def getPrediction(*arguments):
    truth = [a for a in arguments if isinstance(a, str)][0]
    name = os.path.basename(truth).split("_gtFine")[0]
    return glob.glob(os.path.join(args.predictionPath, name + "*_pred.*"))


def evaluateImgLists(predictions, truths, args):
    share = sum(len(p) == 1 for p in predictions) / len(truths)
    scores = dict.fromkeys(("Classes", "InstClasses", "Categories", "InstCategories"), share)
    averages = {"allAp": share, "allAp50%": share}
    return {"averages": averages, **{f"averageScore{k}": v for k, v in scores.items()}}
"""
    for name, text in (
        ("__init__", ""),
        ("helpers/__init__", ""),
        ("helpers/labels", labels),
        ("evaluation/__init__", ""),
        ("evaluation/evalInstanceLevelSemanticLabeling", evaluation),
        ("evaluation/evalPixelLevelSemanticLabeling", evaluation),
    ):
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def register(root: Path, monkeypatch) -> None:
    """Let Detectron2 and the project register the tree as they do with the real one.

    The names are those of :func:`tiny`.
    """
    panoptic = cityscapes_panoptic._RAW_CITYSCAPES_PANOPTIC_SPLITS
    raw = builtin._RAW_CITYSCAPES_SPLITS
    for module, key, splits in (
        (cityscapes_panoptic, "_RAW_CITYSCAPES_PANOPTIC_SPLITS", panoptic),
        (builtin, "_RAW_CITYSCAPES_SPLITS", raw),
    ):
        monkeypatch.setattr(module, key, {tiny(name): v for name, v in splits.items()})
    cityscapes_panoptic.register_all_cityscapes_panoptic(str(root))
    builtin.register_all_cityscapes(str(root))
    adapt_cityscapes()


def tiny(name: str) -> str:
    """The name that a data set of the small tree has."""
    return name.replace("cityscapes_fine_", "cityscapes_fine_tiny_")
