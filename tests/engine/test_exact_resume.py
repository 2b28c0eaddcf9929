"""A run that was stopped and went on ends with what it would have ended with, bit for bit."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from knet.checkpoint.safe_load import load_file
from knet.engine import checkpointer
from tests.conftest import REPO
from tests.engine.processes import of_torchrun, train_net_in

DEMOS = REPO / "configs" / "demo"
SEMANTIC = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.KNET.KERNEL_UPDATE.FEEDFORWARD_CHANNELS": 32,
    "MODEL.KNET.KERNEL_UPDATE.DROPOUT": 0.1,
    "MODEL.KNET.LOSS.SAMPLED_CELLS": 1000,
    "INPUT.CROP.SIZE": (64, 64),
    "INPUT.COLOR_AUG_SSD": True,
    "SOLVER.IMS_PER_BATCH": 2,
    "TEST.EXPECTED_RESULTS": [],
}
TASKS = {
    "panoptic": {
        "INPUT.CROP.ENABLED": True,
        "MODEL.KNET.KERNEL_UPDATE.DROPOUT": 0.1,
        "MODEL.KNET.LOSS.SAMPLED_CELLS": 50,
    },
    "instance": {
        "MODEL.KNET.NUM_STUFF_CLASSES": 0,
        "MODEL.KNET.TEST.PANOPTIC_ON": False,
        "MODEL.KNET.TEST.SEMANTIC_ON": False,
        "INPUT.MIN_SIZE_TRAIN": (48, 64, 80),
        "SOLVER.OPTIMIZER": "MUON",
    },
    "semantic": SEMANTIC,
}


def differences(a, b, where="") -> list:
    """Where two checkpoints differ at all."""
    if isinstance(a, dict):
        if set(a) != set(b):
            return [f"{where}: {set(a) ^ set(b)}"]
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)}"]
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{where}/{i}")]
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    return [] if a == b else [f"{where}: {a} and {b}"]


def final(output) -> dict:
    return load_file(str(output / "model_final.pth"))


def stopped_after(output, copy, iterations: int) -> None:
    """The folder as it was when the process was killed after so many iterations."""
    name = f"model_{iterations - 1:07d}.pth"
    copy.mkdir()
    shutil.copy(output / name, copy)
    (copy / "last_checkpoint").write_text(name)


@pytest.fixture
def options(tiny_options, shapes):
    """Six iterations, a checkpoint and an evaluation at each third."""

    def of(task: str, **more) -> dict:
        base = {} if task == "semantic" else tiny_options
        return {
            **base,
            **TASKS[task],
            "DATASETS.TRAIN": (shapes.train,),
            "DATASETS.TEST": (shapes.val,),
            "OUTPUT_DIR": tiny_options["OUTPUT_DIR"],
            "SOLVER.MAX_ITER": 6,
            "SOLVER.CHECKPOINT_PERIOD": 3,
            "TEST.EVAL_PERIOD": 3,
            **more,
        }

    return of


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", TASKS)
def test_going_on_is_never_having_stopped(train_net, options, tmp_path, task, workers):
    words = options(task, **{"DATALOADER.NUM_WORKERS": workers})
    config = str(DEMOS / f"knet_{'semantic' if task == 'semantic' else 'panoptic'}_shapes.yaml")
    assert train_net(config_file=config, options=words).status == 0
    stopped_after(tmp_path / "output", tmp_path / "again", 3)
    words["OUTPUT_DIR"] = str(tmp_path / "again")
    outcome = train_net("--resume", config_file=config, options=words)
    assert outcome.status == 0 and "not exactly" not in outcome.out
    straight, again = (
        load_file(str(tmp_path / d / "model_final.pth")) for d in ("output", "again")
    )
    # weights, optimizer, schedule, random states, position in the data
    assert {"model", "trainer"} < set(straight)
    assert {"ExactResume", "LRScheduler"} <= set(straight["trainer"]["hooks"])
    assert differences(straight, again) == []
    # what is compared does change
    first = load_file(str(tmp_path / "output" / "model_0000002.pth"))
    assert len(differences(first, straight)) > 50


def test_the_next_images_come_and_not_the_first_again(train_net, options, tmp_path):
    words = options("panoptic", **{"DATASETS.TEST": (), "SOLVER.CHECKPOINT_PERIOD": 2})
    assert train_net(options=words).status == 0
    hooks = final(tmp_path / "output")["trainer"]["hooks"]
    (process,) = hooks["ExactResume"]["processes"]
    assert process["done"] == {0: 12}, "six batches of two"


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_warning(train_net, options, tmp_path):
    words = options("panoptic", **{"DATASETS.TEST": ()})
    assert train_net(options=words).status == 0
    stopped_after(tmp_path / "output", tmp_path / "again", 3)
    path = tmp_path / "again" / "model_0000002.pth"
    content = load_file(str(path))
    del content["trainer"]["hooks"]["ExactResume"]
    torch.save(content, path)
    words["OUTPUT_DIR"] = str(tmp_path / "again")
    outcome = train_net("--resume", options=words)
    assert outcome.status == 0
    assert "does not tell the position in the data" in outcome.out
    assert final(tmp_path / "again")["iteration"] == 5


def test_a_run_whose_model_had_less_does_not_go_on(train_net, options, tmp_path):
    """As the fast form before version 0.7, which had no votes; as MODEL.WEIGHTS its file serves."""
    fast = {"MODEL.KNET.KERNEL_HEAD.NAME": "PointKernelHead", "DATASETS.TEST": ()}
    words = options("panoptic", **fast, **{"SOLVER.MAX_ITER": 2})
    assert train_net(options=words).status == 0
    path = tmp_path / "output" / "model_final.pth"
    content = load_file(str(path))
    names = [name for name in content["model"] if ".vote_proj." in name]
    for name in names:
        del content["model"][name]
    groups = content["trainer"]["_trainer"]["optimizer"]["param_groups"]
    del max((group["params"] for group in groups), key=len)[: len(names)]
    torch.save(content, path)
    words["SOLVER.MAX_ITER"] = 3
    sentence = train_net("--resume", options=words).sentence()
    assert "older version, whose model had no kernel_head.vote_proj.weight" in sentence
    assert sentence.endswith("another OUTPUT_DIR with this file as its MODEL.WEIGHTS")
    words.update({"OUTPUT_DIR": str(tmp_path / "again"), "MODEL.WEIGHTS": str(path)})
    assert train_net(options=words).status == 0


def test_other_loader_workers_are_told(train_net, options, tmp_path):
    words = options("panoptic", **{"DATASETS.TEST": ()})
    assert train_net(options=words).status == 0
    stopped_after(tmp_path / "output", tmp_path / "again", 3)
    words.update({"OUTPUT_DIR": str(tmp_path / "again"), "DATALOADER.NUM_WORKERS": 1})
    outcome = train_net("--resume", options=words)
    assert outcome.status == 0
    assert "Going on, but not exactly: DATALOADER.NUM_WORKERS" in outcome.out


def two_processes(*flags: str, words: dict, folder) -> None:
    variables = of_torchrun(2)
    outcomes = train_net_in(variables, "--num-gpus", "0", *flags, options=words, folder=folder)
    assert [o.status for o in outcomes] == [0, 0], [o.err[-2000:] for o in outcomes]
    assert "not exactly" not in outcomes[0].out


def test_two_processes_go_on_exactly(train_net, options, pottery, tmp_path):
    pottery.add_ordinary(3)
    data = {**pottery.write().options(), "DATASETS.TEST": ()}
    words = options("panoptic", **data)
    two_processes(words=words, folder=tmp_path)
    stopped_after(tmp_path / "output", tmp_path / "again", 3)
    words["OUTPUT_DIR"] = str(tmp_path / "again")
    two_processes("--resume", words=words, folder=tmp_path)
    straight, again = (
        load_file(str(tmp_path / d / "model_final.pth")) for d in ("output", "again")
    )
    processes = straight["trainer"]["hooks"]["ExactResume"]["processes"]
    assert len(processes) == 2 and differences(*processes), "each its own random draws"
    assert differences(straight, again) == []

    # one process goes on where the two were
    again = tmp_path / "one"
    stopped_after(tmp_path / "output", again, 3)
    words["OUTPUT_DIR"] = str(again)
    outcome = train_net("--resume", options=words)
    assert outcome.status == 0 and "2 processes have become 1" in outcome.out
    hooks = final(again)["trainer"]["hooks"]
    (process,) = hooks["ExactResume"]["processes"]
    assert process["offset"] + sum(process["done"].values()) == 12


def test_processes_that_find_different_checkpoints(train_net, tiny_options, monkeypatch):
    """As on machines that do not share the folder: they would learn from different weights."""
    short = {**tiny_options, "SOLVER.MAX_ITER": 1, "DATASETS.TEST": ()}
    assert train_net(options=short).status == 0
    others = SimpleNamespace(all_gather=lambda name: [name, ""])
    monkeypatch.setattr(checkpointer, "comm", others)
    outcome = train_net("--resume", options=short)
    assert "(model_final.pth, none): all machines must share it" in outcome.sentence()
