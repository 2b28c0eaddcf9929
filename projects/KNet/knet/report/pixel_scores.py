"""Calibration of pixels: needs the scores of all classes, which an evaluation does not keep."""

import json
import os
from typing import Dict, List, Optional

from detectron2.utils import comm

from ..evaluation import SemanticEvaluator
from .tallies import Calibration

__all__ = ["PixelScores", "read_pixel_scores"]

_FILE = "pixel_calibration.json"


class PixelScores(SemanticEvaluator):
    """Beside another evaluator: how often the class of a pixel is right, by its score.

    It measures nothing else, and leaves ``pixel_calibration.json``. One process alone.
    """

    def __init__(self, dataset_name: str, output_dir: str, *, logits: bool):
        """
        Args:
            dataset_name: registered, semantic or panoptic.
            output_dir: of the results.
            logits: the model gives logits, of which a softmax makes probabilities; else scores of
                0..1.
        """
        super().__init__(dataset_name, output_dir)
        self._logits = logits

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self._calibration = Calibration()

    def process(self, inputs: List[Dict], outputs: List[Dict]) -> None:
        """
        Args:
            inputs: with ``file_name``.
            outputs: with ``sem_seg`` (largest contiguous id + 1, H, W); one without, or of other
                classes than the data set's, is left out.
        """
        for x, output in zip(inputs, outputs):
            name = self.input_file_to_gt_file[x["file_name"]]
            scores = output.get("sem_seg", ())
            if name is None or len(scores) != self._num_contiguous_ids:
                continue
            scores = scores.float().cpu()[self._contiguous_ids]
            self._size = tuple(scores.shape[1:])
            truth = self._load_labels(name)
            best, labels = (scores.softmax(0) if self._logits else scores).max(0)
            labelled = truth < len(scores)
            right = labels.numpy()[labelled] == truth[labelled]
            self._calibration.add(best.numpy()[labelled], right)

    def evaluate(self) -> Optional[Dict]:
        """Writes the file; no results."""
        if comm.is_main_process() and self._calibration.count:
            os.makedirs(self._output_dir, exist_ok=True)
            path = os.path.join(self._output_dir, _FILE)
            with open(path, "w", encoding="utf-8") as f:
                json.dump(self._calibration.to_plain(), f)
        return {}


def read_pixel_scores(inference: str) -> Calibration:
    """What :class:`PixelScores` has left in a folder of results; an empty one where it has not."""
    path = os.path.join(inference, _FILE)
    if not os.path.isfile(path):
        return Calibration()
    with open(path, encoding="utf-8") as f:
        return Calibration(json.load(f))
