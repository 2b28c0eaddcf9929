"""The table of evaluators: a data set's ``evaluator_type`` -> what can be measured on it."""

import importlib.util
import os
from typing import Callable, Dict, List, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from ..data.class_layout import ClassLayout, resolve_class_layout
from ..data.training_images import load_dicts
from ..errors import UsageError
from .cityscapes import cityscapes_instance_evaluator, cityscapes_semantic_evaluator
from .coco_truth import check_ground_truth
from .instance import InstanceEvaluator
from .panoptic import PanopticEvaluator
from .semantic import SemanticEvaluator

__all__ = ["EVALUATOR_BUILDERS", "MODEL_RESULTS", "build_evaluator", "check_evaluator"]

# A kind of result, as in MODEL.KNET.TEST.<kind>_ON -> (data set's name, folder) -> evaluator
Builders = Dict[str, Callable[[str, str], DatasetEvaluator]]

PANOPTIC: Builders = {
    "PANOPTIC": PanopticEvaluator,
    "INSTANCE": InstanceEvaluator,
    "SEMANTIC": SemanticEvaluator,
}
CITYSCAPES: Builders = {
    "PANOPTIC": PanopticEvaluator,
    "INSTANCE": cityscapes_instance_evaluator,
    "SEMANTIC": cityscapes_semantic_evaluator,
}
EVALUATOR_BUILDERS: Dict[str, Builders] = {
    "coco_panoptic_seg": PANOPTIC,
    "cityscapes_panoptic_seg": CITYSCAPES,
    "cityscapes_instance": {"INSTANCE": cityscapes_instance_evaluator},
    "ade20k_panoptic_seg": PANOPTIC,
    "coco": {"INSTANCE": InstanceEvaluator},
    "sem_seg": {"SEMANTIC": SemanticEvaluator},
    "cityscapes_sem_seg": {"SEMANTIC": cityscapes_semantic_evaluator},
}

# MODEL.META_ARCHITECTURE -> the one kind of result that it gives, whatever MODEL.KNET.TEST says
MODEL_RESULTS: Dict[str, str] = {
    "SemanticKNet": "SEMANTIC",
    "SemanticSegmentor": "SEMANTIC",
    "GeneralizedRCNN": "INSTANCE",
}


def check_evaluator(cfg, dataset_name: str) -> None:
    """Look whether a data set can be evaluated with this config.

    Raises:
        UsageError: the table does not know its type, the model gives no result that can be
            measured on it, or a package is missing.
        DatasetError: its ground truth cannot be used.
    """
    _, kinds = _what_is_measured(cfg, dataset_name)
    if "INSTANCE" in kinds:
        check_ground_truth(dataset_name)


def build_evaluator(cfg, dataset_name: str) -> DatasetEvaluator:
    """What is measured on a data set; the results go to ``OUTPUT_DIR/inference/<data set>``.

    Of a panoptic data set these are PQ, mask AP and mIoU, as far as the model gives such results.

    Raises:
        UsageError, DatasetError: see :func:`check_evaluator`.
    """
    builders, kinds = _what_is_measured(cfg, dataset_name)
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    evaluators = [builders[kind](dataset_name, folder) for kind in kinds]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _what_is_measured(cfg, dataset_name: str) -> Tuple[Builders, List[str]]:
    """The builders of the data set's type, and those of their kinds that the model gives."""
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type is None and dataset_name in DatasetCatalog.list():
        evaluator_type = _type_from_content(dataset_name)
    if evaluator_type not in EVALUATOR_BUILDERS:
        raise UsageError(
            f"the data set '{dataset_name}' in DATASETS.TEST has the evaluator type "
            f"{evaluator_type!r}, known are {sorted(EVALUATOR_BUILDERS)}: choose another data set"
        )
    builders = EVALUATOR_BUILDERS[evaluator_type]
    kinds = _results_of_model(cfg, dataset_name, builders)
    if "PANOPTIC" in kinds and importlib.util.find_spec("panopticapi") is None:
        raise UsageError(
            f"evaluating '{dataset_name}' in DATASETS.TEST needs COCO's panopticapi, which is not "
            "installed: pip install panopticapi-lite"
        )
    return builders, kinds


def _type_from_content(dataset_name: str):
    """The evaluator type of a data set that was registered without one; None if unclear."""
    metadata, dicts = MetadataCatalog.get(dataset_name), load_dicts(dataset_name)
    keys = dicts[0].keys() if dicts else ()
    if "pan_seg_file_name" in keys and metadata.get("panoptic_json"):
        return "coco_panoptic_seg"
    if "annotations" in keys and metadata.get("thing_classes"):
        return "coco"
    if "sem_seg_file_name" in keys and metadata.get("stuff_classes"):
        return "sem_seg"
    return None


def _results_of_model(cfg, dataset_name: str, builders: Builders) -> List[str]:
    """The kinds of result that the model gives, of those that the data set is for."""
    architecture, possible = cfg.MODEL.META_ARCHITECTURE, list(builders)
    if architecture in MODEL_RESULTS:
        kind = MODEL_RESULTS[architecture]
        if kind not in possible:
            raise UsageError(
                f"MODEL.META_ARCHITECTURE {architecture} gives {kind.lower()} results alone, "
                f"'{dataset_name}' in DATASETS.TEST is for {' or '.join(possible).lower()} ones: "
                "choose a data set or a model of the other's kind"
            )
        if kind == "INSTANCE" and not cfg.MODEL.MASK_ON:
            raise UsageError(
                f"evaluating '{dataset_name}' in DATASETS.TEST needs masks: set MODEL.MASK_ON True"
            )
        return [kind]
    if "PANOPTIC" in possible and _lacks_stuff(cfg, dataset_name):
        possible.remove("SEMANTIC")
    kinds = [kind for kind in possible if cfg.MODEL.KNET.TEST[f"{kind}_ON"]]
    if not kinds:
        keys = " or ".join(f"MODEL.KNET.TEST.{kind}_ON True" for kind in possible)
        raise UsageError(
            f"evaluating '{dataset_name}' in DATASETS.TEST needs "
            f"{' or '.join(possible).lower()} results: set {keys}"
        )
    return kinds


def _lacks_stuff(cfg, dataset_name: str) -> bool:
    """Does an instance model meet a data set with stuff, which it cannot tell apart?"""
    in_data = ClassLayout.from_metadata(MetadataCatalog.get(dataset_name)).num_stuff
    return in_data > 0 and resolve_class_layout(cfg).num_stuff == 0
