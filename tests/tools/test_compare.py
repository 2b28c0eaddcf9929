"""tools/compare.py: several configs, one table."""

import subprocess
import sys

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
    assert header == "| config | PQ | mask AP | mIoU | minutes |"
    assert files[0] in first and files[1] in second and first.count("|") == header.count("|")


def test_a_run_that_fails_is_named(tmp_path):
    told = subprocess.run(
        [sys.executable, PROGRAM, str(tmp_path / "none.yaml")], capture_output=True, text=True
    )
    assert told.returncode == 1
    assert told.stderr.strip().endswith(f"{tmp_path / 'none.yaml'} stopped with status 1")
