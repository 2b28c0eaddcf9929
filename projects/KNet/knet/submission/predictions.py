"""Predictions on disk, read alike whether the evaluation or the demo has written them."""

import json
import os
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np
from PIL import Image

from ..data.run_lengths import check_rle, decode_rle
from ..errors import DatasetError, UsageError

__all__ = [
    "InstancePredictions",
    "PanopticPredictions",
    "SemanticPredictions",
    "masks_of",
    "stem_of",
]

VOID = 255  # of a label map, where there is no class

# Files of the evaluation and of the demo, and what stands beside them
_PANOPTIC = {"predictions.json": "predictions", "panoptic.json": "panoptic"}
_INSTANCES = {"coco_instances_results.json": "", "instances.json": "images.json"}
_SEMANTIC = {"labels": "", "sem_seg_predictions.json": ""}

# of an image: the name of its file as the prediction has it, or its id
NameOrId = object


def _first_file(folder: Path, names: Dict[str, str], advice: str) -> Tuple[Path, str]:
    """The first file (or folder) of these that is there, and what stands behind it.

    Raises:
        UsageError: there is none.
    """
    for name, other in names.items():
        if (folder / name).exists():
            return folder / name, other
    raise UsageError(f"{folder} has neither {' nor '.join(names)}: {advice}")


def _read_json(path: Path, needed: Iterable[str], key: Optional[str] = None) -> List[Dict]:
    """The list that a file holds, or holds as ``key``; each entry has what is needed.

    Raises:
        DatasetError: it holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if key is not None:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, list):
        what = f"list of {key}" if key else "list"
        raise DatasetError(f"{path} holds no {what}: it is no file of predictions, predict again")
    for entry in content:
        lacking = set(needed) - (entry.keys() if isinstance(entry, dict) else set())
        if lacking:
            raise DatasetError(
                f"{path} has an entry without {', '.join(sorted(lacking))}: predict again, with "
                "masks"
            )
    return content


class PanopticPredictions:
    """COCO's panoptic json and PNGs: annotations by image id."""

    def __init__(self, folder: Path):
        """
        Raises:
            UsageError: the folder has no such predictions.
            DatasetError: they cannot be read.
        """
        path, pngs = _first_file(
            folder,
            _PANOPTIC,
            "evaluate with TEST.KEEP_PANOPTIC True, or predict with --save coco-panoptic",
        )
        self.pngs = folder / pngs
        self.annotations: List[Dict] = _read_json(
            path, ("image_id", "file_name", "segments_info"), "annotations"
        )

    def ids(self) -> set:
        """The class ids in use."""
        return {s["category_id"] for a in self.annotations for s in a["segments_info"]}

    def png(self, annotation: Dict) -> Tuple[bytes, Tuple[int, int]]:
        """The file of an annotation, and (height, width) of what it shows.

        Raises:
            DatasetError: it is not there, or is no PNG.
        """
        path = self.pngs / annotation["file_name"]
        if not path.is_file():
            raise DatasetError(f"{path} is missing: predict again")
        with _opened(path) as image:
            return path.read_bytes(), image.size[::-1]


class InstancePredictions:
    """COCO's list of instances, by image id; with the images' names where they are told."""

    def __init__(self, folder: Path):
        """
        Raises:
            UsageError: the folder has no such predictions.
            DatasetError: they cannot be read.
        """
        path, images = _first_file(
            folder, _INSTANCES, "evaluate, or predict with --save coco-instances"
        )
        keys = ("image_id", "category_id", "segmentation", "score")
        self.annotations: List[Dict] = _read_json(path, keys)
        self.names: Dict[NameOrId, str] = {}  # by image id; of the demo, images without objects too
        if images and (folder / images).is_file():
            listed = _read_json(folder / images, ("id", "file_name"), "images")
            self.names = {image["id"]: image["file_name"] for image in listed}

    def ids(self) -> set:
        """The class ids in use."""
        return {a["category_id"] for a in self.annotations}

    def by_image(self) -> Dict[NameOrId, List[Dict]]:
        """Image id -> its instances, best first."""
        found = defaultdict(list, {image_id: [] for image_id in self.names})
        for annotation in sorted(self.annotations, key=lambda a: -a["score"]):
            found[annotation["image_id"]].append(annotation)
        return dict(found)


class SemanticPredictions:
    """Label maps, one after the other: PNGs of the demo's, or what the evaluator writes."""

    def __init__(self, folder: Path):
        """
        Raises:
            UsageError: the folder has no such predictions.
            DatasetError: they cannot be read.
        """
        path, _ = _first_file(folder, _SEMANTIC, "evaluate, or predict with --save labels")
        self._load: Dict[str, Callable[[], np.ndarray]] = {}  # by file name
        if path.is_dir():
            files = sorted(path.rglob("*.png"))
            self._load = {str(file.relative_to(path)): _png_loader(file) for file in files}
            self._ids: Optional[set] = None
            return
        by_image = defaultdict(list)
        for entry in _read_json(path, ("file_name", "category_id", "segmentation")):
            by_image[entry["file_name"]].append(entry)
        self._load = {name: _rle_loader(entries) for name, entries in by_image.items()}
        self._ids = {entry["category_id"] for entries in by_image.values() for entry in entries}

    @property
    def names(self) -> List[str]:
        """The files' names, of the images or of the PNGs."""
        return list(self._load)

    def label_map(self, name: str) -> np.ndarray:
        """(H, W) class ids, VOID for none."""
        return self._load[name]()

    def ids(self) -> set:
        """The class ids in use, without VOID."""
        if self._ids is None:
            maps = (np.unique(load()).tolist() for load in self._load.values())
            self._ids = {i for ids in maps for i in ids} - {VOID}
        return self._ids


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A PNG of predictions.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            yield image
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error}): predict again") from error


def _png_loader(path: Path) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        with _opened(path) as image:
            labels = np.asarray(image)
        if labels.ndim != 2:
            raise DatasetError(f"{path} is a picture in colours: give label maps (--save labels)")
        return labels

    return load


def _rle_loader(entries: List[Dict]) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        masks = [_decode(entry).astype(bool) for entry in entries]
        labels = np.full(masks[0].shape, VOID, dtype=np.uint8)
        for entry, mask in zip(entries, masks):
            labels[mask] = entry["category_id"]
        return labels

    return load


def stem_of(name: NameOrId) -> str:
    """The name of an image's file without folder and ending."""
    return os.path.splitext(os.path.basename(str(name)))[0]


def masks_of(instances: List[Dict]) -> Iterator[np.ndarray]:
    """(H, W) uint8 of 0 and 1 of each instance.

    Raises:
        DatasetError: one has no mask.
    """
    return map(_decode, instances)


def _decode(entry: Dict) -> np.ndarray:
    rle = entry["segmentation"]
    try:
        check_rle(rle, (None, None))
        return decode_rle(rle)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"a predicted mask cannot be read ({error}): predict again") from error
