"""The best model of a run is a file, whenever the run was stopped."""

import math

import pytest
import torch

import knet
from knet.checkpoint.safe_load import load_file
from knet.engine import trainer
from knet.engine.trainer import KNetTrainer

PQ = "panoptic_seg/PQ"


@pytest.fixture
def options(tiny_options):
    return {
        **tiny_options,
        "TEST.EVAL_PERIOD": 1,
        "SOLVER.CHECKPOINT_PERIOD": 1,
        "MODEL_FILE.BEST_METRIC": PQ,
    }


@pytest.fixture
def train(train_net, monkeypatch, options):
    """Trains until so many values of PQ have been measured."""

    def run(*values, flags=(), **more):
        left = iter(values)

        def measured(cfg, model):
            return {"panoptic_seg": {"PQ": next(left), "SQ": 9.0}}

        monkeypatch.setattr(KNetTrainer, "test", staticmethod(measured))
        return train_net(*flags, options={**options, **more})

    return run


def best(tmp_path):
    return load_file(str(tmp_path / "output" / "model_best.pth"))


def weights_of(tmp_path, iteration):
    return load_file(str(tmp_path / "output" / f"model_{iteration:07d}.pth"))["model"]


def equal(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize(
    "mode, values, at",
    [("max", (1.0, 3.0, 2.0), 1), ("min", (1.0, 3.0, 2.0), 0), ("max", (math.nan, 1.0, 1.0), 1)],
)
def test_it_is_that_of_the_best_evaluation(train, tmp_path, mode, values, at):
    assert train(*values, **{"SOLVER.MAX_ITER": 3, "MODEL_FILE.BEST_MODE": mode}).status == 0
    content = best(tmp_path)
    assert set(content) == {"model", "knet"}, "nothing of the training"
    assert content["knet"]["result"]["value"] == values[at]
    assert content["knet"]["result"]["metric"] == PQ
    assert equal(content["model"], weights_of(tmp_path, at))
    assert not equal(content["model"], weights_of(tmp_path, 2))
    assert (tmp_path / "output" / "last_checkpoint").read_text() == "model_final.pth"
    assert knet.load_model(str(tmp_path / "output" / "model_best.pth")).info.classes


def test_a_run_that_goes_on_knows_the_best(train, tmp_path):
    assert train(1.0, 3.0, **{"SOLVER.MAX_ITER": 2}).status == 0
    # as if killed after the evaluation and before another checkpoint
    assert train(2.0, 2.5, flags=["--resume"], **{"SOLVER.MAX_ITER": 4}).status == 0
    assert best(tmp_path)["knet"]["result"]["value"] == 3.0
    assert train(4.0, flags=["--resume"], **{"SOLVER.MAX_ITER": 5}).status == 0
    assert best(tmp_path)["knet"]["result"]["value"] == 4.0
    outcome = train(
        1.0,
        flags=["--resume"],
        **{"SOLVER.MAX_ITER": 6, "MODEL_FILE.BEST_METRIC": "panoptic_seg/SQ"},
    )
    assert f"is the best by {PQ}" in outcome.out
    assert best(tmp_path)["knet"]["result"]["metric"] == "panoptic_seg/SQ"


def test_safetensors_of_half_the_size(train, tmp_path):
    pytest.importorskip("safetensors")
    more = {"MODEL_FILE.FORMAT": "safetensors", "MODEL_FILE.HALF": True}
    assert train(1.0, 2.0, **more).status == 0
    path = tmp_path / "output" / "model_best.safetensors"
    assert load_file(str(path))["knet"]["result"]["value"] == 2.0
    assert train(1.5, flags=["--resume"], **more, **{"SOLVER.MAX_ITER": 3}).status == 0
    assert load_file(str(path))["knet"]["result"]["value"] == 2.0


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"MODEL_FILE.BEST_METRIC": "PQ"}, "panoptic_seg/PQ, segm/AP, sem_seg/mIoU"),
        ({"MODEL_FILE.BEST_METRIC": "panoptic_seg/AP"}, "panoptic_seg/PQ"),
        ({"MODEL_FILE.BEST_METRIC": "other/panoptic_seg/PQ"}, "panoptic_seg/PQ"),
        ({"MODEL_FILE.BEST_METRIC": "val_total_loss"}, "set TEST.VALIDATION_LOSS True"),
        ({"MODEL_FILE.BEST_MODE": "most"}, "max or min"),
        ({"DATASETS.TEST": ()}, "DATASETS.TEST is empty"),
    ],
)
def test_what_cannot_be_meant(train_net, options, changes, words):
    sentence = train_net(options={**options, **changes}).sentence()
    assert words in sentence and "MODEL_FILE.BEST_M" in sentence


def test_by_the_validation_loss(train, tmp_path, monkeypatch):
    """That of the same evaluation: it is measured before."""
    losses = iter((3.0, 1.0, 2.0))
    monkeypatch.setattr(
        trainer, "validation_losses", lambda cfg, model: {"val_total_loss": next(losses)}
    )
    more = {"TEST.VALIDATION_LOSS": True, "SOLVER.MAX_ITER": 3, "MODEL_FILE.BEST_MODE": "min"}
    outcome = train(1.0, 1.0, 1.0, **more, **{"MODEL_FILE.BEST_METRIC": "val_total_loss"})
    assert outcome.status == 0
    assert best(tmp_path)["knet"]["result"]["value"] == 1.0
    assert equal(best(tmp_path)["model"], weights_of(tmp_path, 1))


def test_a_figure_of_an_unknown_class(train):
    outcome = train(1.0, **{"MODEL_FILE.BEST_METRIC": "panoptic_seg/PQ-nothing"})
    sentence = outcome.sentence()
    assert "panoptic_seg/PQ, panoptic_seg/SQ" in sentence


def test_with_several_test_sets(train_net, options, shapes):
    options["DATASETS.TEST"] = (shapes.val, shapes.train)
    assert f"{shapes.val}/panoptic_seg/PQ" in train_net(options=options).sentence()
    options["MODEL_FILE.BEST_METRIC"] = f"{shapes.val}/panoptic_seg/PQ"
    options["SOLVER.MAX_ITER"] = 1
    assert train_net(options=options).status == 0
