"""The figures of a run: its kept predictions go through the evaluators once more.

So what a report shows is what an evaluation shows, of the very predictions that the report looks
at.
"""

import contextlib
import io
import json
import math
import os
import tempfile
from typing import Callable, Dict, List, NamedTuple

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances

from ..evaluation import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from ..evaluation.classes import thing_classes
from ..modeling.inference import masks_to_boxes
from ..visualization.segmentation import Segmentation

__all__ = ["MAIN", "Figures", "Measurement"]

# A kind of result -> its key in the evaluators' results, and the figure that sums it up
MAIN = {
    "panoptic": ("panoptic_seg", "PQ"),
    "instance": ("segm", "AP"),
    "semantic": ("sem_seg", "mIoU"),
}


class Figures(NamedTuple):
    """What an evaluator tells of a kind of result, in percent; NaN for what the data lack.

    Attributes:
        overall: {name: value}.
        classes: {class: {name: value}}.
    """

    overall: Dict[str, float]
    classes: Dict[str, Dict[str, float]]


class Measurement:
    """Feeds an evaluator with kept predictions, image by image."""

    def __init__(self, kind: str, run):
        """
        Args:
            kind: of the results.
            run: a :class:`.run.Run`.
        """
        self._kind, self._run = kind, run
        self._num_ids = _num_ids(run.metadata)
        self._folder = tempfile.TemporaryDirectory()
        self._evaluator = self._build()
        self._evaluator.reset()

    def _build(self) -> DatasetEvaluator:
        name, folder = self._run.dataset, self._folder.name
        if self._kind == "panoptic":
            return PanopticEvaluator(name, folder, keep_predictions=False)
        if self._kind == "instance":
            return InstanceEvaluator(name, folder, tasks=("segm",), reader=self._run.reader)
        return SemanticEvaluator(name, folder)

    def add(self, dataset_dict: Dict, prediction: Segmentation) -> None:
        """Evaluate an image."""
        output = _OUTPUTS[self._kind](prediction, self._num_ids)
        self._evaluator.process([dataset_dict], [output])

    def figures(self) -> Figures:
        """After the last image."""
        with contextlib.redirect_stdout(io.StringIO()):  # COCO's tool prints its table
            results = self._evaluator.evaluate() or {}
        key, _ = MAIN[self._kind]
        figures = _split(results.get(key, {}))
        if self._kind == "panoptic":
            path = os.path.join(self._folder.name, "panoptic_quality.json")
            with open(path, encoding="utf-8") as f:
                per_class = json.load(f)["per_class"]
            nan = math.nan
            classes = {
                name: {k: nan if v is None else v for k, v in row.items()}
                for name, row in per_class.items()
            }
            figures = Figures(figures.overall, classes)
        if self._kind == "instance" and not figures.classes:  # not told of a single class
            names = [each.name for each in thing_classes(self._run.metadata)]
            figures = Figures(figures.overall, {name: {**figures.overall} for name in names})
        self._folder.cleanup()
        return figures


def _split(results: Dict[str, float]) -> Figures:
    """{"AP": ..., "AP-cup": ...} -> overall and by class."""
    overall, classes = {}, {}
    for name, value in results.items():
        figure, dash, of_class = name.partition("-")
        if name.startswith("min(IoU, B-Iou)"):  # min(IoU, B-Iou)-<class>
            continue
        if dash:
            classes.setdefault(of_class, {})[figure] = float(value)
        else:
            overall[name] = float(value)
    return Figures(overall, classes)


def _num_ids(metadata) -> int:
    """One more than the largest contiguous id of a class."""
    ids: List[int] = [-1]
    for kind in ("thing", "stuff"):
        ids += (metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}).values()
        if not metadata.get(f"{kind}_dataset_id_to_contiguous_id"):
            ids.append(len(metadata.get(f"{kind}_classes") or ()) - 1)
    return max(ids) + 1


def _panoptic(prediction: Segmentation, num_ids: int) -> Dict:
    segments = [{k: s[k] for k in ("id", "category_id", "isthing")} for s in prediction.segments]
    ids = prediction.paint((s["id"] for s in segments), 0)
    return {"panoptic_seg": (torch.from_numpy(ids), segments)}


def _instances(prediction: Segmentation, num_ids: int) -> Dict:
    size, segments = prediction.size, prediction.segments
    masks = np.zeros((len(segments), *size), bool)
    for full, mask, (top, left, bottom, right) in zip(masks, prediction.masks, prediction.boxes):
        full[top:bottom, left:right] = mask
    instances = Instances(size)
    instances.pred_masks = torch.from_numpy(masks)
    instances.pred_boxes = Boxes(masks_to_boxes(instances.pred_masks))
    # as the evaluation had written them
    instances.scores = torch.tensor([s["score"] for s in segments], dtype=torch.float64)
    instances.pred_classes = torch.tensor([s["category_id"] for s in segments], dtype=torch.long)
    return {"instances": instances}


def _class_scores(prediction: Segmentation, num_ids: int) -> Dict:
    labels = prediction.paint((s["category_id"] for s in prediction.segments), 0)
    scores = torch.zeros(num_ids, *labels.shape, dtype=torch.uint8)
    return {"sem_seg": scores.scatter_(0, torch.from_numpy(labels)[None], 1)}


_OUTPUTS: Dict[str, Callable[[Segmentation, int], Dict]] = {
    "panoptic": _panoptic,
    "instance": _instances,
    "semantic": _class_scores,
}
