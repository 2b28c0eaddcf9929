"""Evaluating a model for its report."""

import numpy as np
import torch

from knet.engine import KNetTrainer
from knet.engine.main import load_config
from knet.engine.model_file import save_model
from knet.evaluation import inference_folder
from knet.report.evaluate import evaluate_weights
from knet.report.pixel_scores import read_pixel_scores
from knet.report.tallies import Calibration
from tests.conftest import TINY, pairs
from tests.evaluation.test_without_truth import SEMANTIC_CONFIG, SMALL_HEAD


def test_scores_of_several_views_are_probabilities_already(shapes, tmp_path):
    """A single view gives the calibration that the model has without."""
    options = {**TINY, **SMALL_HEAD, "DATASETS.TEST": (shapes.val,), "TEST.AUG.MIN_SIZES": ()}
    options |= {"TEST.AUG.FLIP": False, "DATASETS.TRAIN": (shapes.train,)}
    bins = []
    for enabled in (False, True):
        cfg = load_config(SEMANTIC_CONFIG, pairs({**options, "TEST.AUG.ENABLED": enabled}))
        torch.manual_seed(0)
        weights, folder = tmp_path / f"{enabled}.pth", str(tmp_path / str(enabled))
        save_model(KNetTrainer.build_model(cfg), weights)
        evaluate_weights(str(weights), shapes.val, folder)
        bins.append(read_pixel_scores(inference_folder(folder, shapes.val)).to_plain())
    assert np.allclose(*bins) and bins[0] != Calibration().to_plain()
