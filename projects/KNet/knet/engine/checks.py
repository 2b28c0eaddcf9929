"""What cannot work in a config and its data sets, found before anything is built."""

from functools import reduce
from importlib.util import find_spec
from typing import Dict

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import Registry

from ..data.checks.before_training import check_before_training
from ..data.colors import metadata_colors
from ..data.datasets.custom import register_custom_datasets
from ..data.image_reading import RAW, ImageReader
from ..data.training_images import load_dicts, load_to_check
from ..errors import MEND_PATHS, DatasetError, UsageError
from ..evaluation.build import check_evaluator, measured_tasks
from ..evaluation.images import is_measured
from ..modeling.kernel_head import KERNEL_HEAD_REGISTRY
from ..modeling.kernel_update import KERNEL_UPDATE_HEAD_REGISTRY
from ..modeling.neck import NECK_REGISTRY
from ..modeling.normalizers import SHARES
from ..modeling.semantic_losses import SEMANTIC_LOSSES
from ..modeling.test_time_augmentation import check_test_time_augmentation
from .best_model import check_best_metric
from .image_checks import check_image, check_image_keys
from .model_file import FORMATS
from .number_checks import check_numbers
from .saving_checks import check_saving
from .writers import check_logging

__all__ = ["check_config", "check_datasets"]

REGISTRIES: Dict[str, Registry] = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
}
KNET_REGISTRIES: Dict[str, Registry] = {
    "MODEL.KNET.NECK.NAME": NECK_REGISTRY,
    "MODEL.KNET.KERNEL_HEAD.NAME": KERNEL_HEAD_REGISTRY,
    "MODEL.KNET.KERNEL_UPDATE.NAME": KERNEL_UPDATE_HEAD_REGISTRY,
}
SEMANTIC_REGISTRIES: Dict[str, Registry] = {
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
    "MODEL.KNET.SEMANTIC.BASE_HEAD": SEM_SEG_HEADS_REGISTRY,
    "MODEL.KNET.KERNEL_UPDATE.NAME": KERNEL_UPDATE_HEAD_REGISTRY,
}
# base heads that normalise a map of one pixel, which a batch of one image cannot do
GLOBAL_POOLING = ("SemSegPSPHead", "SemSegASPPHead", "SemSegUPerHead")


def check_config(cfg, num_workers: int = 1) -> None:
    """Look for values that cannot work, alone or together.

    Args:
        cfg: the config.
        num_workers: processes that train together, on all machines.

    Raises:
        UsageError: names the key and what to set it to.
    """
    _check_registries(cfg, REGISTRIES)
    check_numbers(cfg)
    if cfg.MODEL.META_ARCHITECTURE == "KNet":
        _check_knet(cfg)
    elif cfg.MODEL.META_ARCHITECTURE == "SemanticKNet":
        _check_semantic(cfg, num_workers)
    _check_shared_batch(cfg, num_workers)
    _check_solver(cfg, num_workers)
    _check_model_file(cfg)
    check_image_keys(cfg)
    check_test_time_augmentation(cfg)
    check_logging(cfg)


def _check_registries(cfg, registries: Dict[str, Registry]) -> None:
    for key, registry in registries.items():
        name = reduce(getattr, key.split("."), cfg)
        if name not in registry:
            known = sorted(name for name, _ in registry)
            raise UsageError(f"{key} is '{name}', known are {', '.join(known)}")


def _check_knet(cfg) -> None:
    knet = cfg.MODEL.KNET
    if not cfg.MODEL.MASK_ON:
        raise UsageError("K-Net learns from masks: set MODEL.MASK_ON True")
    if knet.NUM_STAGES < 1:
        raise UsageError(f"MODEL.KNET.NUM_STAGES is {knet.NUM_STAGES}: at least 1 stage is needed")
    if knet.NUM_KERNELS < 1:
        raise UsageError(f"MODEL.KNET.NUM_KERNELS is {knet.NUM_KERNELS}: at least 1 is needed")
    _check_registries(cfg, KNET_REGISTRIES)
    if not knet.NECK.IN_FEATURES:
        raise UsageError("MODEL.KNET.NECK.IN_FEATURES is empty: name the backbone's features")
    for key, divisor in (
        ("NUM_GROUPS", knet.NUM_GROUPS),
        ("KERNEL_UPDATE.NUM_HEADS", knet.KERNEL_UPDATE.NUM_HEADS),
    ):
        if divisor < 1 or knet.CHANNELS % divisor:
            raise UsageError(
                f"MODEL.KNET.CHANNELS {knet.CHANNELS} is not divisible by MODEL.KNET.{key} "
                f"{divisor}: change one of them"
            )
    for key, value, known in (
        ("NECK.INIT", knet.NECK.INIT, ("normal", "msra")),
        ("LOSS.SEMANTIC", knet.LOSS.SEMANTIC, tuple(SEMANTIC_LOSSES)),
    ):
        if value not in known:
            raise UsageError(f"MODEL.KNET.{key} is '{value}', known are {', '.join(known)}")
    if knet.KERNEL_HEAD.STUFF_SCORES and knet.KERNEL_HEAD.NAME == "KernelHead":
        raise UsageError(
            "MODEL.KNET.KERNEL_HEAD.STUFF_SCORES is True, but KernelHead has no scores: set it to "
            "False, or MODEL.KNET.KERNEL_HEAD.NAME to PointKernelHead"
        )
    if knet.TEST.MASK_QUALITY_POWER != 1 and not knet.TEST.MASK_QUALITY:
        raise UsageError(
            f"MODEL.KNET.TEST.MASK_QUALITY_POWER is {knet.TEST.MASK_QUALITY_POWER}, but scores are "
            "not multiplied by the masks' quality: set MODEL.KNET.TEST.MASK_QUALITY to True, or "
            "the power to 1.0"
        )
    if not 0 < knet.MASK_THRESHOLD < 1:
        raise UsageError(
            f"MODEL.KNET.MASK_THRESHOLD is {knet.MASK_THRESHOLD}: it must be between 0 and 1"
        )
    if knet.MASK_STRIDE < 1 or knet.NECK.STRIDE < 1 or knet.NECK.STRIDE % knet.MASK_STRIDE:
        raise UsageError(
            f"MODEL.KNET.MASK_STRIDE {knet.MASK_STRIDE} must divide MODEL.KNET.NECK.STRIDE "
            f"{knet.NECK.STRIDE}"
        )


def _check_semantic(cfg, num_workers: int) -> None:
    head, semantic = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.KNET.SEMANTIC
    if cfg.MODEL.MASK_ON:
        raise UsageError("a semantic K-Net learns from label maps: set MODEL.MASK_ON False")
    _check_registries(cfg, SEMANTIC_REGISTRIES)
    if head.NAME != "KNetSemSegHead":
        raise UsageError(
            f"MODEL.SEM_SEG_HEAD.NAME is '{head.NAME}': with MODEL.META_ARCHITECTURE SemanticKNet "
            "it is KNetSemSegHead, and MODEL.KNET.SEMANTIC.BASE_HEAD names the head underneath"
        )
    if cfg.MODEL.KNET.NUM_STAGES < 0:
        raise UsageError(
            f"MODEL.KNET.NUM_STAGES is {cfg.MODEL.KNET.NUM_STAGES}: 0 (the base head alone) or more"
        )
    if semantic.BASE_HEAD == "DeepLabV3Head" and head.ASPP_CHANNELS != head.CONVS_DIM:
        raise UsageError(
            f"DeepLabV3Head classifies what its ASPP gives: set MODEL.SEM_SEG_HEAD.CONVS_DIM "
            f"{head.CONVS_DIM} and ASPP_CHANNELS {head.ASPP_CHANNELS} to one number"
        )
    if semantic.BASE_HEAD == "DeepLabV3PlusHead":
        _check_project_channels(head)
    num_parts = cfg.SOLVER.ACCUMULATE
    one_image = (1 if head.NORM == "SyncBN" else num_workers) * num_parts >= (
        cfg.SOLVER.IMS_PER_BATCH
    )
    if one_image and semantic.BASE_HEAD in GLOBAL_POOLING and head.NORM in ("BN", "SyncBN"):
        raise UsageError(
            f"{semantic.BASE_HEAD} cannot learn BatchNorm from one image at a time: set "
            f"SOLVER.IMS_PER_BATCH to {2 * num_workers * num_parts} or more, or "
            "MODEL.SEM_SEG_HEAD.NORM to GN"
        )


def _check_shared_batch(cfg, num_workers: int) -> None:
    """What several processes have to share."""
    share = cfg.MODEL.KNET.LOSS.NORMALIZER
    if share not in SHARES:
        raise UsageError(f"MODEL.KNET.LOSS.NORMALIZER is '{share}', known are {', '.join(SHARES)}")
    if cfg.MODEL.META_ARCHITECTURE != "SemanticKNet" or num_workers == 1:
        return
    if cfg.MODEL.DEVICE == "cpu" and cfg.MODEL.SEM_SEG_HEAD.NORM == "SyncBN":
        raise UsageError(
            "MODEL.SEM_SEG_HEAD.NORM SyncBN works among GPUs only: with MODEL.DEVICE cpu and "
            "several processes set it to naiveSyncBN or BN"
        )


def _check_project_channels(head) -> None:
    if len(head.PROJECT_CHANNELS) != len(head.IN_FEATURES) - 1:
        raise UsageError(
            f"MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS is {list(head.PROJECT_CHANNELS)}: "
            "DeepLabV3PlusHead needs one entry for each of MODEL.SEM_SEG_HEAD.IN_FEATURES "
            f"{list(head.IN_FEATURES)} but the coarsest"
        )


def _check_solver(cfg, num_workers: int) -> None:
    if cfg.SOLVER.IMS_PER_BATCH % num_workers:
        raise UsageError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} images cannot be shared by "
            f"{num_workers} processes: make it a multiple of {num_workers}"
        )
    check_saving(cfg, num_workers)


def _check_model_file(cfg) -> None:
    ending = cfg.MODEL_FILE.FORMAT
    if ending not in ("", *FORMATS):
        raise UsageError(
            f"MODEL_FILE.FORMAT is '{ending}': it is {' or '.join(FORMATS)}, or '' for no file"
        )
    if ending == "safetensors" and find_spec("safetensors") is None:
        raise UsageError(
            "MODEL_FILE.FORMAT safetensors needs the package safetensors: pip install safetensors, "
            "or set it to pth"
        )
    if cfg.MODEL_FILE.HALF and not (ending or cfg.MODEL_FILE.BEST_METRIC):
        raise UsageError(
            "MODEL_FILE.HALF is True, but no model file is written: set MODEL_FILE.FORMAT to pth"
        )
    check_best_metric(cfg)


def check_datasets(cfg, eval_only: bool = False) -> None:
    """Look, before training, whether the data sets are registered and all their files are there.

    Args:
        cfg: the config.
        eval_only: the images of ``DATASETS.TRAIN`` are not asked for.

    Raises:
        UsageError: a name that is not registered, or a class whose colour is none.
        DatasetError: a file or folder that does not exist, or what
            :func:`knet.data.checks.before_training.check_before_training` finds.
    """
    register_custom_datasets(cfg)
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if name not in DatasetCatalog.list():
                raise UsageError(
                    f"DATASETS.{key} names '{name}', which is not registered: describe it in "
                    "DATASETS.CUSTOM, or correct the name"
                )
            _check_files(name, key)
            for kind in ("thing", "stuff"):
                metadata_colors(MetadataCatalog.get(name), f"{kind}_colors")
    trained = () if eval_only else cfg.DATASETS.TRAIN
    names = dict.fromkeys((*trained, *cfg.DATASETS.TEST))
    check_before_training(
        {n: load_to_check(n) if n in trained else load_dicts(n) for n in names},
        ImageReader.from_config(cfg),
        tolerated=[
            name
            for name in names
            if cfg.DATALOADER.MAX_UNREADABLE and name not in cfg.DATASETS.TEST
        ],
    )
    _check_expected_results(cfg)
    for name in cfg.DATASETS.TEST:
        check_evaluator(cfg, name)  # loads it: finds what is wrong now and not after training
        if cfg.INPUT.FORMAT == RAW:
            check_image(cfg, load_dicts(name))
        if cfg.TEST.EXPECTED_RESULTS:
            _check_expected_tasks(cfg, name)


def _check_expected_results(cfg) -> None:
    """Their form, and whether there is one data set to compare them on."""
    for expected in cfg.TEST.EXPECTED_RESULTS:
        if not isinstance(expected, (list, tuple)) or len(expected) != 4:
            raise UsageError(
                f"TEST.EXPECTED_RESULTS has {expected!r}: each is a task, a metric, its value and "
                'how much it may differ, such as ["panoptic_seg", "PQ", 50.0, 1.0]'
            )
    if cfg.TEST.EXPECTED_RESULTS and not cfg.DATASETS.TEST:
        raise UsageError(
            "TEST.EXPECTED_RESULTS cannot be compared, as DATASETS.TEST is empty: name a data set, "
            "or set TEST.EXPECTED_RESULTS []"
        )
    if cfg.TEST.EXPECTED_RESULTS and len(cfg.DATASETS.TEST) > 1:
        raise UsageError(
            "TEST.EXPECTED_RESULTS is compared on one data set, and DATASETS.TEST has "
            f"{len(cfg.DATASETS.TEST)}: name one, or set TEST.EXPECTED_RESULTS []"
        )


def _check_expected_tasks(cfg, name: str) -> None:
    """Whether an evaluation on a data set gives them."""
    if not is_measured(load_dicts(name)):
        raise UsageError(
            f"TEST.EXPECTED_RESULTS cannot be compared on '{name}' in DATASETS.TEST, which has "
            "no ground truth: set TEST.EXPECTED_RESULTS []"
        )
    tasks = measured_tasks(cfg, name)
    for task, *_ in cfg.TEST.EXPECTED_RESULTS:
        if tasks is not None and task not in tasks:
            raise UsageError(
                f"TEST.EXPECTED_RESULTS names {task!r}, which is not measured on '{name}' in "
                f"DATASETS.TEST: name {' or '.join(tasks)}"
            )


# in metadata; a panoptic data set can do without its instances json
_FILES = ("panoptic_json", "panoptic_root", "sem_seg_root", "image_root")


def _check_files(name: str, key: str) -> None:
    metadata = MetadataCatalog.get(name)
    prepare = metadata.get("prepare")
    if prepare is not None:  # a data set that the project writes itself
        prepare()
    for what in _FILES:
        path = metadata.get(what)
        if path is not None and not PathManager.exists(path):
            raise DatasetError(
                f"{path} ({what} of '{name}' in DATASETS.{key}) does not exist: {MEND_PATHS}"
            )
