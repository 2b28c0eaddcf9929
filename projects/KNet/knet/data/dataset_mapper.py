"""The project's dataset mapper: one data set dict -> one model input."""

import copy
import inspect
import logging
from typing import Dict, List, Optional, Sequence

import cv2
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from torch.utils.data import get_worker_info

from ..errors import DatasetError
from .class_layout import IGNORE_LABEL, resolve_semantic_classes
from .ground_truth import GROUND_TRUTH_KEYS, read_ground_truth
from .image_reading import SCALED, ImageReader
from .orientation import why_turned
from .panoptic_rows import decode_panoptic, segment_rows
from .transforms import build_augmentations

__all__ = ["KNetDatasetMapper", "decode_panoptic", "segment_rows"]

logger = logging.getLogger(__name__)

MODELS_OF_BOXES = ("GeneralizedRCNN", "PanopticFPNOfOneRange")  # that are compared with


class KNetDatasetMapper:
    """Reads the image and its ground truth of whatever kind once and augments both.

    Class ids stay the contiguous ids of the data set's metadata.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: List[T.Augmentation],
        image_format: str = "RGB",
        value_range: Sequence[float] = (),
        upright: bool = True,
        mask_on: bool = True,
        boxes_on: bool = False,
        ignore_label: int = IGNORE_LABEL,
        num_classes: Optional[int] = None,
    ):
        """
        Args:
            is_train: give ground truth too.
            augmentations: Detectron2 augmentations, applied to image and ground truth alike.
            image_format, value_range, upright: see
                :class:`knet.data.image_reading.ImageReader`.
            mask_on: the model learns from thing masks; else from label maps alone, and no mask
                is made.
            boxes_on: give the boxes of the masks too, for models other than K-Net.
            ignore_label: label of pixels without class, in label maps and in ``sem_seg``.
            num_classes: without masks: label maps must have no id beyond; None: any.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.reader = ImageReader(image_format, tuple(value_range), upright)
        self.mask_on = mask_on
        self.boxes_on = boxes_on
        self.ignore_label = ignore_label
        self.num_classes = num_classes
        self.shows_labels = any(_may_ask_for_labels(a) for a in self.augmentations.augs)
        mode = "training" if is_train else "inference"
        logger.info("Augmentations used in %s: %s", mode, augmentations)

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        arguments = {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            **vars(ImageReader.from_config(cfg)),
            "mask_on": cfg.MODEL.MASK_ON,
            "boxes_on": cfg.MODEL.META_ARCHITECTURE in MODELS_OF_BOXES,
        }
        if not cfg.MODEL.MASK_ON:
            classes = resolve_semantic_classes(cfg)
            arguments["ignore_label"] = classes.ignore_label
            arguments["num_classes"] = classes.num_classes
        return arguments

    def __call__(self, dataset_dict: Dict) -> Dict:
        """
        Args:
            dataset_dict: ``file_name`` and, in training, one of

                - ``pan_seg_file_name`` and ``segments_info`` (panoptic, see
                  :func:`knet.data.datasets.coco_panoptic.load_coco_panoptic_json`);
                - ``annotations`` (instances: ``category_id``, ``segmentation`` as polygons, RLE
                  or bitmap, perhaps ``bbox`` with ``bbox_mode``, ``iscrowd``);
                - ``sem_seg_file_name`` (semantic: an image of one channel, the class ids).

                Of several the first counts that the model can learn from.

        Returns:
            a copy with ``image`` (channels, H, W) and in training, instead of these keys, with
            masks ``instances`` (``gt_classes``, ``gt_masks``; crowd and empty objects left out)
            and, from a panoptic PNG, ``sem_seg`` (H, W) int64; without masks ``sem_seg`` alone.

        Raises:
            DatasetError: a file or an annotation is missing or not as it should be.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # in a loader worker: the workers are what runs in parallel
        dataset_dict = copy.deepcopy(dataset_dict)
        augmented = T.AugInput(self._read_image(dataset_dict))
        truth = None
        if self.is_train:
            truth = read_ground_truth(
                dataset_dict, self.mask_on, self.ignore_label, self.num_classes
            )
            if self.shows_labels:
                augmented.sem_seg = truth.label_map()
        else:
            dataset_dict.pop("annotations", None)  # many, and of no use in a test
        try:
            transforms = self.augmentations(augmented)
        except DatasetError as error:
            raise DatasetError(f"the image {dataset_dict['file_name']} {error}") from error
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        dataset_dict["image"] = torch.as_tensor(image)
        if truth is not None:
            for key in GROUND_TRUTH_KEYS:
                dataset_dict.pop(key, None)
            dataset_dict.update(truth.targets(transforms, image.shape[1:]))
            if self.boxes_on and "instances" in dataset_dict:
                instances = dataset_dict["instances"]
                instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return dataset_dict

    def _read_image(self, dataset_dict: Dict) -> np.ndarray:
        """(H, W, channels); sets ``height`` and ``width`` where the data set has none."""
        name = dataset_dict["file_name"]
        image = self.reader.read(name)
        try:
            utils.check_image_size(dataset_dict, image)
        except utils.SizeMismatchError as error:
            raise DatasetError(
                f"the image {name} has another size than its json says: "
                + " ".join(str(error).split())
                + why_turned(name)
            ) from error
        if self.reader.value_range:
            dataset_dict[SCALED] = True
        return image


def _may_ask_for_labels(augmentation: T.Augmentation) -> bool:
    """Does it look at ``sem_seg``, or hand on whatever it gets to one that may?"""
    parameters = inspect.signature(augmentation.get_transform).parameters.values()
    return any(p.name == "sem_seg" or p.kind == p.VAR_POSITIONAL for p in parameters)
