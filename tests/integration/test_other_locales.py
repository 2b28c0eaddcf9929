"""Training, evaluation and pictures where the locale knows ASCII alone and names have more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import knet
from tests.conftest import DEMO_CONFIG, REPO, PanopticFolder, pairs
from tests.data.datasets.folders import InstanceFolder

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NAME = "\u0447\u0430\u0448\u043a\u0430 $x$ \U0001f600"


def run(program, *arguments):
    """A program in a process of its own, in the C locale; returns what it writes."""
    path = os.pathsep.join([str(Path(knet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(REPO / program), *map(str, arguments)]
    env = {**os.environ, **ASCII, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, env=env)
    text = (done.stdout + done.stderr).decode("ascii")
    assert done.returncode == 0, text[-3000:]
    assert "Traceback" not in text and "Logging error" not in text, text[-3000:]
    return text


@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_training_evaluation_and_pictures(kind, tiny_options, tmp_path):
    folder = (PanopticFolder if kind == "panoptic" else InstanceFolder)(tmp_path)
    folder.add_ordinary()
    folder.content["categories"][0]["name"] = NAME
    folder.write()
    path = folder.json_file
    path.write_text(json.dumps(folder.content, ensure_ascii=False), encoding="utf-8")
    config = tmp_path / "mine.yaml"
    base = DEMO_CONFIG.replace("panoptic", kind)
    names = {"TRAIN": (folder.name,), "TEST": (folder.name,)}
    content = {"_BASE_": base, "DATASETS": {"CUSTOM": [folder.entry()]}}
    text = f"# {NAME}\n" + yaml.safe_dump(content, allow_unicode=True)
    config.write_text(text, encoding="utf-8")
    options = {**tiny_options, **{f"DATASETS.{key}": value for key, value in names.items()}}
    run("train_net.py", "--config-file", config, "--num-gpus", 0, *pairs(options))
    output = Path(options["OUTPUT_DIR"])
    log = (output / "log.txt").read_text(encoding="utf-8")
    assert NAME in log
    predictions = output / "inference" / folder.name
    if not predictions.is_dir():
        predictions = output / "inference"
    arguments = ["--predictions", predictions, "--dataset", folder.name, "--config-file", config]
    arguments += ["--output", tmp_path / "pictures", "--score-threshold", 0]
    run("projects/KNet/tools/draw_results.py", *arguments)
    assert list((tmp_path / "pictures").iterdir())
