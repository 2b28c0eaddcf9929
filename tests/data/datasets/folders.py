"""Small instance and semantic data sets that a test writes, and may spoil, by hand."""

import copy
import json
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util


def noise(size: Tuple[int, int], seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def rle(mask: np.ndarray) -> Dict:
    """(H, W) 0 or 1 -> COCO's compressed RLE, as it stands in a json."""
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def box(top: int, left: int, height: int, width: int) -> List[List[float]]:
    """The polygons of a rectangle."""
    bottom, right = top + height, left + width
    return [[float(v) for v in (left, top, right, top, right, bottom, left, bottom)]]


class InstanceFolder:
    """A data set in COCO's instance format, without ``info``; category ids do not rise."""

    CATEGORIES = ({"id": 9, "name": "cup"}, {"id": 4, "name": "plate"})
    CUP, PLATE = 9, 4  # contiguous: plate 0, cup 1

    def __init__(self, root: Path, name: str = "dishes"):
        self.name = name
        self.images = root / f"{name}_images"
        self.json_file = root / f"{name}.json"
        self.content = {
            "images": [],
            "annotations": [],
            "categories": copy.deepcopy(list(self.CATEGORIES)),
        }

    def add(self, objects: Sequence[Dict] = (), size: Tuple[int, int] = (40, 64)) -> None:
        """Write one image of noise; ``objects`` have category_id, segmentation and more."""
        image_id = len(self.content["images"]) + 1
        self.images.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(size, image_id)).save(self.images / f"{image_id:03d}.png")
        self.content["images"].append(
            {
                "id": image_id,
                "file_name": f"{image_id:03d}.png",
                "height": size[0],
                "width": size[1],
            }
        )
        for thing in objects:
            number = len(self.content["annotations"]) + 1
            self.content["annotations"].append(
                {"id": number, "image_id": image_id, "iscrowd": 0, **thing}
            )

    def add_ordinary(self) -> None:
        """A cup as a polygon, a plate as RLE."""
        mask = np.zeros((40, 64))
        mask[25:38, 44:60] = 1
        self.add(
            [
                {
                    "category_id": self.CUP,
                    "bbox": [5, 10, 15, 10],
                    "segmentation": box(10, 5, 10, 15),
                },
                {"category_id": self.PLATE, "bbox": [44, 25, 16, 13], "segmentation": rle(mask)},
            ]
        )

    def write(self) -> "InstanceFolder":
        """Write the json as ``self.content`` is now."""
        self.json_file.write_text(json.dumps(self.content))
        return self

    def entry(self, **changes) -> Dict:
        """For DATASETS.CUSTOM."""
        return {
            "NAME": self.name,
            "IMAGE_ROOT": str(self.images),
            "INSTANCES_JSON": str(self.json_file),
            **changes,
        }


class SemanticFolder:
    """Images and label maps of three classes in two folders."""

    CLASSES = ("wall", "cup", "plate")

    def __init__(self, root: Path, name: str = "shelf"):
        self.name = name
        self.images, self.labels = root / f"{name}_images", root / f"{name}_labels"

    def add(self, stem: str, labels: np.ndarray, ending: str = ".jpg") -> None:
        """Write an image of noise and its label map (H, W)."""
        for folder, pixels, name in (
            (self.images, noise(labels.shape[:2]), stem + ending),
            (self.labels, labels, f"{stem}.png"),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)

    def add_ordinary(self, count: int = 2) -> None:
        """Images with every class and unlabelled pixels."""
        labels = np.zeros((40, 64), np.uint8)
        labels[10:20, 5:20], labels[25:38, 44:60], labels[:4] = 1, 2, 255
        for index in range(count):
            self.add(f"{index:03d}", labels)

    def entry(self, **changes) -> Dict:
        """For DATASETS.CUSTOM."""
        return {
            "NAME": self.name,
            "IMAGE_ROOT": str(self.images),
            "LABEL_ROOT": str(self.labels),
            "CLASSES": list(self.CLASSES),
            **changes,
        }
