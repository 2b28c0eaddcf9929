"""docs/extend.md: its blocks run one after the other; its commands train."""

import importlib
import shlex

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, build_model

from knet.engine.main import load_config
from tests.conftest import DEMO_CONFIG, REPO, pairs
from tests.docs.pages import blocks, commands

PAGE = REPO / "docs" / "extend.md"
FOLDER = REPO / "projects" / "KNet" / "examples" / "extend"
PARTS = ("own_backbone", "own_kernel_head", "own_neck", "own_semantic_head", "own_task")


@pytest.fixture(scope="module")
def namespace():
    """After all blocks of the page."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for block in blocks(PAGE, "python"):
            exec(block.text, found)
        yield found
    for name in ("leaves_train", "leaves_val", "pots"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_blocks_run(namespace):
    assert namespace["instance_map"].shape == (1, 16, 16, 16)
    assert namespace["stage"].mask_logits.shape == (1, 8, 8, 8)
    assert "build_wide_stairs_fpn_backbone" in BACKBONE_REGISTRY
    assert MetadataCatalog.get("pots").evaluator_type == "counted"
    assert MetadataCatalog.get("leaves_val").thing_classes == ["leaf"]


def test_the_stage_of_the_page_is_one(namespace, tiny_options):
    """TwiceUpdateHead by its name, from the config to a loss."""
    options = {**tiny_options, "MODEL.KNET.KERNEL_UPDATE.NAME": "TwiceUpdateHead"}
    model = build_model(load_config(DEMO_CONFIG, pairs(options)))
    assert all(type(h).__name__ == "TwiceUpdateHead" for h in model.kernel_update_heads)
    assert model.kernel_update_heads[0].class_proj.out_features == 9


@pytest.mark.parametrize("i", (0, 1))
def test_a_command_trains(i, monkeypatch, train_net, tiny_options):
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in PARTS:
        importlib.import_module(name)
    monkeypatch.chdir(FOLDER)
    lines = [line for line, _ in commands(PAGE) if line.startswith("python train_net.py")]
    words = shlex.split(lines[i])
    config_file, changed = words[5], dict(zip(words[6::2], words[7::2]))
    sizes = ("INPUT.", "SOLVER.MAX_ITER", "SOLVER.STEPS", "TEST.EXPECTED", "OUTPUT_DIR", "DATASETS")
    keys = tuple(tiny_options) if "panoptic" in config_file else sizes
    options = {k: v for k, v in tiny_options.items() if k.startswith(keys)}
    assert train_net(config_file=config_file, options={**options, **changed}).status == 0
