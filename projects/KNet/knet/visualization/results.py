"""What an evaluation has left of each kind of result, and the ground truth to draw beside it.

Dataset dicts have the image's ``height`` and ``width`` here, whether or not their data set says so.
"""

import json
import os
from collections import defaultdict
from functools import cached_property
from typing import Any, Dict, List, Optional, Tuple, Type

from pycocotools import mask as mask_util

from ..data.class_layout import IGNORE_LABEL
from ..data.ground_truth import read_ground_truth, read_panoptic_rows
from ..errors import DatasetError, UsageError
from ..evaluation.classes import pixel_classes, thing_ids
from ..evaluation.coco_truth import objects_of
from .segmentation import Segmentation

__all__ = ["KINDS", "RESULTS", "Results", "find_results"]

ADVICE = "give the folder OUTPUT_DIR/inference/<data set> of an evaluation"


class Results:
    """One kind of result of an evaluation, by image.

    Attributes:
        FILE: the json that holds it.
        IMAGE_KEY: what names the image, there and in a dataset dict.
        TRUTH_KEYS: the keys of a dataset dict, one of which its ground truth needs.
    """

    FILE: str
    IMAGE_KEY = "image_id"
    TRUTH_KEYS: Tuple[str, ...]

    def __init__(self, folder: str, metadata, score_threshold: float = 0.0):
        """
        Args:
            folder: of the evaluation.
            metadata: of the data set that was evaluated.
            score_threshold: instances below it (0..1) are left out.

        Raises:
            UsageError: the json is not of this kind.
        """
        self.folder, self.path = folder, os.path.join(folder, self.FILE)
        self.metadata = metadata
        self.score_threshold = score_threshold
        try:
            with open(self.path, encoding="utf-8") as f:
                self.by_image = self._by_image(json.load(f))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{self.path} is no json of predictions: {ADVICE}") from error

    def __contains__(self, dataset_dict: Dict) -> bool:
        return dataset_dict.get(self.IMAGE_KEY) in self.by_image

    def truth(self, dataset_dict: Dict) -> Segmentation:
        """The ground truth of an image.

        Raises:
            DatasetError: it cannot be read.
        """
        raise NotImplementedError

    def prediction(self, dataset_dict: Dict) -> Segmentation:
        """What was predicted for an image.

        Raises:
            UsageError: a category that the data set does not have.
            DatasetError: it cannot be read, or is not of the image's size.
        """
        raise NotImplementedError

    def _by_image(self, content) -> Dict:
        """The json's content, by the image's key; each a list of entries with ``segmentation``."""
        by_image: Dict[Any, List[Dict]] = defaultdict(list)
        for entry in content:
            kept = by_image[entry[self.IMAGE_KEY]]  # an image where all is weak is there too
            if entry.get("score", 1.0) >= self.score_threshold and "segmentation" in entry:
                kept.append(entry)
        return by_image

    def _contiguous_id(self, entry: Dict, ids: Dict[int, int], path: str) -> int:
        if entry["category_id"] not in ids:
            raise UsageError(
                f"the prediction {path} has the category {entry['category_id']}, which the data "
                f"set '{self.metadata.name}' does not: give the data set that it was made on"
            )
        return ids[entry["category_id"]]

    def _decode(self, entries: List[Dict], segments: List[Dict], d: Dict) -> Segmentation:
        """The entries' RLE masks."""
        size = (d["height"], d["width"])
        for entry in entries:
            height, width = entry["segmentation"]["size"]
            if (height, width) != size:
                raise DatasetError(
                    f"{self.path} has a mask of {width} x {height} for {d['file_name']}, which is "
                    f"{size[1]} x {size[0]}: give predictions of this data set"
                )
        masks = [mask_util.decode(entry["segmentation"]) for entry in entries]
        return Segmentation.from_masks(masks, segments, size)


class PanopticResults(Results):
    """``predictions.json`` and ``predictions/*.png``, which no score threshold changes."""

    FILE = "predictions.json"
    TRUTH_KEYS = ("pan_seg_file_name",)

    def _by_image(self, content) -> Dict:
        return {annotation["image_id"]: annotation for annotation in content["annotations"]}

    def truth(self, dataset_dict: Dict) -> Segmentation:
        rows, segments = read_panoptic_rows(dataset_dict), dataset_dict["segments_info"]
        masks = [rows == i for i in range(1, len(segments) + 1)]
        return Segmentation.from_masks(masks, segments, rows.shape)

    def prediction(self, dataset_dict: Dict) -> Segmentation:
        annotation = self.by_image[dataset_dict["image_id"]]
        png = os.path.join(self.folder, "predictions", annotation["file_name"])
        things = thing_ids(self.metadata)
        ids = {**(self.metadata.get("stuff_dataset_id_to_contiguous_id") or {}), **things}
        segments = [
            {
                **segment,
                "category_id": self._contiguous_id(segment, ids, png),
                "isthing": segment["category_id"] in things,
            }
            for segment in annotation["segments_info"]
        ]
        return self.truth({**dataset_dict, "pan_seg_file_name": png, "segments_info": segments})


class InstanceResults(Results):
    """``coco_instances_results.json``: objects with scores, which may overlap."""

    FILE = "coco_instances_results.json"
    TRUTH_KEYS = ("pan_seg_file_name", "annotations")

    def truth(self, dataset_dict: Dict) -> Segmentation:
        objects = list(objects_of(dataset_dict))
        return Segmentation.from_masks(
            [mask for _, mask in objects],
            [{**source, "isthing": True} for source, _ in objects],
            (dataset_dict["height"], dataset_dict["width"]),
        )

    def prediction(self, dataset_dict: Dict) -> Segmentation:
        entries = sorted(self.by_image[dataset_dict["image_id"]], key=lambda e: -e["score"])
        ids = thing_ids(self.metadata)
        segments = [
            {
                "category_id": self._contiguous_id(entry, ids, self.path),
                "isthing": True,
                "score": entry["score"],
            }
            for entry in entries
        ]
        return self._decode(entries, segments, dataset_dict)


class SemanticResults(Results):
    """``sem_seg_predictions.json``: the pixels of each class."""

    FILE = "sem_seg_predictions.json"
    IMAGE_KEY = "file_name"
    TRUTH_KEYS = ("pan_seg_file_name", "sem_seg_file_name")

    def __contains__(self, dataset_dict: Dict) -> bool:
        return self._path(dataset_dict) in self.by_image

    def _path(self, dataset_dict: Dict) -> str:
        """Of an image as the json has it: elsewhere its data may have been in another folder."""
        path = dataset_dict["file_name"]
        if path in self.by_image:
            return path
        same = self._paths[os.path.basename(path)]
        return same[0] if len(same) == 1 else path

    @cached_property
    def _paths(self) -> Dict[str, List[str]]:
        paths = defaultdict(list)
        for path in self.by_image:
            paths[os.path.basename(path)].append(path)
        return paths

    def truth(self, dataset_dict: Dict) -> Segmentation:
        is_panoptic = "pan_seg_file_name" in dataset_dict
        ids = [c.id for c in pixel_classes(self.metadata, is_panoptic)]
        ignored = self.metadata.get("ignore_label", IGNORE_LABEL)
        if is_panoptic:  # any label that is no class
            ignored = max(ids, default=-1) + 1
        labels = read_ground_truth(dataset_dict, mask_on=False, ignore_label=ignored).labels
        ids = [i for i in ids if i != ignored and (labels == i).any()]
        masks, segments = [labels == i for i in ids], [self._segment(i) for i in ids]
        return Segmentation.from_masks(masks, segments, labels.shape)

    def prediction(self, dataset_dict: Dict) -> Segmentation:
        entries = self.by_image[self._path(dataset_dict)]
        classes = pixel_classes(self.metadata, "pan_seg_file_name" in dataset_dict)
        ids = {c.dataset_id: c.id for c in classes}
        segments = [self._segment(self._contiguous_id(e, ids, self.path)) for e in entries]
        return self._decode(entries, segments, dataset_dict)

    def _segment(self, contiguous_id: int) -> Dict:
        things = self.metadata.get("thing_dataset_id_to_contiguous_id") or {}
        return {"category_id": contiguous_id, "isthing": contiguous_id in things.values()}


# Of a folder that holds several kinds the first is drawn
RESULTS: Dict[str, Type[Results]] = {
    "panoptic": PanopticResults,
    "instance": InstanceResults,
    "semantic": SemanticResults,
}
KINDS = tuple(RESULTS)


def find_results(folder: str, kind: Optional[str] = None) -> str:
    """The kind of result that an evaluation's folder holds.

    Args:
        folder: ``OUTPUT_DIR/inference/<data set>``.
        kind: the one wanted, where it may hold several.

    Returns:
        a key of ``RESULTS``.

    Raises:
        UsageError: there is none, or not the one wanted.
    """
    wanted = [kind] if kind else list(RESULTS)
    for found in wanted:
        if os.path.isfile(os.path.join(folder, RESULTS[found].FILE)):
            return found
    files = " or ".join(RESULTS[each].FILE for each in wanted)
    raise UsageError(f"{folder} holds no {files}: {ADVICE}")
