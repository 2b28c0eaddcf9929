"""A small Cityscapes, with the files of its download and those that its scripts make."""

import json
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import cityscapes_panoptic
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from panopticapi.utils import id2rgb
from PIL import Image

from knet.data.cityscapes import adapt_cityscapes

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
            (gt / split / city / f"{name}_gtFine_instanceIds.png", ids),
            (gt / split / city / f"{name}_gtFine_labelIds.png", labels.astype(np.uint8)),
            (gt / split / city / f"{name}_gtFine_labelTrainIds.png", train_ids),
            (pngs / f"{name}_gtFine_panoptic.png", id2rgb(np.where(known, ids, 0))),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
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


def register(root: Path, monkeypatch) -> Tuple[str, str]:
    """Let Detectron2 and the project register the tree as they do with the real one.

    Returns:
        the names of the training and the validation set.
    """
    splits = cityscapes_panoptic._RAW_CITYSCAPES_PANOPTIC_SPLITS
    monkeypatch.setattr(
        cityscapes_panoptic,
        "_RAW_CITYSCAPES_PANOPTIC_SPLITS",
        {name.replace("fine", "fine_tiny"): paths for name, paths in splits.items()},
    )
    cityscapes_panoptic.register_all_cityscapes_panoptic(str(root))
    adapt_cityscapes()
    names = tuple(name.replace("fine", "fine_tiny") for name in splits)
    assert set(names) <= set(DatasetCatalog.list()), "as they were"
    assert all(MetadataCatalog.get(name).panoptic_json for name in names)
    return names
