"""Batch, rate and schedule of a recipe on another number of processes."""

import logging

import pytest

from knet.engine.main import prepare
from knet.engine.scaling import scale_to_processes
from knet.errors import UsageError


@pytest.fixture
def recipe(tiny_config):
    """For eight processes of two images."""
    tiny_config.SOLVER.REFERENCE_WORLD_SIZE = 8
    tiny_config.SOLVER.IMS_PER_BATCH = 16
    tiny_config.SOLVER.BASE_LR = 0.0008
    tiny_config.SOLVER.MAX_ITER = 1000
    tiny_config.SOLVER.STEPS = (600, 800)
    tiny_config.SOLVER.WARMUP_ITERS = 100
    tiny_config.SOLVER.CHECKPOINT_PERIOD = 50
    tiny_config.TEST.EVAL_PERIOD = 0
    return tiny_config


def test_everything_is_scaled_before_it_is_looked_at(recipe, caplog):
    with caplog.at_level(logging.INFO, logger="knet"):
        prepare(recipe, num_gpus=0)
    assert "of 8 processes is scaled to 1: SOLVER.IMS_PER_BATCH 2, BASE_LR 0.0001" in caplog.text
    solver = recipe.SOLVER
    assert (solver.IMS_PER_BATCH, solver.REFERENCE_WORLD_SIZE) == (2, 1)
    assert pytest.approx(0.0001) == solver.BASE_LR
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (8000, (4800, 6400), 800)
    assert (solver.CHECKPOINT_PERIOD, recipe.TEST.EVAL_PERIOD) == (400, 0)
    before = recipe.dump()
    scale_to_processes(recipe, 1)
    assert recipe.dump() == before


def test_a_batch_that_only_fits_scaled_is_taken(recipe):
    scale_to_processes(recipe, 3)
    assert recipe.SOLVER.IMS_PER_BATCH == 6


def test_no_period_becomes_never(recipe):
    recipe.SOLVER.CHECKPOINT_PERIOD = recipe.TEST.EVAL_PERIOD = recipe.SOLVER.MAX_ITER = 3
    scale_to_processes(recipe, 64)
    assert recipe.SOLVER.CHECKPOINT_PERIOD == recipe.TEST.EVAL_PERIOD == recipe.SOLVER.MAX_ITER == 1


def test_without_the_key_nothing_changes(tiny_config):
    before = tiny_config.dump()
    scale_to_processes(tiny_config, 4)
    assert tiny_config.dump() == before


@pytest.mark.parametrize("reference", [3, -1])
def test_a_reference_that_shares_no_batch_is_told(recipe, reference):
    recipe.SOLVER.REFERENCE_WORLD_SIZE = reference
    with pytest.raises(UsageError, match="REFERENCE_WORLD_SIZE is"):
        scale_to_processes(recipe, 2)
