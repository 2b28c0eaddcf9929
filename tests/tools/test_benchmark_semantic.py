"""tools/benchmark_semantic.py: steps of semantic models beside those of the first one."""

import runpy

import pytest
import torch

from tests.conftest import REPO

PROGRAM = str(REPO / "projects" / "KNet" / "tools" / "benchmark_semantic.py")
COMPARE = REPO / "configs" / "compare"


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch):
    """Other tests want theirs."""
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)


def test_two_models_in_turn(capsys):
    """A row each, the first has the ratio 1; crops that no stride divides."""
    configs = [str(COMPARE / f"camvid_{name}.yaml") for name in ("fcn", "knet_fcn_fast")]
    words = ["--size", "50x70", "--batch", "2", "--steps", "2", "--device", "cpu", *configs]
    options = ["--", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "64"]
    assert runpy.run_path(PROGRAM)["main"]([*words, *options]) == 0
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["config", "ms", "CPU ms", "ratio"]
    assert [line[0] for line in lines[2:]] == [f"`{config}`" for config in configs]
    assert lines[2][-1] == "1.00" and float(lines[3][-1]) > 0
    assert all(float(line[2]) > 0 for line in lines[2:])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.yaml"], "none.yaml does not exist"),
        (["--steps", "0", str(COMPARE / "camvid_fcn.yaml")], "--steps is 0"),
        ([str(COMPARE / "nuclei_knet_fast.yaml")], "measure it with benchmark.py"),
    ],
)
def test_what_cannot_be_measured_is_told(words, told, capsys):
    assert runpy.run_path(PROGRAM)["main"](words) == 1
    said = capsys.readouterr().err
    assert said.startswith("benchmark_semantic.py: ") and told in said
