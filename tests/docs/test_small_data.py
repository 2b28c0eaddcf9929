"""docs/small_data.md: its example loads, and its table of keys is what the configs say."""

import re

import pytest
import yaml

from knet.engine.main import load_config
from tests.conftest import REPO

PAGE = (REPO / "docs" / "small_data.md").read_text()
TASKS = ("panoptic", "instance", "semantic")


def rows():
    """(key, published, fast) of the table under "What is different"."""
    section = PAGE.split("## What is different")[1].split("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not cells[0].startswith("`"):
            continue
        for key in re.findall(r"`([A-Z_.]+)`", cells[0]):
            yield key, cells[1].strip("`"), cells[2].strip("`")


def value(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


@pytest.mark.parametrize("key, published, fast", rows(), ids=lambda text: str(text))
def test_a_row_of_the_table(key, published, fast):
    semantic = key.startswith("MODEL.KNET.SEMANTIC.")
    task = "semantic" if semantic else "panoptic"
    before = value(load_config(str(REPO / "configs" / f"knet_{task}.yaml")), key)
    after = value(load_config(str(REPO / "configs" / f"knet_{task}_fast.yaml")), key)
    if key != "SOLVER.LR_SCHEDULER_NAME":  # "steps" in words
        assert before == type(before)(yaml.safe_load(published))
    assert after == type(after)(yaml.safe_load(fast)) and after != before


def test_the_table_has_rows():
    assert len(list(rows())) >= 9


@pytest.mark.parametrize("task", TASKS)
def test_a_fast_config_differs_from_the_published_one_in_no_other_part_of_the_model(task):
    """Backbone, channels and kernels stay as published: what is told apart is in the table."""
    told = {key for key, *_ in rows()}
    published, fast = (
        leaves(load_config(str(REPO / "configs" / f"knet_{task}{suffix}.yaml")).MODEL, "MODEL.")
        for suffix in ("", "_fast")
    )
    assert {key for key in published if published[key] != fast[key]} <= told


def leaves(node, prefix):
    found = {}
    for key, entry in node.items():
        name = f"{prefix}{key}"
        found.update(leaves(entry, f"{name}.") if hasattr(entry, "items") else {name: entry})
    return found


def test_the_example_loads(tmp_path):
    example = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL).group(1)
    config = tmp_path / "cells.yaml"
    config.write_text(
        example.replace("knet_instance_fast", str(REPO / "configs/knet_instance_fast"))
    )
    cfg = load_config(str(config))
    assert cfg.DATASETS.TRAIN == ("cells_train",) and cfg.SOLVER.MAX_ITER == 3000
    assert cfg.MODEL.KNET.KERNEL_HEAD.NAME == "PointKernelHead"
