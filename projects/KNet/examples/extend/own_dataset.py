"""A kind of data set: for each image a PNG with the number of the object in each pixel.

Tools for cells and leaves write such PNGs: 0 is background, 1 to N are objects of one class.
"""

import functools
from pathlib import Path
from typing import Dict, List

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask


def register_numbered_objects(
    name: str, image_root: str, label_root: str, class_name: str, evaluator_type: str = "coco"
) -> None:
    """Register the data set for DATASETS.TRAIN and DATASETS.TEST; PNGs are read when it is used.

    Args:
        name: of the data set.
        image_root: folder of images.
        label_root: folder with a PNG of object numbers for each image, of the same stem.
        class_name: of all objects.
        evaluator_type: what is measured, a row of knet.evaluation.EVALUATOR_BUILDERS.
    """
    load = functools.partial(load_numbered_objects, image_root, label_root)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(thing_classes=[class_name], evaluator_type=evaluator_type)


def load_numbered_objects(image_root: str, label_root: str) -> List[Dict]:
    """Detectron2's list of dicts, one an image; masks as COCO's RLE."""
    images = sorted(path for path in Path(image_root).iterdir() if path.is_file())
    dicts = []
    for image_id, path in enumerate(images, start=1):
        numbers = np.asarray(Image.open(Path(label_root) / f"{path.stem}.png"))
        dicts.append(
            {
                "file_name": str(path),
                "image_id": image_id,
                "height": numbers.shape[0],
                "width": numbers.shape[1],
                "annotations": [annotation(numbers == n) for n in np.unique(numbers[numbers > 0])],
            }
        )
    return dicts


def annotation(mask: np.ndarray) -> Dict:
    """One object of the class 0.

    Args:
        mask: (H, W) bool.
    """
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "category_id": 0,
        "segmentation": rle,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "iscrowd": 0,
    }
