"""The programs that draw: the demo's folder, and errors told in one sentence."""

import importlib.util
from pathlib import Path

import pytest

from knet.errors import UsageError

TOOLS = Path(__file__).resolve().parents[2] / "projects" / "KNet" / "tools"


def load(name):
    """A program of projects/KNet/tools as a module."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_starts_anew_in_its_own_folder(tmp_path):
    start_clean = load("run_demo").start_clean
    folder = tmp_path / "out [1]"  # a name that glob would read otherwise
    start_clean(str(folder))
    (folder / "inference").mkdir()
    for name in ("metrics.json", "model_final.pth", "last_checkpoint", "inference/a", "notes.txt"):
        (folder / name).touch()
    start_clean(str(folder))
    left = sorted(path.name for path in folder.iterdir())
    assert left == [".knet_demo", "notes.txt"], "a user's own file stays"


def test_the_demo_touches_no_other_folder(tmp_path):
    program = load("run_demo")
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(UsageError, match="give another --output"):
        program.start_clean(str(tmp_path))
    with pytest.raises(UsageError, match="give another --output"):
        program.start_clean(str(tmp_path / "model_final.pth"))
    assert [path.name for path in tmp_path.iterdir()] == ["model_final.pth"]


def test_the_demo_of_a_full_folder_ends_in_one_sentence(tmp_path, capsys):
    (tmp_path / "model_final.pth").touch()
    assert load("run_demo").main(["--output", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and str(tmp_path) in captured.err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--predictions", "nowhere", "--dataset", "x"], "nowhere/predictions.json does not exist"),
        (["--predictions", "p", "--dataset", "x", "--limit", "0"], "--limit is 0"),
        (["--predictions", "p", "--dataset", "x", "--config-file", "c.yaml"], "c.yaml does not"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    program = load("draw_panoptic")
    monkeypatch.setattr(program, "setup_logger", lambda **_: None)  # it would outlive the test
    monkeypatch.chdir(tmp_path)
    assert program.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
