"""The command ``knet``: all programs by name, quickly listed, with their own exit statuses."""

import json
import subprocess
import sys

import pytest

import knet_cli
from knet.commands import draw_losses
from tests.conftest import REPO

TOOLS = REPO / "projects" / "KNet" / "tools"
NO_COMMAND = {
    "set_up.py",
    "benchmark_evaluation.py",
    "benchmark_loading.py",
    "benchmark_semantic.py",
    "document_config.py",
}  # of a checkout only


def test_the_list_needs_neither_the_package_nor_torch():
    code = (
        "import sys, knet_cli; assert knet_cli.main(['--help']) == 0; "
        "assert not {'knet', 'torch', 'detectron2', 'numpy'} & set(sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    listed = [line.split()[0] for line in told.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(knet_cli.COMMANDS)


@pytest.mark.parametrize("name", knet_cli.COMMANDS)
def test_each_command_tells_its_options(name, capsys):
    with pytest.raises(SystemExit) as stop:
        knet_cli.main([name, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: knet {name} ")


def test_each_tool_is_a_command():
    modules = {
        command.module.removeprefix("knet.commands.") for command in knet_cli.COMMANDS.values()
    }
    tools = {path.stem for path in TOOLS.glob("*.py") if path.name not in NO_COMMAND}
    assert tools <= modules


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["preditc"], "knet: there is no command 'preditc': did you mean 'predict'?"),
        (["check_data"], "knet: there is no command 'check_data': did you mean 'check-data'?"),
        (["zzz"], "knet: there is no command 'zzz': knet --help lists all"),
    ],
)
def test_an_unknown_command_is_told(words, sentence, capsys):
    assert knet_cli.main(words) == 2
    assert capsys.readouterr() == ("", f"{sentence}\n")


def test_no_command_is_answered_by_the_list(capsys):
    assert knet_cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: knet COMMAND")


def test_a_command_does_what_its_program_does(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 19, "total_loss": 1.0}))
    pictures = []
    for run, name in ((draw_losses.main, "a.png"), (knet_cli.main, "b.png")):
        words = [str(tmp_path), "--output", str(tmp_path / name)]
        assert run(words if run is draw_losses.main else ["draw-losses", *words]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    "words, status, start",
    [
        (["draw-losses", "nowhere"], 1, "knet draw-losses: nowhere does not exist"),
        (["check-data", "--samples", "1"], 2, "knet check-data: --samples draws into a folder"),
        (["train", "--config-file", "none.yaml"], 1, "knet train: --config-file none.yaml does"),
        (["predict", "--webcam"], 1, "knet predict: no weights: give --weights FILE"),
    ],
)
def test_errors_name_the_command_and_keep_the_status(words, status, start, capsys):
    assert knet_cli.main(words) == status
    assert capsys.readouterr().err.startswith(start)


def test_eval_evaluates(monkeypatch):
    said = []
    monkeypatch.setattr(
        "knet.engine.main.main", lambda *args, **more: said.append((args, more)) or 0
    )
    assert knet_cli.main(["eval", "--config-file", "c.yaml", "SEED", "1"]) == 0
    words = ["--eval-only", "--config-file", "c.yaml", "SEED", "1"]
    assert said == [((words,), {"program": "knet eval"})]


def test_the_package_is_the_command_too():
    words = [sys.executable, "-m", "knet", "draw-losses", "nowhere"]
    told = subprocess.run(words, capture_output=True, text=True)
    assert told.returncode == 1 and told.stderr.startswith("knet draw-losses: nowhere does not")
