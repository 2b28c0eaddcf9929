"""The configs of Cityscapes, made tiny, on a tree of four images: they learn and are evaluated."""

import importlib
import json
import math

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from knet.data.checks import check_data
from knet.engine.main import load_config
from knet.engine.trainer import KNetTrainer
from tests.conftest import REPO, pairs
from tests.data.datasets.cityscapes_tree import (
    ROAD,
    installed_scripts,
    instance_ids,
    register,
    tiny,
    write_split,
)

# as the tiny options of the other tests, for the configs that train from ImageNet weights
SMALL = {
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.BACKBONE.NORM_EVAL": False,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.SEM_SEG_HEAD.NORM": "BN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "MODEL.KNET.SEMANTIC.UPDATE_CHANNELS": 16,
    "MODEL.KNET.SEMANTIC.AUXILIARY_CHANNELS": 8,
    "INPUT.MAX_SIZE_TRAIN": 128,
    "INPUT.MAX_SIZE_TEST": 128,
    "INPUT.CROP.SIZE": [32, 64],
    "DATALOADER.NUM_WORKERS": 0,
}
TASKS = {
    "knet_panoptic_r50": {"panoptic_seg", "segm", "bbox", "sem_seg"},
    "knet_instance_r50": {"segm", "bbox"},
    "knet_fcn_r50": {"sem_seg"},
}


def config_file(name):
    return str(REPO / "configs" / "cityscapes" / f"{name}.yaml")


@pytest.fixture
def cityscapes(tmp_path, monkeypatch):
    """Two images to train on, two to test."""
    ids = instance_ids()
    root = tmp_path / "datasets"
    write_split(root, "train", {"aachen_000000_000019": ids, "ulm_000001_000019": ids[:, ::-1]})
    write_split(root, "val", {"bonn_000000_000019": ids, "bonn_000000_000038": ids[:, ::-1]})
    register(root, monkeypatch)


@pytest.fixture
def options(cityscapes, tiny_options):
    """Those that make a config tiny: ``options(name of the config)``."""

    def of_config(name):
        cfg = load_config(config_file(name))
        datasets = {f"DATASETS.{k}": tuple(map(tiny, cfg.DATASETS[k])) for k in ("TRAIN", "TEST")}
        return {**tiny_options, **SMALL, **datasets}

    return of_config


@pytest.mark.parametrize("name", TASKS)
def test_a_config_learns_and_is_evaluated(name, options, train_net, tmp_path):
    outcome = train_net(config_file=config_file(name), options=options(name))
    assert outcome.status == 0, outcome.err
    records = [json.loads(s) for s in (tmp_path / "output" / "metrics.json").open()]
    assert all(math.isfinite(r["total_loss"]) for r in records if "total_loss" in r)
    results = {key.split("/")[0] for key in records[-1] if "/" in key}
    assert results & {"panoptic_seg", "segm", "bbox", "sem_seg"} == TASKS[name]


@pytest.mark.parametrize("name", TASKS)
def test_the_check_of_the_data_gives_no_false_alarm(name, options):
    report = check_data(load_config(config_file(name), pairs(options(name))))
    found = {fault.kind for fault in report.faults}
    # images of noise, the same for training and test, of few classes
    assert found <= {"shared image", "absent class"}, report.table()
    assert len(report.statistics) == 2


def test_cityscapes_own_figures_come_with_its_scripts(options, train_net, tmp_path):
    with installed_scripts(tmp_path):
        for name, kinds in (
            ("knet_panoptic_r50", ("segm", "sem_seg")),
            ("knet_fcn_r50", ("sem_seg",)),
        ):
            small = {**options(name), "OUTPUT_DIR": str(tmp_path / name)}
            assert train_net(config_file=config_file(name), options=small).status == 0
            last = json.loads((tmp_path / name / "metrics.json").read_text().splitlines()[-1])
            for kind in kinds:
                own = {"segm": "AP", "sem_seg": "IoU"}[kind]
                assert last[f"cityscapes_{kind}/{own}"] == 100, "every image has a prediction"
                assert any(key.startswith(f"{kind}/") for key in last), "and the other figures"


def test_scripts_that_fail_with_a_newer_numpy_cost_their_figures_alone(
    options, train_net, tmp_path
):
    with installed_scripts(tmp_path):
        scripts = importlib.import_module(
            "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
        )
        scripts.evaluateImgLists = lambda *_: np.gone  # as in1d is since 2.4
        small = options("knet_fcn_r50")
        outcome = train_net(config_file=config_file("knet_fcn_r50"), options=small)
    assert outcome.status == 0 and "do not work with NumPy" in outcome.out
    last = json.loads((tmp_path / "output" / "metrics.json").read_text().splitlines()[-1])
    assert "sem_seg/mIoU" in last and not any(key.startswith("cityscapes_") for key in last)


def test_the_real_names_are_those_that_detectron2_registers():
    for name in TASKS:
        cfg = load_config(config_file(name))
        assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= set(DatasetCatalog.list())


def test_crops_are_of_one_size_and_lose_the_objects_outside(options):
    name = "knet_panoptic_r50"
    changes = {"INPUT.SCALE_RANGE": (1.0, 1.0), "SOLVER.IMS_PER_BATCH": 4}
    cfg = load_config(config_file(name), pairs({**options(name), **changes}))
    counts = set()
    for batch, _ in zip(KNetTrainer.build_train_loader(cfg), range(8)):
        for sample in batch:
            assert sample["image"].shape[1:] == (32, 64) == sample["sem_seg"].shape
            masks = sample["instances"].gt_masks.tensor
            assert masks.flatten(1).any(dim=1).all() and len(masks) <= 3, "a group is no object"
            counts.add(len(masks))
    assert len(counts) > 1


def test_a_semantic_model_can_learn_from_the_panoptic_set(options, train_net):
    small = {**options("knet_panoptic_r50"), "SOLVER.MAX_ITER": 1}
    assert train_net(config_file=config_file("knet_fcn_r50"), options=small).status == 0


def test_images_whose_crops_are_empty_teach_stuff(tmp_path, monkeypatch, tiny_options, train_net):
    thin = np.full((64, 128), ROAD, dtype=np.int32)
    thin[:2, :2] = 26000  # in hardly any crop
    for split in ("train", "val"):
        write_split(tmp_path / "roads", split, {f"ulm_00000{i}_000019": thin for i in range(2)})
    register(tmp_path / "roads", monkeypatch)
    names = {
        f"DATASETS.{key}": (tiny(f"cityscapes_fine_panoptic_{split}"),)
        for key, split in (("TRAIN", "train"), ("TEST", "val"))
    }
    for name in ("knet_panoptic_r50", "knet_instance_r50"):
        output = tmp_path / name
        options = {**tiny_options, **SMALL, **names, "OUTPUT_DIR": str(output)}
        assert train_net(config_file=config_file(name), options=options).status == 0
        losses = [json.loads(line) for line in (output / "metrics.json").open()]
        assert all(math.isfinite(r["total_loss"]) for r in losses if "total_loss" in r)
