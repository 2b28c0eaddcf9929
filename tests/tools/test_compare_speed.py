"""tools/compare_speed.py: time and memory of several configs, one table."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPO, pairs

PROGRAM = str(REPO / "projects" / "KNet" / "tools" / "compare_speed.py")
DEMO = str(REPO / "configs" / "demo" / "knet_panoptic_shapes.yaml")
SEMANTIC = str(REPO / "configs" / "demo" / "knet_semantic_shapes.yaml")
SMALL = ["--size", "64", "96", "--objects", "3", "--steps", "1", "--turns", "1"]


def run(*words):
    command = [sys.executable, PROGRAM, *SMALL, *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_row_for_each_config_with_its_ratio_to_the_first(tiny_options, tmp_path):
    published = tmp_path / "published.yaml"
    published.write_text(
        f"_BASE_: {DEMO}\nMODEL: {{KNET: {{KERNEL_HEAD: {{NAME: KernelHead}}}}}}\n"
    )
    options = {k: v for k, v in tiny_options.items() if k.startswith("MODEL.")}
    told = run(DEMO, str(published), "--", *pairs(options))
    assert told.returncode == 0, told.stderr[-2000:]
    header, _, first, second = told.stdout.strip().splitlines()
    assert header == "| config | training, s | training, GB | results, s | results, GB |"
    figures = [re.findall(r"([\d.]+) \(x ([\d.]+)\)", row) for row in (first, second)]
    assert [ratio for _, ratio in figures[0]] == ["1.00"] * 4
    assert len(figures[1]) == 4 and all(float(value) > 0 for value, _ in figures[1])


@pytest.mark.parametrize(
    "words, sentence",
    [([SEMANTIC], "is not of a panoptic or an instance K-Net"), (["none.yaml"], "does not exist")],
)
def test_what_is_wrong_is_told_in_a_sentence(words, sentence):
    told = run(DEMO, *words)
    assert (told.returncode, told.stdout) == (1, "")
    assert sentence in told.stderr.splitlines()[-1] and "Traceback" not in told.stderr
