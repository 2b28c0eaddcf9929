"""Evaluation: what is measured on a data set; panoptic quality, mask AP, mean IoU."""

from .build import EVALUATOR_BUILDERS, build_evaluator
from .instance import InstanceEvaluator
from .outputs import inference_folder
from .panoptic import PanopticEvaluator
from .semantic import SemanticEvaluator

__all__ = [
    "EVALUATOR_BUILDERS",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "SemanticEvaluator",
    "build_evaluator",
    "inference_folder",
]
