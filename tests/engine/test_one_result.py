"""Two processes come to what one with the whole batch comes to: losses, weights and evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from knet.checkpoint.safe_load import load_file
from tests.conftest import DEMO_CONFIG, PUBLISHED_FORM, TINY, PanopticFolder
from tests.engine.processes import of_torchrun, train_net_in
from tests.engine.test_exact_resume import DEMOS, TASKS
from tests.engine.test_train_net import LENIENT, results

SEMANTIC_CONFIG = str(DEMOS / "knet_semantic_shapes.yaml")
# The same images for both: no random draws, no padding; an image's result does not depend on others
ALIKE = {
    "INPUT.RANDOM_FLIP": "none",
    "INPUT.CROP.ENABLED": False,
    "INPUT.SCALE_RANGE": (),
    "INPUT.COLOR_AUG_SSD": False,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MAX_SIZE_TRAIN": 96,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.KNET.SEMANTIC.DROPOUT": 0.0,
    "MODEL.KNET.KERNEL_UPDATE.DROPOUT": 0.0,
    "MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH": True,
    "MODEL.KNET.LOSS.VOTE_WEIGHT": 1.0,
    "MODEL.KNET.LOSS.NORMALIZER": "batch",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    # AdamW would make large steps of rounding errors: it divides by the size of the gradient
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 5,
    "SEED": 1,
}


@pytest.fixture
def uneven(tmp_path) -> PanopticFolder:
    """Images of one size with 2, 0, 4 and 1 objects and different shares of void; one all void."""
    folder = PanopticFolder(tmp_path)
    rng = np.random.default_rng(0)
    for count in (2, 0, 4, 1):
        ids = np.zeros((40, 64), int)
        ids[3 * count :] = 9
        for k in range(count):
            top, left = 14 + 3 * k, rng.integers(0, 10) + 12 * k
            ids[top : top + 9, left : left + 10] = 100 + k
        classes = {9: (folder.WALL,)}
        classes.update({100 + k: ([folder.CUP, folder.PLATE][k % 2],) for k in range(count)})
        if count == 0:
            ids, classes = np.zeros_like(ids), {}
        folder.add(ids, classes)
    return folder.write()


def train_both(options, tmp_path: Path, config_file: str = DEMO_CONFIG):
    """The checkpoint and the logged losses of one process, and of two at the same time."""
    outputs = [tmp_path / "one", tmp_path / "two", tmp_path / "two"]
    outcomes = train_net_in(
        [{}, *of_torchrun(2)],
        *("--num-gpus", "0"),
        options=options,
        folder=tmp_path,
        config_file=config_file,
        outputs=outputs,
        exactly=True,
    )
    assert [o.status for o in outcomes] == [0, 0, 0], [o.err[-2000:] for o in outcomes]
    results = []
    for output in outputs[:2]:
        last = json.loads((output / "metrics.json").read_text().splitlines()[-1])
        losses = {key: value for key, value in last.items() if "loss" in key}
        results.append((load_file(str(output / "model_final.pth"))["model"], losses))
    return results


def options_of(task: str, pottery: PanopticFolder) -> dict:
    tiny = {} if task == "semantic" else TINY
    if task == "instance":  # its fast form, whose kernels start at points
        tiny = {key: value for key, value in tiny.items() if key not in PUBLISHED_FORM}
    return {**tiny, **TASKS[task], **pottery.options(), "DATASETS.TEST": (), **ALIKE}


@pytest.mark.parametrize(
    "task, cells",
    [("panoptic", 0), ("instance", 0), ("semantic", 0), ("panoptic", 40), ("semantic", 500)],
)
def test_two_processes_learn_what_one_does(uneven, tmp_path, task, cells):
    """In double precision: rounding moves no unit over its kink, no pixel over a threshold.

    Losses look at all cells, or at the same of every image.
    """
    config_file = SEMANTIC_CONFIG if task == "semantic" else DEMO_CONFIG
    options = {**options_of(task, uneven), "MODEL.KNET.LOSS.SAMPLED_CELLS": cells}
    (one, losses), (two, shared) = train_both(options, tmp_path, config_file)
    assert set(losses) == set(shared) and len(losses) > 4
    for name, loss in losses.items():
        assert shared[name] == pytest.approx(loss, rel=1e-10, abs=1e-12), name
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-12, msg=name)
    assert one["backbone.bottom_up.stem.conv1.weight"].dtype == torch.float64


def test_two_processes_report_what_one_does(uneven, train_net, tmp_path):
    """Each image once, though one process has fewer of them."""
    del uneven.content["images"][1], uneven.content["annotations"][1]
    uneven.write()
    options = {**options_of("panoptic", uneven), **uneven.options(), **LENIENT}
    trained = {**options, "DATASETS.TEST": (), "OUTPUT_DIR": str(tmp_path / "trained")}
    assert train_net(options=trained).status == 0
    options["MODEL.WEIGHTS"] = str(tmp_path / "trained" / "model_final.pth")
    outputs = [tmp_path / "one", tmp_path / "two", tmp_path / "two"]
    outcomes = train_net_in(
        [{}, *of_torchrun(2)],
        *("--eval-only", "--num-gpus", "0"),
        options=options,
        folder=tmp_path,
        outputs=outputs,
    )
    assert [o.status for o in outcomes] == [0, 0, 0], [o.err[-2000:] for o in outcomes]
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    instances = f"{uneven.name}/instances_predictions.pth"  # a pickle has more than one form
    one[instances], two[instances] = (
        load_file(str(o / "inference" / instances)) for o in outputs[:2]
    )
    assert len(one) > 4 and len(one[instances]) == 3 and one == two
