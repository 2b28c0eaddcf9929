"""Ground truth of one image, in each form that a data set may have it: read, checked, augmented.

Every form offers the same two methods: ``label_map`` for augmentations that look at the labels,
and ``targets`` for the model. Class ids stay the contiguous ids of the data set's metadata.
"""

from typing import Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from detectron2.structures.masks import polygons_to_bitmask

from ..errors import DatasetError, Tell, refuse
from .image_reading import read_image
from .objects import has_mask, why_left_out
from .orientation import why_turned
from .panoptic_rows import classes_of_rows, label_index, segment_rows, split_rows, transformable
from .polygons import check_polygons
from .run_lengths import decode_rle

__all__ = [
    "InstanceTruth",
    "PanopticTruth",
    "SemanticTruth",
    "check_labels",
    "check_truth_size",
    "decode_mask",
    "is_annotated",
    "read_ground_truth",
    "read_label_map",
    "read_panoptic_rows",
]

# The dataset dict's keys of ground truth; the mapper takes them out.
GROUND_TRUTH_KEYS = ("pan_seg_file_name", "segments_info", "annotations", "sem_seg_file_name")


class PanopticTruth:
    """A panoptic PNG: thing masks and a label map."""

    def __init__(self, rows: np.ndarray, segments: List[Dict], ignore_label: int):
        """
        Args:
            rows: (H, W) of :func:`segment_rows`.
            segments: ``segments_info`` with contiguous ``category_id``, ``isthing``, ``iscrowd``.
            ignore_label: label of unlabelled and of crowd pixels.
        """
        self.rows = transformable(rows)
        self.segments = segments
        self.ignore_label = ignore_label

    def label_map(self) -> np.ndarray:
        """(H, W) contiguous class of each pixel, or the ignore label."""
        return transformable(
            classes_of_rows(self.segments, self.ignore_label)[label_index(self.rows)]
        )

    def targets(self, transforms: T.TransformList, image_size: Tuple[int, int]) -> Dict:
        """``instances`` and ``sem_seg`` of the augmented image."""
        rows = transforms.apply_segmentation(self.rows)
        masks, classes, sem_seg = split_rows(rows, self.segments, self.ignore_label)
        return {
            "instances": _instances(masks, classes, image_size),
            "sem_seg": torch.from_numpy(sem_seg),
        }


class InstanceTruth:
    """COCO's instance annotations: a mask per object; masks may overlap."""

    def __init__(
        self,
        masks: Sequence[np.ndarray],
        classes: Sequence[int],
        size: Tuple[int, int],
        ignore_label: int,
    ):
        """
        Args:
            masks: one (H, W) uint8, 0 or 1, per object.
            classes: the objects' contiguous class ids.
            size: (H, W).
            ignore_label: of pixels without object, in :meth:`label_map`.
        """
        self.masks, self.classes = masks, classes
        self.size, self.ignore_label = size, ignore_label

    def label_map(self) -> np.ndarray:
        """(H, W) contiguous class of the last object on each pixel, or the ignore label."""
        labels = np.full(self.size, self.ignore_label, np.int64)
        for mask, class_id in zip(self.masks, self.classes):
            labels[mask > 0] = class_id
        return transformable(labels)

    def targets(self, transforms: T.TransformList, image_size: Tuple[int, int]) -> Dict:
        """``instances`` of the augmented image; no ``sem_seg``."""
        masks = np.zeros((len(self.masks), *image_size), bool)
        for row, mask in zip(masks, self.masks):
            row[:] = transforms.apply_segmentation(mask)
        left = masks.any(axis=(1, 2))
        classes = np.array(self.classes, dtype=np.int64)
        return {"instances": _instances(masks[left], classes[left], image_size)}


class SemanticTruth:
    """A label map: a class for every pixel."""

    def __init__(self, labels: np.ndarray):
        """
        Args:
            labels: (H, W) integer contiguous class ids and ignore labels.
        """
        self.labels = transformable(labels)

    def label_map(self) -> np.ndarray:
        """(H, W), as it was read."""
        return self.labels

    def targets(self, transforms: T.TransformList, image_size: Tuple[int, int]) -> Dict:
        """``sem_seg`` of the augmented image; no ``instances``."""
        labels = transforms.apply_segmentation(self.labels)
        return {"sem_seg": torch.from_numpy(labels.astype(np.int64))}


# ---------------------------------------------------------------------------------------- reading


def is_annotated(dataset_dict: Dict) -> bool:
    """Does an image have ground truth of some kind?

    An image of an instance data set that has no object looks as if it had none: ask of all images
    whether any has.
    """
    keys = ("pan_seg_file_name", "annotations", "sem_seg_file_name")
    return any(dataset_dict.get(key) for key in keys)


def read_ground_truth(
    dataset_dict: Dict, mask_on: bool, ignore_label: int, num_classes: Optional[int] = None
) -> Union[PanopticTruth, InstanceTruth, SemanticTruth]:
    """Read the ground truth that a dataset dict names, as the model needs it.

    Args:
        dataset_dict: ``file_name``, ``height``, ``width`` and ``pan_seg_file_name`` with
            ``segments_info``, or ``annotations``, or ``sem_seg_file_name``.
        mask_on: the model learns from thing masks, else from label maps alone.
        ignore_label: label of pixels without class.
        num_classes: of label maps; any id where it is None.

    Raises:
        DatasetError: the dict has nothing that the model could learn from, or a file or an
            annotation is not as it should be.
    """
    name = dataset_dict["file_name"]
    if not mask_on and "sem_seg_file_name" in dataset_dict:  # made for it, where there is a PNG too
        label_name = dataset_dict["sem_seg_file_name"]
        labels = read_label_map(label_name)
        check_truth_size(labels, dataset_dict, f"the label map {label_name}")
    elif "pan_seg_file_name" in dataset_dict:
        rows, segments = read_panoptic_rows(dataset_dict), dataset_dict["segments_info"]
        if mask_on:
            return PanopticTruth(rows, segments, ignore_label)
        labels = classes_of_rows(segments, ignore_label)[rows]
        label_name = dataset_dict["pan_seg_file_name"]
    elif mask_on:
        if "annotations" not in dataset_dict:
            raise DatasetError(
                f"{name} has no masks to learn from (neither pan_seg_file_name nor annotations): "
                "choose a panoptic or an instance data set in DATASETS.TRAIN"
            )
        return _read_instances(dataset_dict, ignore_label)
    else:
        raise DatasetError(
            f"{name} has no label map to learn from (neither sem_seg_file_name nor "
            "pan_seg_file_name): choose a semantic or a panoptic data set in DATASETS.TRAIN"
        )
    check_labels(labels, num_classes, ignore_label, label_name)
    return SemanticTruth(labels)


def read_panoptic_rows(dataset_dict: Dict) -> np.ndarray:
    """(H, W) :func:`segment_rows` of a panoptic PNG of the image's size, all its ids listed.

    Raises:
        DatasetError: it is not as it should be.
    """
    png_name = dataset_dict["pan_seg_file_name"]
    png = read_image(png_name, "RGB")
    check_truth_size(png, dataset_dict, f"the panoptic PNG {png_name}")
    return segment_rows(png, dataset_dict["segments_info"], png_name)[0]


def check_truth_size(labels: np.ndarray, dataset_dict: Dict, what: str) -> None:
    """
    Args:
        labels: (H, W, ...) of a file.
        dataset_dict: of its image.
        what: the file is, for the sentence.

    Raises:
        DatasetError: the image is of another size.
    """
    size = (dataset_dict["height"], dataset_dict["width"])
    if labels.shape[:2] != size:
        raise DatasetError(
            f"{what} is {labels.shape[1]} x {labels.shape[0]}, its image "
            f"{dataset_dict['file_name']} is {size[1]} x {size[0]}"
            + why_turned(dataset_dict["file_name"])
        )


def read_label_map(name: str, tell: Tell = refuse) -> np.ndarray:
    """(H, W) of 8 or 16 bit; of a palette image the indices, whatever their colours.

    Args:
        name: of its file.
        tell: told if it has several channels, which are returned then.

    Raises:
        DatasetError: it cannot be read.
    """
    labels = read_image(name, None)
    if labels.ndim != 2:
        tell(
            "label channels",
            f"the label map {name} has {labels.shape[2]} channels: it needs one, the class id of "
            "each pixel",
        )
    return labels


def check_labels(
    labels: np.ndarray,
    num_classes: Optional[int],
    ignore_label: int,
    name: str,
    tell: Tell = refuse,
) -> None:
    """
    Args:
        labels: (H, W).
        num_classes: any id is right where it is None.
        ignore_label: of pixels without class.
        name: of the file.
        tell: told if a label is no class, nor the ignore label.
    """
    if num_classes is None:
        return
    wrong = (labels >= num_classes) & (labels != ignore_label)
    if labels.dtype.kind == "i":
        wrong |= (labels < 0) & (labels != ignore_label)
    if wrong.any():
        one_more = (labels[wrong] == num_classes).all()
        cause = "; ids count from 0: subtract 1 if yours start at 1" if one_more else ""
        tell(
            "label",
            f"{name} has the class id {labels[wrong][0]}, the data set has the {num_classes} "
            f"classes 0 to {num_classes - 1} and {ignore_label} for pixels without class{cause}",
        )


def _read_instances(dataset_dict: Dict, ignore_label: int) -> InstanceTruth:
    """The objects that are learned from, at the image's original size."""
    size = (dataset_dict["height"], dataset_dict["width"])
    masks, classes = [], []
    for annotation in dataset_dict["annotations"]:
        segmentation = annotation.get("segmentation")
        if annotation.get("iscrowd", 0) or not has_mask(segmentation):
            continue
        mask = decode_mask(segmentation, size, dataset_dict["file_name"])
        if why_left_out(annotation, size) is None:
            masks.append(mask)
            classes.append(annotation["category_id"])
    return InstanceTruth(masks, classes, size, ignore_label)


def decode_mask(segmentation, size: Tuple[int, int], name: str) -> np.ndarray:
    """Polygons, RLE (compressed or not) or a bitmap -> (H, W) uint8, 0 or 1.

    Args:
        segmentation: of an annotation.
        size: (H, W) of the image.
        name: of its file.

    Raises:
        DatasetError: it is none of these, of another size, or cannot be drawn.
    """
    try:
        if isinstance(segmentation, dict):
            _check_mask_size(tuple(segmentation["size"]), size, name)  # before it takes memory
            mask = decode_rle(segmentation)
        elif isinstance(segmentation, np.ndarray):
            mask = (segmentation > 0).astype(np.uint8)
        else:
            mask = _decode_polygons(segmentation, size)
    except DatasetError:
        raise
    except Exception as error:  # pycocotools raises many kinds, plain Exception too
        raise DatasetError(
            f"the image {name} has an object whose 'segmentation' cannot be used: {error}"
        ) from error
    _check_mask_size(mask.shape, size, name)
    return mask


def _check_mask_size(shape: Tuple[int, ...], size: Tuple[int, int], name: str) -> None:
    if shape != tuple(size):
        raise DatasetError(
            f"the image {name} is {size[1]} x {size[0]}, but has an object whose mask is "
            f"{' x '.join(str(side) for side in shape[::-1])}" + why_turned(name)
        )


def _decode_polygons(polygons, size: Tuple[int, int]) -> np.ndarray:
    if not polygons:
        raise ValueError("it has neither polygons nor RLE")
    points = [np.asarray(polygon, dtype=np.float64) for polygon in polygons]
    for polygon in points:
        if polygon.ndim != 1 or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"a polygon needs x and y of 3 points and more, one has {polygon.size} numbers"
            )
    check_polygons(points, size)
    return polygons_to_bitmask(points, *size).astype(np.uint8)


# --------------------------------------------------------------------------------------- decoding


def _instances(masks: np.ndarray, classes: np.ndarray, image_size: Tuple[int, int]) -> Instances:
    """(T, H, W) bool masks and (T,) int64 classes as the model's training input."""
    instances = Instances(image_size)
    instances.gt_classes = torch.from_numpy(classes)
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return instances
