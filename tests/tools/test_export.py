"""The export as a command: a file, a table of differences, one sentence where there is neither."""

import subprocess
import sys

import pytest

from knet.commands import export
from knet.engine import KNetTrainer
from knet.engine.model_file import save_model
from knet.export.check import Comparison
from tests.conftest import REPO

TOOL = str(REPO / "projects" / "KNet" / "tools" / "export.py")


def run(*words: object):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, words)], capture_output=True, text=True, timeout=300
    )


def test_one_file_of_weights_becomes_one_to_serve(tiny_config, tmp_path):
    weights, target = tmp_path / "model.pth", tmp_path / "served" / "model.ts"
    save_model(KNetTrainer.build_model(tiny_config), str(weights))
    words = ("--weights", weights, "--format", "torchscript", "--output")
    refused = run(*words, tmp_path / "model.onnx")
    assert refused.returncode == 1 and "must end in .ts" in refused.stderr
    folder = tmp_path / "folder.ts"
    folder.mkdir()
    refused = run(*words, folder, "--force")
    assert refused.returncode == 1 and "is a folder: name a file as --output" in refused.stderr
    made = run(*words, target)
    assert made.returncode == 0, made.stderr
    assert target.is_file() and made.stdout.count("mask_logits") == 6
    assert "NO" not in made.stdout and "9 classes" in made.stdout
    again = run(*words, target)
    assert again.returncode == 1 and "--force" in again.stderr


def test_a_file_that_differs_is_told_apart_from_a_wrong_command_line(tmp_path, monkeypatch, capsys):
    differing = Comparison(1, 64, 64, "mask_logits", largest=0.5, mean=0.1)
    monkeypatch.setattr(export, "load_model", lambda *_, **__: None)
    monkeypatch.setattr(export, "export_model", lambda *_: [differing])
    words = ["--weights", "model.pth", "--output", str(tmp_path / "model.onnx")]
    assert export.main(words, "knet export") == 3
    printed = capsys.readouterr()
    assert printed.err.endswith("model.onnx is written, but differs from the model\n")
    assert "NO" in printed.out
    with pytest.raises(SystemExit) as wrong:
        export.main([*words, "--formt", "onnx"], "knet export")
    assert wrong.value.code == 2
