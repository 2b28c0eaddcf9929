"""Evaluating a model for its report: a file of weights and a data set become a run's folder."""

import logging
import os
from pathlib import Path

from detectron2.evaluation import DatasetEvaluators

from ..data.datasets.custom import register_custom_datasets
from ..data.training_images import load_dicts
from ..engine import KNetTrainer
from ..engine.checks import check_datasets
from ..engine.main import load_config
from ..errors import UsageError
from ..evaluation import build_evaluator, inference_folder
from ..evaluation.build import MODEL_RESULTS
from ..files import replacing
from ..model_zoo import load_model
from ..visualization.results import SemanticResults
from .pixel_scores import PixelScores

__all__ = ["evaluate_weights"]

logger = logging.getLogger(__name__)


def evaluate_weights(weights: str, dataset: str, folder: str, config_file: str = "") -> str:
    """Evaluate a model; what it predicts is kept in ``folder`` as in the OUTPUT_DIR of a run.

    Args:
        weights: a file that tells its config, or any with ``config_file``.
        dataset: registered, or described in the config's DATASETS.CUSTOM.
        folder: for the predictions and ``config.yaml``.
        config_file: of the model.

    Returns:
        the ``config.yaml`` written.

    Raises:
        UsageError, DatasetError: see :func:`knet.load_model` and
            :func:`knet.engine.checks.check_datasets`.
    """
    model = load_model(config_file, weights) if config_file else load_model(weights)
    cfg = model.info.cfg.clone()
    cfg.defrost()
    cfg.DATASETS.CUSTOM = load_config(config_file).DATASETS.CUSTOM if config_file else []
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (dataset,)
    cfg.TEST.EXPECTED_RESULTS, cfg.TEST.KEEP_PANOPTIC = [], True
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = os.path.abspath(weights), folder
    register_custom_datasets(cfg)
    check_datasets(cfg, eval_only=True)
    path = Path(folder, "config.yaml")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(cfg.dump(), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): choose another --output"
        ) from error
    logger.info("Evaluating %s on '%s' ...", weights, dataset)
    evaluators = [build_evaluator(cfg, dataset)]
    if any(key in d for d in load_dicts(dataset) for key in SemanticResults.TRUTH_KEYS):
        # the mean over the views of test-time augmentation is one of probabilities
        logits = cfg.MODEL.META_ARCHITECTURE in MODEL_RESULTS and not cfg.TEST.AUG.ENABLED
        evaluators.append(PixelScores(dataset, inference_folder(folder, dataset), logits=logits))
    KNetTrainer.test(cfg, model, [DatasetEvaluators(evaluators)])
    return str(path)
