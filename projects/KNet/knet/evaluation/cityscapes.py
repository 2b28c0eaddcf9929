"""Cityscapes' own figures, by its own scripts, beside those of COCO's tool and Detectron2."""

import glob
import importlib.util
import logging
import os
from collections import OrderedDict
from typing import Callable, Dict, List, Optional

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
)
from detectron2.utils import comm

from ..data.datasets.cityscapes import SCRIPTS, enable_cityscapes_scripts
from .instance import InstanceEvaluator
from .semantic import SemanticEvaluator

__all__ = ["cityscapes_instance_evaluator", "cityscapes_semantic_evaluator"]

logger = logging.getLogger(__name__)


class _CityscapesInstances(CityscapesInstanceEvaluator):
    """Detectron2's, with a name for its result that COCO's mask AP does not have."""

    def evaluate(self) -> Optional[Dict]:
        """``cityscapes_segm`` with AP and AP50, on the main process."""
        return _by_scripts(super().evaluate, "segm")


class _CityscapesSemSeg(CityscapesSemSegEvaluator):
    """Detectron2's, with a name for its result that its own mIoU does not have."""

    def evaluate(self) -> Optional[Dict]:
        """``cityscapes_sem_seg`` with IoU and iIoU, of classes and of categories (``_sup``)."""
        return _by_scripts(super().evaluate, "sem_seg")


def _by_scripts(evaluate: Callable[[], Optional[Dict]], key: str) -> Optional[Dict]:
    """None where Cityscapes' scripts do not know the newest NumPy, as their release 2.3 does not
    know NumPy 2.4: a training shall not end in an error for figures that others stand for.
    """
    try:
        results = evaluate()
    except (AttributeError, TypeError) as error:
        logger.warning(
            "Cityscapes' own scripts do not work with NumPy %s (%s), their figures are left out: "
            "pip install 'numpy<2.4'",
            np.__version__,
            error,
            exc_info=True,
        )
        return None
    return None if results is None else OrderedDict({f"cityscapes_{key}": results[key]})


def cityscapes_instance_evaluator(
    dataset_name: str, output_dir: str, **options
) -> DatasetEvaluator:
    """Mask AP by COCO's tool and, if the scripts are installed, by Cityscapes' own protocol.

    Args:
        dataset_name: one of Detectron2's panoptic or instance sets of Cityscapes.
        output_dir, options: see :class:`.instance.InstanceEvaluator`.
    """
    evaluators: List[DatasetEvaluator] = [InstanceEvaluator(dataset_name, output_dir, **options)]
    if _has_truth(dataset_name, "instanceIds"):
        evaluators.append(_CityscapesInstances(dataset_name))
    return DatasetEvaluators(evaluators)


def cityscapes_semantic_evaluator(
    dataset_name: str, output_dir: str, **options
) -> DatasetEvaluator:
    """mIoU by Detectron2 and, if the scripts are installed, by Cityscapes' own protocol.

    Args:
        dataset_name: one of Detectron2's panoptic or semantic sets of Cityscapes.
        output_dir, options: see :class:`.semantic.SemanticEvaluator`.
    """
    evaluators: List[DatasetEvaluator] = [SemanticEvaluator(dataset_name, output_dir, **options)]
    if _has_truth(dataset_name, "labelIds"):
        evaluators.append(_CityscapesSemSeg(dataset_name))
    return DatasetEvaluators(evaluators)


def _has_truth(dataset_name: str, kind: str) -> bool:
    """Can Cityscapes' scripts evaluate here? If not, a line in the log says why."""
    truth = os.path.join(
        MetadataCatalog.get(dataset_name).get("gt_dir", ""), "*", f"*_gtFine_{kind}.png"
    )
    if importlib.util.find_spec(SCRIPTS) is None:
        lack = "its scripts are not installed (pip install cityscapesscripts)"
    elif not glob.glob(truth):
        lack = f"there is no {truth}"
    elif comm.get_local_size() != comm.get_world_size():
        lack = "its scripts work on one machine alone"
    else:
        enable_cityscapes_scripts()
        return True
    logger.info("'%s' is not evaluated by Cityscapes' own protocol: %s", dataset_name, lack)
    return False
