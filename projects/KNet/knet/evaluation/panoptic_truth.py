"""Panoptic ground truth as it is compared; made fit for COCO's tool, which reads it as it is."""

import logging
import math
import os
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image

from ..data.datasets.coco_panoptic import read_panoptic_json
from ..data.id_map import id_map
from ..data.image_reading import open_image, read_image
from ..errors import DatasetError

__all__ = [
    "PanopticFiles",
    "annotations_of_dataset",
    "areas_of",
    "check_panoptic_truth",
    "fit_for_tool",
    "warn_of_areas",
    "with_areas",
]

logger = logging.getLogger(__name__)

_READ_BY_TOOL = ("RGB", "RGBA")  # modes of PNGs


def check_panoptic_truth(dataset_name: str, dicts: Sequence[Dict]) -> None:
    """Look whether the ground truth that PQ is measured with is that of the data set's images.

    Raises:
        DatasetError: no image is in both.
    """
    panoptic_json = MetadataCatalog.get(dataset_name).get("panoptic_json")
    if panoptic_json:
        ids = [d.get("image_id") for d in dicts]
        annotations_of_dataset(read_panoptic_json(panoptic_json), ids, panoptic_json)


def annotations_of_dataset(
    content: Dict, image_ids: Sequence[Any], panoptic_json: str
) -> List[Dict]:
    """The annotations of a panoptic json whose images a data set has, with a line in the log.

    Args:
        content: of the json.
        image_ids: of the data set.
        panoptic_json: its path, for the sentence.

    Raises:
        DatasetError: there are annotations, and none is of the data set.
    """
    annotations, known = content["annotations"], set(image_ids)
    common = [a for a in annotations if a["image_id"] in known]
    if annotations and not common:
        raise DatasetError(
            f"{panoptic_json} has no annotation of an image of the data set (as "
            f"{next(iter(image_ids), None)}): the image_id of both must agree"
        )
    if len(common) < len(annotations):
        logger.warning(
            "%d of %d images of %s are not in the data set: PQ leaves them out",
            len(annotations) - len(common),
            len(annotations),
            panoptic_json,
        )
    return common


def fit_for_tool(annotation: Dict, panoptic_root: str, folder: str) -> Dict:
    """An annotation that COCO's tool reads rightly.

    A PNG with a palette, or grey, is written in colours; areas that are none are those of the PNG.

    Args:
        annotation: of the panoptic json.
        panoptic_root: folder of the PNGs.
        folder: for PNGs that are written.
    """
    path = os.path.join(panoptic_root, annotation["file_name"])
    with Image.open(path) as png:  # its header alone
        mode = png.mode
    if mode not in _READ_BY_TOOL:
        name = f"{len(os.listdir(folder))}.png"
        colours = os.path.join(os.path.abspath(folder), name)
        open_image(path).convert("RGB").save(colours)
        annotation = {**annotation, "file_name": colours}  # an absolute path stays as it is
    segments = annotation["segments_info"]
    if all(_is_area(segment["area"]) for segment in segments):
        return annotation
    ids = id_map(read_image(path, "RGB"))
    return {**annotation, "segments_info": with_areas(segments, ids)}


class PanopticFiles:
    """Reads panoptic PNGs, once where evaluators of the same image share it: the last is kept."""

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Read the next one whatever it is."""
        self._path, self._ids = None, None

    def ids(self, path: str) -> np.ndarray:
        """The id map (H, W) of a PNG, not to be written to.

        Raises:
            DatasetError: it cannot be read.
        """
        if path != self._path:
            self._ids, self._path = id_map(read_image(path, "RGB")), path
            self._ids.flags.writeable = False
        return self._ids


def with_areas(segments: List[Dict], ids: np.ndarray) -> List[Dict]:
    """Segments whose areas, where one of them is none, are those of their id map (H, W)."""
    if all(_is_area(segment["area"]) for segment in segments):
        return segments
    areas = areas_of(ids)
    return [{**s, "area": areas.get(s["id"], 0)} for s in segments]


def areas_of(ids: np.ndarray) -> Dict[int, int]:
    """{id: pixels} of an id map."""
    values, counts = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))


def warn_of_areas(misstated: Mapping[Any, Sequence[int]], panoptic_json: str) -> None:
    """Say so, in one sentence, where areas of a panoptic json make PQ wrong.

    Args:
        misstated: {image id: ids of segments whose area is not that of their pixels}.
        panoptic_json: its path.
    """
    images = {image_id: ids for image_id, ids in misstated.items() if ids}
    if images:
        image_id, (segment_id, *_) = next(iter(images.items()))
        logger.warning(
            "PQ is wrong, and may pass 100: it goes by the areas in %s, as COCO's tool does, and "
            "those of %d segments in %d images are not those of their pixels (as of the segment "
            "%s of the image %s): compute them anew, or leave them out; check_dataset.py lists all",
            panoptic_json,
            sum(map(len, images.values())),
            len(images),
            segment_id,
            image_id,
        )


def _is_area(area: Any) -> bool:
    return isinstance(area, (int, float)) and math.isfinite(area) and area > 0
