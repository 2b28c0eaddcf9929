"""Evaluation: which evaluator a data set gets, and per-class panoptic quality."""

from .build import EVALUATOR_BUILDERS, build_evaluator
from .panoptic import PanopticEvaluator

__all__ = ["EVALUATOR_BUILDERS", "PanopticEvaluator", "build_evaluator"]
