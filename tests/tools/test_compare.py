"""tools/compare.py: several configs, one table."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import DEMO_CONFIG, REPO, pairs

PROGRAM = str(REPO / "projects" / "KNet" / "tools" / "compare.py")


def test_a_row_for_each_config(tmp_path):
    files = []
    for stages in (1, 2):
        path = tmp_path / f"stages_{stages}.yaml"
        content = {"_BASE_": DEMO_CONFIG, "OUTPUT_DIR": str(tmp_path / path.stem)}
        content["MODEL"] = {"KNET": {"NUM_STAGES": stages}}
        path.write_text(yaml.safe_dump(content))
        files.append(str(path))
    small = {
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": (),
        "INPUT.MIN_SIZE_TEST": 32,
        "TEST.EXPECTED_RESULTS": [],
    }
    told = subprocess.run(
        [sys.executable, PROGRAM, *files, "--", *pairs(small)], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr[-2000:]
    *_, header, _, first, second = told.stdout.strip().splitlines()
    assert header == "| config | PQ | mask AP | mIoU | minutes | CPU minutes |"
    assert files[0] in first and files[1] in second and first.count("|") == header.count("|")


@pytest.fixture
def compare(monkeypatch, capsys):
    """Runs the program; a run named "broken" fails, others have the mask AP
    30, with seeds 29 and the seed. Returns its status,
    what it printed, its errors and the configs that were started."""
    program = importlib.import_module("knet.commands.compare")
    started = []

    def train_net(command):
        path = Path(command[command.index("--config-file") + 1])
        started.append(path.stem)
        if path.stem != "broken":
            folder, ap = Path(yaml.safe_load(path.read_text())["OUTPUT_DIR"]), 30.0
            if "OUTPUT_DIR" in command:
                folder = Path(command[command.index("OUTPUT_DIR") + 1])
                ap = 29.0 + int(command[command.index("SEED") + 1])
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps({"segm/AP": ap}))
        return subprocess.CompletedProcess(command, int(path.stem == "broken"))

    monkeypatch.setattr(program.subprocess, "run", train_net)

    def run(*words):
        status = program.main([str(word) for word in words])
        return status, *capsys.readouterr(), started

    return run


@pytest.fixture
def configs(tmp_path):
    """Three config files; the second is named "broken"."""
    files = [tmp_path / f"{name}.yaml" for name in ("first", "broken", "last")]
    for file in files:
        content = {"_BASE_": DEMO_CONFIG, "OUTPUT_DIR": str(tmp_path / file.stem)}
        file.write_text(yaml.safe_dump(content))
    return files


def test_a_run_that_fails_is_named_and_the_others_have_their_row(compare, configs):
    status, out, error, started = compare(*configs)
    assert status == 1 and started == ["first", "broken", "last"]
    assert error.strip() == f"compare.py: {configs[1]} stopped with status 1"
    header, _, *rows = out.strip().splitlines()
    assert header == "| config | mask AP | minutes | CPU minutes |"
    assert [row.split(" | ")[:2] for row in rows] == [[f"| `{configs[i]}`", "30.0"] for i in (0, 2)]


def test_several_seeds_give_the_mean_and_the_range(compare, configs):
    status, out, _, started = compare("--seeds", "1,2,3", configs[0], configs[2])
    assert status == 0 and started == ["first"] * 3 + ["last"] * 3
    first, last = out.strip().splitlines()[2:]
    # the runs' figures are 30, 31 and 32 by their seed
    assert first.startswith(f"| `{configs[0]}` | 31.0 (30.0 to 32.0) | ")
    assert last.startswith(f"| `{configs[2]}` | 31.0 (30.0 to 32.0) | ")
    folders = [configs[0].parent / "first" / str(seed) for seed in (1, 2, 3)]
    assert all((folder / "metrics.json").exists() for folder in folders)


def test_where_every_run_fails_there_is_no_table(compare, configs):
    status, out, _, _ = compare(configs[1])
    assert (status, out) == (1, "")


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["none.yaml"], "none.yaml does not exist"),
        (["SOLVER.MAX_ITER", "5"], "SOLVER.MAX_ITER is no config file: options KEY VALUE stand"),
        (["SOLVER.MAX_ITER=5"], "SOLVER.MAX_ITER=5 is no config file: options KEY VALUE stand"),
        (["--", "OUTPUT_DIR", "x"], "OUTPUT_DIR behind -- would be one folder for all runs"),
        (["--", "SOLVER.MAX_ITERS", "5"], "did you mean SOLVER.MAX_ITER?"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_run(compare, configs, words, sentence):
    status, out, error, started = compare(*configs, *words)
    assert (status, out, started) == (1, "", [])
    assert sentence in error and error.count("\n") == 1
