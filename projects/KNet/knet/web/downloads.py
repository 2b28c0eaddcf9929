"""A result as files to take home: the drawn picture, and COCO's formats for programs."""

from pathlib import Path
from typing import Dict, List, Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ..data.classes import ModelClass
from ..results.coco import images_and_categories, panoptic_png_and_annotation
from ..results.json_files import write_object
from ..results.writers import FAST_PNG
from .view import View

__all__ = ["write_files"]

IMAGE_ID = 1  # of the only image


def write_files(view: View, folder: Path) -> Dict[str, Path]:
    """Write what there is to download.

    Args:
        view: of the result; things below its threshold are in no file.
        folder: that is there.

    Returns:
        the files:

        - ``picture``: ``<image>_drawn.png``;
        - ``png``: of a panoptic result the segment ids as colours, of a semantic one the class of
          each pixel by the data set's ids; an instance result has none;
        - ``json``: ``{"images", "categories", "annotations"}`` of COCO; of a semantic result
          without annotations, to say what the ids are.
    """
    found, classes = view.found, view.segmenter.predictor.classes
    kind, stem = found.settings.kind, Path(found.name).stem or "picture"
    paths = {"picture": folder / f"{stem}_drawn.png", "json": folder / f"{stem}_{kind}.json"}
    _save(view.picture, paths["picture"])
    lists = images_and_categories([(IMAGE_ID, found.name, *found.image.shape[:2])], classes)
    if kind == "instance":
        annotations = found.content["annotations"]
        lists["annotations"] = _annotations(annotations, view.score_threshold)
    else:
        paths["png"] = folder / f"{stem}_{kind}.png"
        if kind == "panoptic":
            lists["annotations"] = [_write_panoptic(found.content, classes, paths["png"])]
        else:
            _save(found.content["labels"], paths["png"])
    write_object(paths["json"], lists)
    return paths


def _write_panoptic(result: Dict, classes: Sequence[ModelClass], path: Path) -> Dict:
    """The annotation."""
    pixels, annotation = panoptic_png_and_annotation(
        result, classes, file_name=path.name, image_id=IMAGE_ID
    )
    _save(pixels, path)
    return annotation


def _annotations(annotations: Sequence[Dict], score_threshold: float) -> List[Dict]:
    """COCO's list of results as annotations, which have an id and an area too."""
    return [
        {**each, "id": i, "iscrowd": 0, "area": int(mask_util.area(each["segmentation"]))}
        for i, each in enumerate((a for a in annotations if a["score"] >= score_threshold), 1)
    ]


def _save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path, **FAST_PNG)
