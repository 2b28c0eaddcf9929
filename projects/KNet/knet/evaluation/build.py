"""The table of evaluators: a data set's ``evaluator_type`` -> what can be measured on it."""

import contextlib
import importlib.util
import itertools
import logging
from typing import Any, Callable, ContextManager, Dict, List, Optional, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from ..data.class_layout import (
    ClassLayout,
    resolve_class_layout,
    resolve_model_classes,
    takes_classes_of_model,
)
from ..data.classes import classes_metadata
from ..data.ground_truth import is_annotated
from ..data.image_reading import RAW, ImageReader
from ..data.training_images import load_dicts
from ..errors import UsageError
from .cityscapes import cityscapes_instance_evaluator, cityscapes_semantic_evaluator
from .coco_truth import check_ground_truth
from .derived import derived_dataset
from .images import is_measured
from .instance import InstanceEvaluator
from .outputs import files_elsewhere, inference_folder, protect
from .panoptic import PanopticEvaluator
from .panoptic_truth import PanopticFiles, check_panoptic_truth
from .semantic import SemanticEvaluator

logger = logging.getLogger(__name__)

__all__ = [
    "EVALUATOR_BUILDERS",
    "MODEL_RESULTS",
    "build_evaluator",
    "check_evaluator",
    "measured_tasks",
]

# A kind of result, as in MODEL.KNET.TEST.<kind>_ON -> (data set's name, folder, and by their names
# what :func:`_options` has) -> evaluator
Builders = Dict[str, Callable[..., DatasetEvaluator]]

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

# Evaluator -> the tasks of its results, as Detectron2 names them
TASKS: Dict[Callable[..., DatasetEvaluator], Tuple[str, ...]] = {
    PanopticEvaluator: ("panoptic_seg",),
    InstanceEvaluator: ("segm", "bbox"),
    SemanticEvaluator: ("sem_seg",),
    cityscapes_instance_evaluator: ("segm",),
    cityscapes_semantic_evaluator: ("sem_seg",),
}

# MODEL.META_ARCHITECTURE -> the one kind of result that it gives, whatever MODEL.KNET.TEST says
MODEL_RESULTS: Dict[str, str] = {
    "SemanticKNet": "SEMANTIC",
    "SemanticSegmentor": "SEMANTIC",
    "GeneralizedRCNN": "INSTANCE",
}


def check_evaluator(cfg, dataset_name: str) -> None:
    """Look whether a data set can be evaluated, or predicted on, with this config.

    A line in the log tells of images without ground truth.

    Raises:
        UsageError: the table does not know its type, the model gives no result that can be
            measured on it, a package is missing, or a result would be written over the data.
        DatasetError: its ground truth cannot be used.
    """
    _, kinds = _what_is_measured(cfg, dataset_name)
    dicts = load_dicts(dataset_name)
    if "INSTANCE" in kinds and is_measured(dicts):
        check_ground_truth(dataset_name, dicts)
    if "PANOPTIC" in kinds and is_measured(dicts):
        check_panoptic_truth(dataset_name, dicts)
    folder = inference_folder(cfg.OUTPUT_DIR, dataset_name)
    _check_own_folder(cfg, dataset_name, folder)
    others = set(itertools.chain(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)) - {dataset_name}
    files = itertools.chain.from_iterable(files_elsewhere(other, folder) for other in others)
    protect(folder, kinds, dicts, MetadataCatalog.get(dataset_name), files)
    _tell_of_images_without_truth(dataset_name, dicts, folder)


def measured_tasks(cfg, dataset_name: str) -> Optional[List[str]]:
    """The tasks of the results on a data set; None where an evaluator is not from here."""
    builders, kinds = _what_is_measured(cfg, dataset_name)
    tasks = [TASKS.get(builders[kind]) for kind in kinds]
    return None if None in tasks else list(itertools.chain(*tasks))


def _check_own_folder(cfg, dataset_name: str, folder: str) -> None:
    """
    Raises:
        UsageError: another of DATASETS.TEST has the same folder, on a disk where upper and lower
            case are the same.
    """
    for other in cfg.DATASETS.TEST:
        theirs = inference_folder(cfg.OUTPUT_DIR, other)
        if other != dataset_name and theirs.casefold() == folder.casefold():
            raise UsageError(
                f"the results of '{dataset_name}' and '{other}' in DATASETS.TEST would have one "
                f"folder, {folder}: give one of the data sets another name"
            )


def _tell_of_images_without_truth(dataset_name: str, dicts: List[Dict], folder: str) -> None:
    if not is_measured(dicts):
        logger.info(
            "'%s' has no ground truth: its images are predicted on, nothing is measured; the "
            "predictions will be in %s",
            dataset_name,
            folder,
        )
        return
    lacking = [d for d in dicts if not is_annotated(d) and "annotations" not in d]
    if lacking:  # an instance data set's image without objects is another matter
        logger.warning(
            "%d of %d images of '%s' have no ground truth (%s, ...): they are predicted on, and "
            "not measured",
            len(lacking),
            len(dicts),
            dataset_name,
            lacking[0]["file_name"],
        )


def build_evaluator(cfg, dataset_name: str) -> DatasetEvaluator:
    """What is measured on a data set; the results go to ``OUTPUT_DIR/inference/<data set>``.

    Of a panoptic data set these are PQ, mask AP and mIoU, as far as the model gives such results.
    Of a data set without ground truth the predictions are kept in the same formats.

    Raises:
        UsageError, DatasetError: see :func:`check_evaluator`.
    """
    builders, kinds = _what_is_measured(cfg, dataset_name)
    folder = inference_folder(cfg.OUTPUT_DIR, dataset_name)
    with _with_classes(cfg, dataset_name) as name:
        evaluators = [builders[kind](name, folder, **_options(cfg, kind)) for kind in kinds]
    files = PanopticFiles()  # each is read once for all
    for evaluator in evaluators:
        if isinstance(evaluator, (PanopticEvaluator, SemanticEvaluator)):
            evaluator.files = files
    if dataset_name in DatasetCatalog.list() and not is_measured(load_dicts(dataset_name)):
        return _Predictions(evaluators, dataset_name, folder)
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _options(cfg, kind: str) -> Dict[str, Any]:
    """What the config asks of the evaluators of a kind of result, where it is not the usual."""
    options = {}
    if cfg.TEST.OFFICIAL_TOOLS:
        options["official_tool"] = True
    if kind == "PANOPTIC" and not cfg.TEST.KEEP_PANOPTIC:
        options["keep_predictions"] = False
    reader = ImageReader.from_config(cfg)
    if kind == "INSTANCE" and (reader.image_format == RAW or not reader.upright):
        options["reader"] = reader
    return options


class _Predictions(DatasetEvaluators):
    """Evaluators of a data set without ground truth: they keep what is predicted."""

    def __init__(self, evaluators: List[DatasetEvaluator], dataset_name: str, folder: str):
        super().__init__(evaluators)
        self._dataset_name, self._folder = dataset_name, folder

    def evaluate(self) -> Optional[Dict]:
        results = super().evaluate()
        if comm.is_main_process() and not results:
            logger.info(
                "Nothing was measured on '%s', as it has no ground truth; its predictions: %s",
                self._dataset_name,
                self._folder,
            )
        return results


def _with_classes(cfg, dataset_name: str) -> ContextManager[str]:
    """The data set; images alone, as long as the block runs, with the classes of the model."""
    if not takes_classes_of_model(dataset_name):
        return contextlib.nullcontext(dataset_name)
    classes = classes_metadata(resolve_model_classes(cfg)).as_dict()
    known = {k: v for k, v in MetadataCatalog.get(dataset_name).as_dict().items() if v is not None}
    metadata = {**classes, **known}
    metadata.pop("name", None)
    return derived_dataset(dataset_name, load_dicts(dataset_name), **metadata)


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
            "installed: pip install --no-deps panopticapi-lite"
        )
    return builders, kinds


def _type_from_content(dataset_name: str):
    """The evaluator type of a data set that was registered without one; None if unclear.

    Without ground truth the classes tell; where there are none, it may be of any, and panoptic
    stands for all three.
    """
    metadata, dicts = MetadataCatalog.get(dataset_name), load_dicts(dataset_name)
    if not is_measured(dicts):
        has_stuff = metadata.get("stuff_dataset_id_to_contiguous_id")
        if has_stuff or takes_classes_of_model(dataset_name):
            return "coco_panoptic_seg"
        return "coco" if metadata.get("thing_classes") else "sem_seg"
    keys = dicts[0].keys()
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
    if takes_classes_of_model(dataset_name):
        return False
    in_data = ClassLayout.from_metadata(MetadataCatalog.get(dataset_name)).num_stuff
    return in_data > 0 and resolve_class_layout(cfg).num_stuff == 0
