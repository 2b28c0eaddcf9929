"""tools/benchmark_evaluation.py: both ways of evaluating report the same, beside their times."""

import subprocess
import sys

from tests.conftest import REPO

PROGRAM = str(REPO / "projects" / "KNet" / "tools" / "benchmark_evaluation.py")


def test_a_row_for_each_kind_of_result():
    command = [sys.executable, PROGRAM, "--images", "2", "--size", "48", "64"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
    rows = [line.split(" | ") for line in told.stdout.strip().splitlines()[2:]]
    assert [row[0] for row in rows] == ["| panoptic", "| instance", "| semantic", "| all"]
    assert all(float(cell.strip(" |")) >= 0 for row in rows for cell in row[1:])
