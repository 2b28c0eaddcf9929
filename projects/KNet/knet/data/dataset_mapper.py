"""The project's dataset mapper: one data set dict -> one model input."""

import copy
import logging
from typing import Dict, List, Tuple

import cv2
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from torch.utils.data import get_worker_info

from ..errors import DatasetError
from .transforms import build_augmentations

__all__ = ["KNetDatasetMapper", "decode_panoptic"]

logger = logging.getLogger(__name__)


class KNetDatasetMapper:
    """Reads the image and its panoptic PNG once, augments both, makes masks and label map.

    Class ids stay the contiguous ids of the data set's metadata.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: List[T.Augmentation],
        image_format: str = "RGB",
        ignore_label: int = 255,
    ):
        """
        Args:
            is_train: give ground truth too.
            augmentations: Detectron2 augmentations, applied to image and PNG alike.
            image_format: see :func:`detectron2.data.detection_utils.read_image`.
            ignore_label: label of pixels without class, in ``sem_seg``.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.ignore_label = ignore_label
        mode = "training" if is_train else "inference"
        logger.info("Augmentations used in %s: %s", mode, augmentations)

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: Dict) -> Dict:
        """
        Args:
            dataset_dict: ``file_name`` and, in training, ``pan_seg_file_name`` and
                ``segments_info`` (see :func:`knet.data.coco_panoptic.load_coco_panoptic_json`).

        Returns:
            a copy with ``image`` (channels, H, W); in training ``instances`` (``gt_classes``,
            ``gt_masks``; crowd and empty objects left out) and ``sem_seg`` (H, W) int64.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # in a loader worker: the workers are what runs in parallel
        dataset_dict = copy.deepcopy(dataset_dict)
        image = self._read_image(dataset_dict)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        image = augmented.image
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if not self.is_train:
            if "pan_seg_file_name" in dataset_dict:  # evaluated: found here, not by COCO's tool
                self._read_png(dataset_dict)
            return dataset_dict

        if "pan_seg_file_name" not in dataset_dict:
            raise DatasetError(
                f"{dataset_dict['file_name']} has no panoptic PNG (pan_seg_file_name): choose a "
                "panoptic data set in DATASETS.TRAIN"
            )
        png = self._read_png(dataset_dict)
        png_name = dataset_dict.pop("pan_seg_file_name")
        segments = dataset_dict.pop("segments_info")
        # as three 8-bit channels, so that any transform of label maps can take it
        png = transforms.apply_segmentation(png)
        masks, classes, sem_seg = decode_panoptic(png, segments, self.ignore_label, png_name)
        instances = Instances(image.shape[:2])
        instances.gt_classes = torch.from_numpy(classes)
        instances.gt_masks = BitMasks(torch.from_numpy(masks))
        dataset_dict["instances"] = instances
        dataset_dict["sem_seg"] = torch.from_numpy(sem_seg)
        return dataset_dict

    @staticmethod
    def _read_png(dataset_dict: Dict) -> np.ndarray:
        """(H, W, 3) panoptic PNG, of the image's size and with no id that is not listed."""
        png_name = dataset_dict["pan_seg_file_name"]
        png = _read(png_name, "RGB")
        size = (dataset_dict["height"], dataset_dict["width"])
        if png.shape[:2] != size:
            raise DatasetError(
                f"the panoptic PNG {png_name} is {png.shape[1]} x {png.shape[0]}, its image "
                f"{dataset_dict['file_name']} is {size[1]} x {size[0]}"
            )
        segment_rows(png, dataset_dict["segments_info"], png_name)
        return png

    def _read_image(self, dataset_dict: Dict) -> np.ndarray:
        """(H, W, channels); sets ``height`` and ``width`` where the data set has none."""
        image = _read(dataset_dict["file_name"], self.image_format)
        try:
            utils.check_image_size(dataset_dict, image)
        except utils.SizeMismatchError as error:
            raise DatasetError(
                f"the image {dataset_dict['file_name']} has another size than its json says: "
                + " ".join(str(error).split())
            ) from error
        return image


def _read(file_name: str, image_format: str) -> np.ndarray:
    try:
        return utils.read_image(file_name, format=image_format)
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise DatasetError(f"cannot read the image {file_name}: {error}") from error


def segment_rows(png: np.ndarray, segments: List[Dict], name: str) -> Tuple[np.ndarray, np.ndarray]:
    """The row of each pixel in (unlabelled, *segments), and the ids of these rows."""
    ids = png.astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)
    known = np.array([0] + [s["id"] for s in segments], dtype=np.int32)  # row 0: unlabelled
    order = np.argsort(known)
    position = np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)
    row = order[position]
    wrong = known[row] != ids
    if wrong.any():
        raise DatasetError(
            f"{name} has the segment id {ids[wrong][0]}, which the json's segments_info of this "
            "image do not list"
        )
    return row, known


def decode_panoptic(
    png: np.ndarray, segments: List[Dict], ignore_label: int = 255, name: str = "the panoptic PNG"
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split a panoptic PNG into thing masks and a label map.

    Args:
        png: (H, W, 3) uint8, segment id = R + 256 G + 65536 B, 0 where unlabelled.
        segments: ``segments_info`` with contiguous ``category_id``, ``isthing``, ``iscrowd``.
        ignore_label: label of unlabelled and of crowd pixels.
        name: file name, for the error.

    Returns:
        thing masks (T, H, W) bool of things that are no crowd and have a pixel; their contiguous
        class (T,) int64; contiguous class of each pixel (H, W) int64.

    Raises:
        DatasetError: the PNG has an id that ``segments`` do not list.
    """
    row, known = segment_rows(png, segments, name)
    crowd = np.array([True] + [bool(s.get("iscrowd", 0)) for s in segments])
    category = np.array([ignore_label] + [s["category_id"] for s in segments], dtype=np.int64)
    category[crowd] = ignore_label
    is_thing = np.array([False] + [bool(s["isthing"]) for s in segments])
    present = np.bincount(row.ravel(), minlength=len(known)) > 0
    things = np.flatnonzero(is_thing & ~crowd & present)
    return row == things[:, None, None], category[things], category[row]
