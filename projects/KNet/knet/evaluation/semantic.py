"""Mean IoU, for semantic data sets and for panoptic ones."""

import itertools
import json
import os
from collections import OrderedDict
from typing import Dict, List, Optional

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..data.class_layout import IGNORE_LABEL
from ..data.ground_truth import check_truth_size, read_ground_truth
from ..data.panoptic_rows import fill_segments
from ..data.run_lengths import encode_labels
from ..data.training_images import load_dicts
from ..errors import UsageError
from .classes import pixel_classes
from .derived import derived_dataset
from .outputs import protect
from .panoptic_truth import PanopticFiles

__all__ = ["SemanticEvaluator", "class_map"]

_NUMPY_TYPES = (torch.float32, torch.float64, torch.uint8)  # that it compares quickly
_GRID = 16  # pixels from one to the next


class SemanticEvaluator(SemSegEvaluator):
    """Detectron2's semantic evaluator, for label maps and for panoptic PNGs.

    Of a panoptic data set things and stuff are the classes, crowd and unlabelled pixels are
    ignored, and contiguous ids may have gaps; its label maps are made as they are needed. The
    results are Detectron2's: ``sem_seg`` with mIoU, fwIoU, mACC, pACC and IoU per class. Of images
    without ground truth the predictions are kept, and not measured.

    Attributes:
        files: reads panoptic ground truth; several evaluators of the same images may have one.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: Optional[str] = None,
        *,
        official_tool: bool = False,
        **options,
    ):
        """
        Args:
            dataset_name: registered, with ``sem_seg_file_name`` or panoptic PNGs if it has ground
                truth.
            output_dir: gets ``sem_seg_predictions.json``.
            official_tool: let Detectron2's evaluator count.
            options: of Detectron2's evaluator.

        Raises:
            DatasetError: the data set cannot be loaded.
            UsageError: a prediction would be written over the data.
        """
        self._official_tool = official_tool
        self.files = PanopticFiles()
        dicts, metadata = load_dicts(dataset_name), MetadataCatalog.get(dataset_name)
        if output_dir:
            protect(output_dir, ["SEMANTIC"], dicts, metadata)
        self._is_panoptic = _is_panoptic(dicts, metadata)
        truth_key = "pan_seg_file_name" if self._is_panoptic else "sem_seg_file_name"
        classes = pixel_classes(metadata, self._is_panoptic)
        self._evaluated_dataset = dataset_name
        self._dicts = {d[truth_key]: d for d in dicts if truth_key in d}
        self._contiguous_ids = [c.id for c in classes]
        self._num_contiguous_ids = max(self._contiguous_ids, default=-1) + 1
        self._ignored_in_truth = (
            self._num_contiguous_ids
            if self._is_panoptic
            else metadata.get("ignore_label", IGNORE_LABEL)
        )
        with derived_dataset(
            dataset_name,
            [{"file_name": d["file_name"], "sem_seg_file_name": d.get(truth_key)} for d in dicts],
            stuff_classes=[c.name for c in classes],
            stuff_dataset_id_to_contiguous_id={c.dataset_id: i for i, c in enumerate(classes)},
            ignore_label=len(classes),
        ) as derived:
            super().__init__(
                derived, output_dir=output_dir, sem_seg_loading_fn=self._load_labels, **options
            )

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self.files.forget()

    def process(self, inputs: List[Dict], outputs: List[Dict]) -> None:
        """
        Args:
            inputs: with ``file_name``.
            outputs: with ``sem_seg`` (largest contiguous id + 1, H, W), any scores or logits.

        Raises:
            UsageError: another number of classes than the data set has.
            DatasetError: a label map has another size, or a class that the data set does not.
        """
        for x, output in zip(inputs, outputs):
            scores = output["sem_seg"]
            if len(scores) != self._num_contiguous_ids:
                raise UsageError(
                    f"the model tells {len(scores)} classes apart, the data set "
                    f"'{self._evaluated_dataset}' in DATASETS.TEST has {self._num_contiguous_ids}: "
                    "evaluate a model of its classes"
                )
            if len(self._contiguous_ids) < self._num_contiguous_ids:
                scores = scores[torch.tensor(self._contiguous_ids, device=scores.device)]
            self._size = tuple(scores.shape[1:])
            truth_name = self.input_file_to_gt_file[x["file_name"]]
            if self._official_tool and truth_name is not None:
                super().process([x], [{"sem_seg": scores}])
                continue
            labels = class_map(scores)
            if truth_name is not None:
                self._count(labels, self._load_labels(truth_name))
            self._predictions.extend(self.encode_json_sem_seg(labels, x["file_name"]))

    def _count(self, labels: np.ndarray, truth: np.ndarray) -> None:
        """Add an image's pixels (H, W) to Detectron2's tables: all, and those at borders."""
        pairs = [(self._conf_matrix, labels, truth)]
        if self._compute_boundary_iou:
            at_borders = [self._mask_to_boundary(m.astype(np.uint8)) for m in (labels, truth)]
            pairs.append((self._b_conf_matrix, *at_borders))
        for matrix, predicted, true in pairs:
            cells = len(matrix) * predicted + true  # borders in 8 bits, as Detectron2 has them
            matrix += np.bincount(cells.ravel(), minlength=matrix.size).reshape(matrix.shape)

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> List[Dict]:
        """Detectron2's, of all classes at once."""
        if self._official_tool:
            return super().encode_json_sem_seg(sem_seg, input_file_name)
        ids, rles = self._contiguous_id_to_dataset_id, encode_labels(sem_seg)
        return [
            {"file_name": input_file_name, "category_id": ids[i], "segmentation": rle}
            for i, rle in rles.items()
        ]

    def evaluate(self) -> Optional[Dict]:
        """
        Returns:
            on the main process ``{"sem_seg": {...}}`` in percent; NaN for what the data lack. {}
            where the data set has no ground truth.
        """
        if not self._dicts:
            return self._write_predictions()
        with np.errstate(invalid="ignore"):  # 0 / 0
            return super().evaluate()

    def _write_predictions(self) -> Optional[Dict]:
        """All that is left of an evaluation where there is nothing to measure."""
        comm.synchronize()
        predictions = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "sem_seg_predictions.json")
            with PathManager.open(path, "w", encoding="utf-8") as f:
                json.dump(list(itertools.chain.from_iterable(predictions)), f)
        return OrderedDict()

    def _load_labels(self, file_name: str, dtype: type = int) -> np.ndarray:
        """(H, W) of the prediction's size: position of each pixel's class, or their number."""
        num_classes = len(self._contiguous_ids)
        record = {**self._dicts[file_name], "height": self._size[0], "width": self._size[1]}
        positions = np.full(self._num_contiguous_ids, num_classes)
        positions[self._contiguous_ids] = np.arange(num_classes)
        if self._is_panoptic:
            return self._fill(file_name, record, positions)
        labels = read_ground_truth(
            record,
            mask_on=False,
            ignore_label=self._ignored_in_truth,
            num_classes=num_classes,
        ).labels.astype(dtype)
        ignored = labels == self._ignored_in_truth
        labels[ignored] = 0
        return np.where(ignored, num_classes, positions[labels])

    def _fill(self, png_name: str, record: Dict, positions: np.ndarray) -> np.ndarray:
        """The same from a panoptic PNG, by the position of each contiguous id."""
        ids, segments = self.files.ids(png_name), record["segments_info"]
        check_truth_size(ids, record, f"the panoptic PNG {png_name}")
        ignored = len(self._contiguous_ids)
        values = [ignored if s.get("iscrowd", 0) else positions[s["category_id"]] for s in segments]
        return fill_segments(ids, segments, np.array([ignored, *values]), png_name)


def _is_panoptic(dicts: List[Dict], metadata) -> bool:
    """Are things and stuff the classes of a pixel? Where no truth tells it, the metadata do."""
    if any({"pan_seg_file_name", "sem_seg_file_name"} & d.keys() for d in dicts):
        return any("pan_seg_file_name" in d for d in dicts)
    return bool(metadata.get("thing_dataset_id_to_contiguous_id"))


def class_map(scores: torch.Tensor) -> np.ndarray:
    """(C, H, W) scores -> (H, W) the class of the highest, the first of several: ``argmax``.

    On a CPU what takes the time is to look at every score. The classes that win somewhere on a
    coarse grid come first: behind them most others are nowhere above the best so far, which one
    comparison tells. Where a score is NaN, the class is any.
    """
    if scores.device.type != "cpu" or scores.dtype not in _NUMPY_TYPES:
        return scores.argmax(dim=0).cpu().numpy()
    likely = scores[:, ::_GRID, ::_GRID].argmax(dim=0).unique().tolist()
    maps = scores.detach().numpy()
    best, wins = maps[likely[0]].copy(), np.empty(maps.shape[1:], bool)
    labels = np.full(best.shape, likely[0], np.min_scalar_type(len(maps)))
    for i in likely[1:]:  # by rising numbers
        np.greater(maps[i], best, out=wins)
        np.maximum(best, maps[i], out=best)
        np.copyto(labels, i, where=wins)
    for i in set(range(len(maps))).difference(likely):
        np.greater_equal(maps[i], best, out=wins)
        if wins.any():
            wins &= (maps[i] > best) | (labels > i)
            np.maximum(best, maps[i], out=best)
            np.copyto(labels, i, where=wins)
    return labels.astype(np.int64)
