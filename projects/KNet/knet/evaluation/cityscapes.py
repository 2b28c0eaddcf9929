"""Cityscapes' own figures, by its own scripts, beside those of COCO's tool and Detectron2."""

import glob
import importlib.util
import logging
import os
from collections import OrderedDict
from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional

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
        with _numpy_of_scripts():
            return _renamed(super().evaluate(), "segm")


class _CityscapesSemSeg(CityscapesSemSegEvaluator):
    """Detectron2's, with a name for its result that its own mIoU does not have."""

    def evaluate(self) -> Optional[Dict]:
        """``cityscapes_sem_seg`` with IoU and iIoU, of classes and of categories (``_sup``)."""
        with _numpy_of_scripts():
            return _renamed(super().evaluate(), "sem_seg")


@contextmanager
def _numpy_of_scripts() -> Iterator[None]:
    """Cityscapes' scripts call ``in1d``, which NumPy 2.4 has no more; what they do with its result
    is the same with ``isin``'s.
    """
    if hasattr(np, "in1d"):
        yield
        return
    np.in1d = np.isin
    try:
        yield
    finally:
        del np.in1d


def _renamed(results: Optional[Dict], key: str) -> Optional[Dict]:
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
