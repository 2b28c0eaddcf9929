"""Images as the training's mapper hands them to the model: augmented, with what is learned of them.

Shape shorthand: T things of one image, H x W its augmented size in pixels.
"""

import logging
import os
from typing import Dict, List, Tuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.env import seed_all_rng
from PIL import Image

from ..data.class_layout import resolve_model_classes, resolve_semantic_classes
from ..data.classes import classes_metadata
from ..data.dataset_mapper import KNetDatasetMapper
from ..data.image_reading import RAW, to_rgb
from ..data.random_state import keep_random_state
from ..data.training_images import load_training_sets
from ..errors import DatasetError
from ..files import output_names
from .colors import class_colors, object_colors
from .pictures import side_by_side
from .segmentation import Segmentation

__all__ = ["draw_training_samples", "sample_files"]

logger = logging.getLogger(__name__)


def sample_files(dicts: List[Dict]) -> List[str]:
    """The names, below the folder, of the pictures of these images."""
    return output_names([d["file_name"] for d in dicts], ".png")


def draw_training_samples(cfg, number: int, folder: str) -> List[str]:
    """Draw images of ``DATASETS.TRAIN``, evenly spread, beside what the model would learn of them.

    The augmentations are those of the config, by the same random numbers each time.

    Args:
        cfg: the config.
        number: how many.
        folder: for the pictures; it is made.

    Returns:
        the files written.

    Raises:
        UsageError, DatasetError: the data sets cannot be loaded.
    """
    dicts = [d for _, images in load_training_sets(cfg) for d in images]
    places = np.linspace(0, len(dicts) - 1, min(number, len(dicts))).round().astype(int)
    dicts = [dicts[i] for i in places]
    mapper = KNetDatasetMapper(cfg, is_train=True)
    metadata = classes_metadata(resolve_model_classes(cfg))
    if not cfg.MODEL.MASK_ON:
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    os.makedirs(folder, exist_ok=True)
    files = []
    with keep_random_state():
        seed_all_rng(0)
        for d, name in zip(dicts, sample_files(dicts)):
            try:
                sample = mapper(d)
            except DatasetError as error:
                logger.warning("no picture of %s: %s", d["file_name"], error)
                continue
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Image.fromarray(_draw(sample, cfg, metadata)).save(path)
            files.append(path)
    return files


def _draw(sample: Dict, cfg, metadata) -> np.ndarray:
    image = sample["image"].permute(1, 2, 0)
    if cfg.INPUT.FORMAT == RAW:
        image = to_rgb(image.numpy())
    else:
        image = convert_image_to_rgb(image, cfg.INPUT.FORMAT)
    size = image.shape[:2]
    masks, segments = _things(sample)
    if "sem_seg" in sample:
        things = {s["category_id"] for s in segments}
        ignore_label = 255 if cfg.MODEL.MASK_ON else resolve_semantic_classes(cfg).ignore_label
        labels = sample["sem_seg"].numpy()
        for label in np.unique(labels).tolist():
            if label != ignore_label and label not in things:
                masks.append(labels == label)
                segments.append({"category_id": label, "isthing": False})
    truth = Segmentation.from_masks(masks, segments, size)
    colors = class_colors if not cfg.MODEL.MASK_ON else object_colors
    stem = os.path.splitext(os.path.basename(sample["file_name"]))[0]
    number = f"{len(sample['instances'])} objects" if "instances" in sample else "label map"
    captions = (f"{stem}, {size[1]} x {size[0]}", f"learned: {number}")
    return side_by_side(image, [truth], [colors(truth, metadata)], captions, metadata)


def _things(sample: Dict) -> Tuple[List[np.ndarray], List[Dict]]:
    """T masks (H, W) bool, and what they are."""
    if "instances" not in sample:
        return [], []
    instances = sample["instances"]
    segments = [{"category_id": i, "isthing": True} for i in instances.gt_classes.tolist()]
    return list(instances.gt_masks.tensor.numpy()), segments
