"""The table of evaluators: a data set's ``evaluator_type`` -> its evaluator."""

import importlib.util
import os
from typing import Callable, Dict

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from ..errors import UsageError
from .panoptic import PanopticEvaluator

__all__ = ["EVALUATOR_BUILDERS", "build_evaluator"]

EVALUATOR_BUILDERS: Dict[str, Callable[[str, str], DatasetEvaluator]] = {
    "coco_panoptic_seg": PanopticEvaluator,
}


def check_evaluator(cfg, dataset_name: str) -> str:
    """The evaluator type of a data set.

    Raises:
        UsageError: the table does not know it, or it cannot work with this config.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in EVALUATOR_BUILDERS:
        raise UsageError(
            f"the data set '{dataset_name}' in DATASETS.TEST has the evaluator type "
            f"{evaluator_type!r}, known are {sorted(EVALUATOR_BUILDERS)}: choose another data set"
        )
    if importlib.util.find_spec("panopticapi") is None:
        raise UsageError(
            f"evaluating '{dataset_name}' in DATASETS.TEST needs COCO's panopticapi, which is not "
            "installed: pip install panopticapi-lite"
        )
    if not cfg.MODEL.KNET.TEST.PANOPTIC_ON:
        raise UsageError(
            f"evaluating '{dataset_name}' in DATASETS.TEST needs panoptic results: set "
            "MODEL.KNET.TEST.PANOPTIC_ON True"
        )
    return evaluator_type


def build_evaluator(cfg, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of a data set; its results go to ``OUTPUT_DIR/inference/<data set>``.

    Raises:
        UsageError: the data set has an evaluator type that the table does not know.
    """
    evaluator_type = check_evaluator(cfg, dataset_name)
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    return EVALUATOR_BUILDERS[evaluator_type](dataset_name, folder)
