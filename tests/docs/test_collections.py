"""The Python blocks of docs/collections.md run, and its commands are understood."""

import contextlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from knet.collection import run as run_module
from knet.collection.shard import predict_shard
from tests.collection.conftest import write_model
from tests.conftest import REPO
from tests.visualization.test_programs import load

PAGE = (REPO / "docs/collections.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
PROGRAM = "python projects/KNet/tools/predict_collection.py "


def without_ray(folder, settings, engine, shards):
    """In place of the workers, which take long to start."""
    assert engine.workers == 1
    for shard in shards:
        predict_shard(settings.predictor("cpu")[0], folder, shard)


def test_the_blocks_run(tiny_options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "connected", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(run_module, "fitted", lambda engine: engine)
    monkeypatch.setattr(run_module, "_run", without_ray)
    write_model(tiny_options, tmp_path / "model_final.pth")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{i}.png")
    read, table, python = BLOCKS
    for block in (python, read, table):  # the page shows the results first
        exec(block, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 of 3 images"
    segments = [line for line in lines if line.startswith(f"{tmp_path}/photos/0.png ")]
    assert len(segments) > 1 and all(int(line.split()[-1]) > 0 for line in segments)
    assert sum(int(line.split()[-1]) for line in segments) <= 40 * 60
    assert (tmp_path / "results" / "coco" / "panoptic" / "2.png").is_file()


def test_the_commands_are_understood(capsys):
    parse_args = load("predict_collection").parse_args
    commands = re.findall(rf"^    {re.escape(PROGRAM)}((?:.*\\\n)*.*)$", PAGE, re.M)
    assert len(commands) == 2
    for command in commands:
        parse_args(shlex.split(command.replace("\\\n", " ")))
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    known = capsys.readouterr().out.split()
    for option in re.findall(r"`(--[^`]+)`", PAGE):
        for flag in re.findall(r"--\S+", option):
            assert flag in known, f"{flag} is not an option"
