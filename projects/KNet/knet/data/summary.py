"""What a training will learn from, counted before its first iteration; what cannot teach is told.

Instances and panoptic segments are counted from the json, label maps from a bounded number of
files.
"""

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import DatasetError
from .ground_truth import check_labels, read_label_map
from .objects import CROWD, why_left_out
from .polygons import are_near_numbers, check_polygons

__all__ = ["MAX_LABEL_MAPS", "ObjectCounts", "PixelCounts", "count_objects", "count_pixels"]

MAX_LABEL_MAPS = 200  # that are read to count pixels, evenly spread


@dataclass
class ObjectCounts:
    """Objects (things) of the training images, and segments of stuff.

    Attributes:
        images: their number.
        there: objects, used or not.
        of_class: {contiguous id: objects or stuff segments that are used}.
        images_of_class: {contiguous id: images with such a one}.
        an_image: objects used of each image.
        left_out: {kind of reason: (objects, file name of the first)}.
        most: the file name of the image with the most objects.
    """

    images: int = 0
    there: int = 0
    of_class: Counter = field(default_factory=Counter)
    images_of_class: Counter = field(default_factory=Counter)
    an_image: List[int] = field(default_factory=list)
    left_out: Dict[str, Tuple[int, str]] = field(default_factory=dict)
    most: str = ""

    @property
    def used(self) -> int:
        return sum(self.an_image)

    def median(self) -> float:
        """Objects of an image."""
        return statistics.median(self.an_image)

    def above(self, count: int) -> int:
        """Images with more objects than this."""
        return sum(number > count for number in self.an_image)

    def leave_out(self, reason: str, file_name: str) -> None:
        count, first = self.left_out.get(reason, (0, file_name))
        self.left_out[reason] = (count + 1, first)


@dataclass
class PixelCounts:
    """Pixels of label maps.

    Attributes:
        images: the training images.
        read: of how many the label map was read.
        of_class: {contiguous id: pixels}.
        images_of_class: {contiguous id: label maps with such a pixel}.
        ignored: pixels without class.
    """

    images: int = 0
    read: int = 0
    of_class: Counter = field(default_factory=Counter)
    images_of_class: Counter = field(default_factory=Counter)
    ignored: int = 0

    @property
    def pixels(self) -> int:
        return self.ignored + sum(self.of_class.values())


def count_objects(dicts: Sequence[Dict], class_ids: Sequence[int]) -> ObjectCounts:
    """
    Args:
        dicts: the images trained on, with ``annotations`` or ``segments_info``.
        class_ids: contiguous ids that the model knows; others are not counted.

    Raises:
        DatasetError: a polygon cannot be drawn.
    """
    counts, known, most = ObjectCounts(images=len(dicts)), set(class_ids), 0
    for d in dicts:
        classes, used = [], 0
        for entry in _entries(d):
            if entry["category_id"] not in known:
                continue
            is_thing = entry.get("isthing", True)
            reason = _reason(entry, d)
            counts.there += is_thing
            if reason is None:
                classes.append(entry["category_id"])
                used += is_thing
            elif is_thing:
                counts.leave_out(reason, d["file_name"])
        counts.of_class.update(classes)
        counts.images_of_class.update(set(classes))
        if used > most:
            most, counts.most = used, d["file_name"]
        counts.an_image.append(used)
    return counts


def count_pixels(
    dicts: Sequence[Dict],
    num_classes: int,
    ignore_label: int,
    max_label_maps: int = MAX_LABEL_MAPS,
) -> PixelCounts:
    """Read label maps, at most so many, evenly spread over the images.

    Args:
        dicts: the images trained on, with ``sem_seg_file_name``.
        num_classes: of the model.
        ignore_label: of pixels without class.

    Raises:
        DatasetError: a label map cannot be read, or has an id that is no class.
    """
    some = dicts
    if len(dicts) > max_label_maps:
        places = np.linspace(0, len(dicts) - 1, max_label_maps).round().astype(int)
        some = [dicts[i] for i in places]
    counts = PixelCounts(images=len(dicts), read=len(some))
    for d in some:
        labels = read_label_map(d["sem_seg_file_name"])
        check_labels(labels, num_classes, ignore_label, d["sem_seg_file_name"])
        values, pixels = np.unique(labels, return_counts=True)
        for value, number in zip(values.tolist(), pixels.tolist()):
            if value == ignore_label:
                counts.ignored += number
            else:
                counts.of_class[value] += number
                counts.images_of_class[value] += 1
    return counts


def _entries(dataset_dict: Dict) -> List[Dict]:
    if "pan_seg_file_name" in dataset_dict:
        return dataset_dict["segments_info"]
    return dataset_dict.get("annotations", [])


def _reason(entry: Dict, dataset_dict: Dict) -> Optional[str]:
    """Why it is not learned from; None: it is.

    Raises:
        DatasetError: its polygons cannot be drawn.
    """
    if "pan_seg_file_name" in dataset_dict:  # the pixels are in the PNG
        return CROWD if entry.get("iscrowd", 0) else None
    size = (dataset_dict.get("height"), dataset_dict.get("width"))
    segmentation = entry.get("segmentation")
    try:
        if isinstance(segmentation, (list, tuple)) and not are_near_numbers(segmentation, size):
            check_polygons(segmentation, size)
        return why_left_out(entry, size)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"the image {dataset_dict['file_name']} has an object whose 'segmentation' "
            f"{' '.join(str(error).split())}"
        ) from error
