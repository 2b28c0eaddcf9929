"""The built-in shapes data set: panoptic segmentation to learn in minutes, without a download.

Its scenes are drawn (see `scene`) the first time any of its variants is loaded, and kept on
disk in COCO's formats, so that everything behind the loading sees a data set like any other:

    shapes/train/*.jpg            shapes/val/*.jpg
    shapes/panoptic_train/*.png   shapes/panoptic_val/*.png     R + 256 G + 65536 B, 0 is unlabelled
    shapes/semantic_train/*.png   shapes/semantic_val/*.png     contiguous ids, 255 is ignored
    shapes/annotations/panoptic_{train,val}.json  instances_{train,val}.json
    shapes/version.json           what the folder was drawn with
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json, load_sem_seg
from iopath.common.file_io import file_lock
from pycocotools import mask as mask_util

from ....errors import DatasetError
from ..coco_panoptic import load_coco_panoptic_json, panoptic_metadata
from .classes import CATEGORIES, UNLABELLED
from .scene import Scene, draw_scene

logger = logging.getLogger(__name__)

VERSION = 2  # raise it when a scene changes: folders of another version are then drawn anew
SCENES = {"train": 400, "val": 60}
IGNORE_LABEL = 255

_SEEDS = {"train": 1, "val": 2}
_FIRST_IMAGE_ID = {"train": 1, "val": 100_001}  # no image id occurs in both splits
_JPEG_QUALITY = 92
_CONTIGUOUS_IDS = {category["id"]: i for i, category in enumerate(CATEGORIES)}
_COLORS = {category["id"]: category["color"] for category in CATEGORIES}
_THINGS = [category for category in CATEGORIES if category["isthing"]]
_THING_IDS = {category["id"] for category in _THINGS}


class _Paths(NamedTuple):
    """Where the parts of one split are."""

    images: str
    panoptic: str
    semantic: str
    panoptic_json: str
    instances_json: str

    @classmethod
    def of(cls, folder: str, split: str) -> _Paths:
        return cls(
            images=os.path.join(folder, split),
            panoptic=os.path.join(folder, f"panoptic_{split}"),
            semantic=os.path.join(folder, f"semantic_{split}"),
            panoptic_json=os.path.join(folder, "annotations", f"panoptic_{split}.json"),
            instances_json=os.path.join(folder, "annotations", f"instances_{split}.json"),
        )


# --------------------------------------------------------------------------------- registration


def shapes_root() -> str:
    """Where the scenes of the built-in data sets are, or will lie.

    Below DETECTRON2_DATASETS if they are there already: it may be others' too, or read-only, and
    nothing is drawn into it. Else below ``datasets`` in the working folder.
    """
    given = os.getenv("DETECTRON2_DATASETS", "")
    there = given and _is_current(os.path.join(os.path.expanduser(given), "shapes"), SCENES)
    return given if there else "datasets"


def register_all_shapes(
    root: str, prefix: str = "shapes", scenes: Mapping[str, int] | None = None
) -> None:
    """Registers ``{prefix}_{panoptic,instance,semantic}_{train,val}``; touches no file.

    Args:
        root: folder of the data sets; the scenes will lie in ``{root}/shapes``.
        prefix: of the names; another one lets a second root be registered beside the first.
        scenes: number of scenes a split, `SCENES` unless told; the same wherever `root` is.
    """
    folder = os.path.join(os.path.expanduser(root), "shapes")
    scenes = dict(SCENES if scenes is None else scenes)
    for split in scenes:
        _register_panoptic(f"{prefix}_panoptic_{split}", folder, split, scenes)
        _register_instance(f"{prefix}_instance_{split}", folder, split, scenes)
        _register_semantic(f"{prefix}_semantic_{split}", folder, split, scenes)


def _register_panoptic(name: str, folder: str, split: str, scenes: Mapping[str, int]) -> None:
    paths, metadata = _Paths.of(folder, split), panoptic_metadata(CATEGORIES)

    def load() -> list[dict]:
        ensure_written(folder, scenes)
        return load_coco_panoptic_json(paths.panoptic_json, paths.images, paths.panoptic, metadata)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        image_root=paths.images,
        prepare=partial(ensure_written, folder, scenes),
        panoptic_root=paths.panoptic,
        panoptic_json=paths.panoptic_json,
        json_file=paths.instances_json,
        evaluator_type="coco_panoptic_seg",
        ignore_label=IGNORE_LABEL,
        label_divisor=1000,
        **metadata,
    )


def _register_instance(name: str, folder: str, split: str, scenes: Mapping[str, int]) -> None:
    paths = _Paths.of(folder, split)

    def load() -> list[dict]:
        ensure_written(folder, scenes)
        return load_coco_json(paths.instances_json, paths.images, name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        image_root=paths.images,
        prepare=partial(ensure_written, folder, scenes),
        json_file=paths.instances_json,
        evaluator_type="coco",
        thing_classes=[category["name"] for category in _THINGS],
        thing_colors=[category["color"] for category in _THINGS],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(_THINGS)},
    )


def _register_semantic(name: str, folder: str, split: str, scenes: Mapping[str, int]) -> None:
    paths = _Paths.of(folder, split)

    def load() -> list[dict]:
        ensure_written(folder, scenes)
        return load_sem_seg(paths.semantic, paths.images, gt_ext="png", image_ext="jpg")

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        image_root=paths.images,
        prepare=partial(ensure_written, folder, scenes),
        sem_seg_root=paths.semantic,
        evaluator_type="sem_seg",
        ignore_label=IGNORE_LABEL,
        stuff_classes=[category["name"] for category in CATEGORIES],
        stuff_colors=[category["color"] for category in CATEGORIES],
    )


# -------------------------------------------------------------------------------------- writing


def ensure_written(folder: str, scenes: Mapping[str, int]) -> None:
    """Draws the data set into `folder` unless it is there already, in this version.

    It is drawn beside `folder` and renamed when complete, so nobody ever sees half of it. Of
    several processes that start together one draws, the others wait and use its work.

    Raises:
        DatasetError: if `folder` holds something else, which is not ours to overwrite.
    """
    folder = os.path.abspath(folder)  # the lock needs to name a parent folder
    if _is_current(folder, scenes):
        return
    work = os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.tmp")
    try:
        _write(folder, work, scenes)
    except OSError as error:
        raise DatasetError(
            f"the built-in shapes data set cannot be drawn into {folder}: "
            f"{error.strerror or error}; start the program in a folder that can be written"
        ) from error


def _write(folder: str, work: str, scenes: Mapping[str, int]) -> None:
    """Draw into ``work`` under a lock and rename it to ``folder``."""
    with file_lock(work):
        if _is_current(folder, scenes):
            return
        if os.path.isdir(folder) and os.listdir(folder) and _read_version(folder) is None:
            raise DatasetError(
                f"{folder} holds something other than the built-in shapes data set, which goes "
                "there: move it away, or start the program in another folder"
            )
        logger.info("Drawing %d scenes into %s (once) ...", sum(scenes.values()), folder)
        shutil.rmtree(work, ignore_errors=True)  # what a killed process left behind
        drawn = os.path.join(work, "new")
        for split, count in scenes.items():
            _write_split(drawn, split, count)
        _write_json(os.path.join(drawn, "version.json"), _version(scenes))
        if os.path.isdir(folder):
            os.rename(folder, os.path.join(work, "old"))
        os.rename(drawn, folder)
        shutil.rmtree(work, ignore_errors=True)


def _version(scenes: Mapping[str, int]) -> dict:
    return {"version": VERSION, "scenes": dict(scenes)}


def _read_version(folder: str) -> dict | None:
    """What the folder was drawn with, or None if it isn't one of ours."""
    try:
        with open(os.path.join(folder, "version.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _is_current(folder: str, scenes: Mapping[str, int]) -> bool:
    return _read_version(folder) == _version(scenes)


def _write_split(folder: str, split: str, count: int) -> None:
    """Draws and writes the scenes of one split and their two annotation files."""
    paths = _Paths.of(folder, split)
    for part in (paths.images, paths.panoptic, paths.semantic):
        os.makedirs(part)
    os.makedirs(os.path.dirname(paths.panoptic_json), exist_ok=True)

    images, panoptic, instances = [], [], []
    for index in range(count):
        scene = draw_scene(scene_seed(split, index))
        image_id = _FIRST_IMAGE_ID[split] + index
        stem = f"{image_id:06d}"
        ids, segments_info = encode_panoptic(scene)
        height, width = ids.shape
        images.append(
            {"id": image_id, "file_name": f"{stem}.jpg", "width": width, "height": height}
        )
        panoptic.append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments_info}
        )
        for annotation in encode_instances(ids, segments_info):
            instances.append({"id": len(instances) + 1, "image_id": image_id, **annotation})
        _write_image(os.path.join(paths.images, f"{stem}.jpg"), scene.image)
        _write_image(os.path.join(paths.panoptic, f"{stem}.png"), _id_to_rgb(ids))
        _write_image(os.path.join(paths.semantic, f"{stem}.png"), encode_semantic(scene))

    common = {
        "info": {"description": f"Built-in shapes data set, {split}", "version": str(VERSION)},
        "licenses": [],
        "images": images,
    }
    _write_json(paths.panoptic_json, {**common, "annotations": panoptic, "categories": CATEGORIES})
    _write_json(paths.instances_json, {**common, "annotations": instances, "categories": _THINGS})


def scene_seed(split: str, index: int) -> tuple[int, int]:
    """The seed of one scene; the two splits share none."""
    return _SEEDS[split], index


def _write_image(path: str, image: np.ndarray) -> None:
    """Writes (H, W) or RGB (H, W, 3) uint8; OpenCV alone returns False where others raise."""
    bgr = image if image.ndim == 2 else image[..., ::-1]
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.endswith(".jpg") else []
    if not cv2.imwrite(path, bgr, options):
        raise OSError(f"Could not write {path}.")


def _write_json(path: str, content: dict) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


# ------------------------------------------------------------------------------------- encoding


def encode_panoptic(scene: Scene) -> tuple[np.ndarray, list[dict]]:
    """COCO's panoptic form: (H, W) int32 ids for the PNG, and ``segments_info``.

    The ids are colours near the category's own, as in COCO, so the PNG is pleasant to look at.
    """
    ids = np.zeros_like(scene.segment_ids)
    segments_info: list[dict] = []
    used = {UNLABELLED}
    for segment in scene.segments:
        coco_id = _unused_color_id(_COLORS[segment.category_id], used)
        used.add(coco_id)
        mask = scene.segment_ids == segment.id
        ids[mask] = coco_id
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        segments_info.append(
            {
                "id": coco_id,
                "category_id": segment.category_id,
                "area": int(mask.sum()),
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "iscrowd": int(segment.iscrowd),
            }
        )
    return ids, segments_info


def _unused_color_id(color: list[int], used: set[int]) -> int:
    """``R + 256 G + 65536 B`` of the first colour that isn't `used`, walking away from `color`."""
    red, green, blue = color
    while (coco_id := red + 256 * green + 65536 * blue) in used:
        red, green, blue = (red + 23) % 256, (green + 11) % 256, (blue + 17) % 256
    return coco_id


def _id_to_rgb(ids: np.ndarray) -> np.ndarray:
    """(H, W) ids -> (H, W, 3) uint8, least significant byte first."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def encode_instances(ids: np.ndarray, segments_info: list[dict]) -> list[dict]:
    """COCO's instance annotations (without id and image id) of the things in a panoptic map."""
    annotations = []
    for segment in segments_info:
        if segment["category_id"] not in _THING_IDS:
            continue
        mask = np.asfortranarray(ids == segment["id"], dtype=np.uint8)
        rle = mask_util.encode(mask)
        annotations.append(
            {
                "category_id": segment["category_id"],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                "area": segment["area"],
                "bbox": segment["bbox"],
                "iscrowd": segment["iscrowd"],
            }
        )
    return annotations


def encode_semantic(scene: Scene) -> np.ndarray:
    """(H, W) uint8 contiguous class ids; IGNORE_LABEL where unlabelled and on crowds."""
    labels = np.full(scene.segment_ids.shape, IGNORE_LABEL, np.uint8)
    for segment in scene.segments:
        if not segment.iscrowd:
            labels[scene.segment_ids == segment.id] = _CONTIGUOUS_IDS[segment.category_id]
    return labels
