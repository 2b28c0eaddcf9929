"""A task on the instance results: to count objects. Its measure beside mask AP, by a type of data.

A data set's ``evaluator_type`` says what is measured on it: a row of EVALUATOR_BUILDERS.
"""

import itertools

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from knet.evaluation import EVALUATOR_BUILDERS, InstanceEvaluator


class CountEvaluator(DatasetEvaluator):
    """How far the number of objects found in an image is from the true one."""

    def __init__(self, dataset_name: str, threshold: float = 0.3):
        """
        Args:
            dataset_name: of DATASETS.TEST, with ``annotations``.
            threshold: score from which an instance counts.
        """
        self.truth = {
            each["image_id"]: len(each["annotations"]) for each in DatasetCatalog.get(dataset_name)
        }
        self.threshold = threshold

    def reset(self) -> None:
        self.differences = []

    def process(self, inputs, outputs) -> None:
        for x, result in zip(inputs, outputs):
            found = int((result["instances"].scores > self.threshold).sum())
            self.differences.append(found - self.truth[x["image_id"]])

    def evaluate(self):
        """Of the images of all processes, in the first."""
        differences = list(itertools.chain.from_iterable(comm.gather(self.differences)))
        if not comm.is_main_process():
            return None
        return {"count": {"error": float(np.abs(differences).mean())}}


def instances_and_count(dataset_name: str, output_folder: str, **options) -> DatasetEvaluator:
    """Mask AP and the number of objects."""
    instances = InstanceEvaluator(dataset_name, output_folder, **options)
    return DatasetEvaluators([instances, CountEvaluator(dataset_name)])


EVALUATOR_BUILDERS["counted"] = {"INSTANCE": instances_and_count}
