"""tools/benchmark_loading.py: the parts of loading an image add up."""

import runpy

import cv2
import pytest
import torch

from tests.conftest import DEMO_CONFIG, REPO, pairs

PROGRAM = str(REPO / "projects" / "KNet" / "tools" / "benchmark_loading.py")


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch):
    """Other tests want theirs."""
    for module, name in ((torch, "set_num_threads"), (cv2, "setNumThreads")):
        monkeypatch.setattr(module, name, lambda number: None)


def test_parts_add_up(shapes, capsys):
    options = pairs({"DATASETS.TRAIN": (shapes.train,), "DATASETS.TEST": ()})
    assert runpy.run_path(PROGRAM)["main"](["--images", "4", DEMO_CONFIG, *options]) == 0
    told = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| ")][
        1:
    ]
    *parts, (name, whole) = [(name, float(ms)) for name, ms in rows]
    assert name == "all" and all(ms > 0 for _, ms in parts)
    assert abs(sum(ms for _, ms in parts) - whole) < 0.1
    assert "images a second a worker" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.yaml"], "none.yaml does not exist"),
        (["--images", "0", DEMO_CONFIG], "--images is 0"),
        ([DEMO_CONFIG, "DATASETS.TRAIN", "('nowhere',)"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_told(words, told, capsys):
    assert runpy.run_path(PROGRAM)["main"](words) == 1
    said = capsys.readouterr().err
    assert said.startswith("benchmark_loading.py: ") and told in said
