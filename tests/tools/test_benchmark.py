"""tools/benchmark.py: a table, a JSON file and a plot, of several candidates in turns."""

import json
import re
import subprocess
import sys

import pytest
from PIL import Image

from knet.commands import benchmark
from tests.conftest import REPO, pairs

PROGRAM = str(REPO / "projects" / "KNet" / "tools" / "benchmark.py")
DEMO = str(REPO / "configs" / "demo" / "knet_panoptic_shapes.yaml")
SEMANTIC = str(REPO / "configs" / "demo" / "knet_semantic_shapes.yaml")
SMALL = ["--sizes", "64x96", "--objects", "3", "--steps", "2", "--threads", "1", "--device", "cpu"]


def run(*words):
    command = [sys.executable, PROGRAM, *SMALL, *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_table_a_json_and_a_plot(tiny_options, tmp_path):
    options = pairs({k: v for k, v in tiny_options.items() if k.startswith("MODEL.")})
    output, picture = tmp_path / "speed.json", tmp_path / "speed.png"
    files = ["--output", str(output), "--plot", str(picture)]
    sweep = ["--kind", "inference", "--kernels", "4", "8", "--alternatives", "mask_rcnn"]
    told = run(DEMO, *files, *sweep, "--", *options)
    assert told.returncode == 0, told.stderr[-2000:]

    ratios = re.findall(r"^\| `(\S+)` .*\) x ([\d.]+) ", told.stdout, flags=re.MULTILINE)
    assert [name for name, _ in ratios] == [DEMO, "mask_rcnn"] * 2
    assert [ratio for name, ratio in ratios if name == DEMO] == ["1.00"] * 2
    assert "1000 made-up proposals and 3 sure detections" in told.stdout

    content = json.loads(output.read_text())
    assert content["machine"]["threads"] == 1
    records = content["records"]
    assert [(r["candidate"], r["kernels"]) for r in records] == [
        (name, kernels) for kernels in (4, 8) for name in (DEMO, "mask_rcnn", "machine")
    ]
    for record in records:
        assert record["seconds"]["of"] == 2 and record["memory_gb"] > 0
        parts = record["parts"].values()
        for unit in ("seconds", "cpu_seconds"):
            assert all(p[unit]["min"] <= p[unit]["median"] <= p[unit]["max"] for p in parts)
        assert sum(p["flops"] for p in parts) == record["flops"]
    knet, mask_rcnn, machine = records[:3]
    assert mask_rcnn["ratio"]["flops"] == mask_rcnn["flops"] / knet["flops"]
    assert {"pyramid", "neck", "results: panoptic", "results: instance"} < knet["parts"].keys()
    percent = machine["parts"]["convolution"]["percent_of_machine"]["convolution"]
    assert percent == pytest.approx(100)
    with Image.open(picture) as image:
        assert image.width > image.height  # the parts, and the growth beside them


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([SEMANTIC], "is not of a panoptic or an instance K-Net"),
        (["none.yaml"], "does not exist"),
        (["--nvtx", DEMO], "--nvtx is for NVIDIA's profilers"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(words, sentence, capsys):
    assert benchmark.main([*SMALL, *words]) == 1
    told = capsys.readouterr()
    assert told.out == "" and sentence in told.err.splitlines()[-1]
