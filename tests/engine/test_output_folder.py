"""OUTPUT_DIR belongs to one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from knet.engine.main import load_config
from knet.engine.output_folder import only_run_in
from knet.errors import UsageError
from tests.conftest import REPO

LEFT = ("config.yaml", "last_checkpoint", "log.txt", "metrics.json", "model_final.pth")


@pytest.fixture
def options(tiny_options):
    return {**tiny_options, "DATASETS.TEST": (), "SOLVER.MAX_ITER": 1}


def content(folder: Path) -> dict:
    return {name: (folder / name).read_bytes() for name in LEFT}


def test_an_earlier_run_is_set_aside(train_net, options, tmp_path):
    output = tmp_path / "output"
    assert train_net(options=options).status == 0
    earlier = content(output)
    (output / "notes.txt").write_text("mine")
    options["SEED"] = 7
    outcome = train_net(options=options)
    assert outcome.status == 0
    (told,) = [line for line in outcome.out.splitlines() if "held an earlier run" in line]
    assert str(output / "run_1") in told and "--resume" in told
    aside, now = content(output / "run_1"), content(output)
    assert aside["log.txt"].startswith(earlier["log.txt"])
    assert {**aside, "log.txt": ""} == {**earlier, "log.txt": ""}
    assert all(now[name] != earlier[name] for name in ("config.yaml", "model_final.pth"))
    assert len(now["metrics.json"].splitlines()) == 1
    assert b"held an earlier run" in now["log.txt"] and earlier["log.txt"] not in now["log.txt"]
    assert (output / "notes.txt").exists()

    # a third time, and the first can be gone on with
    assert train_net(options=options).status == 0
    assert content(output / "run_1") == aside and (output / "run_2").is_dir()
    options.update({"SEED": 1, "OUTPUT_DIR": str(output / "run_1"), "SOLVER.MAX_ITER": 2})
    outcome = train_net("--resume", options=options)
    assert outcome.status == 0 and "Starting training from iteration 1" in outcome.out
    assert "held an earlier run" not in outcome.out


def test_evaluating_sets_nothing_aside(train_net, options, tiny_options, tmp_path):
    assert train_net(options=options).status == 0
    options["DATASETS.TEST"] = tiny_options["DATASETS.TEST"]
    options["MODEL.WEIGHTS"] = str(tmp_path / "output" / "model_final.pth")
    assert train_net("--eval-only", options=options).status == 0
    assert not (tmp_path / "output" / "run_1").exists()


def test_weights_of_the_earlier_run(train_net, options, tmp_path):
    assert train_net(options=options).status == 0
    options["MODEL.WEIGHTS"] = str(tmp_path / "output" / "model_final.pth")
    outcome = train_net(options=options)
    assert outcome.status == 0
    moved = str(tmp_path / "output" / "run_1" / "model_final.pth")
    assert f"are in {moved} now" in outcome.out
    assert moved == load_config(str(tmp_path / "output" / "config.yaml")).MODEL.WEIGHTS


def test_a_wrong_command_sets_nothing_aside(train_net, options, tmp_path):
    assert train_net(options=options).status == 0
    train_net(options={**options, "SOLVER.MAX_ITER": 0}).sentence()
    assert not (tmp_path / "output" / "run_1").exists()


def test_nothing_to_resume_is_told(train_net, options, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "metrics.json").write_text(json.dumps({"iteration": 0}) + "\n")
    outcome = train_net("--resume", options=options)
    assert outcome.status == 0
    assert f"--resume: OUTPUT_DIR {output} holds no checkpoint" in outcome.out
    assert (output / "run_1" / "metrics.json").exists(), "of a run that has left nothing else"
    outcome = train_net("--resume", options={**options, "SOLVER.MAX_ITER": 2})
    assert "holds no checkpoint" not in outcome.out


def test_no_two_at_once(train_net, options, tmp_path):
    output = tmp_path / "output"
    code = f"""
import os, time
from knet.engine.output_folder import only_run_in
with only_run_in({str(output)!r}):
    if os.fork() == 0:  # as a loader worker does, it lives on for a while
        time.sleep(20)
    print("in", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPO, start_new_session=True
    )
    try:
        assert other.stdout.readline() == b"in\n"
        sentence = train_net(options=options).sentence()
        assert f"another training is writing to OUTPUT_DIR {output}" in sentence
        assert not (output / "model_final.pth").exists()
    finally:
        other.kill()
        other.wait()
    with only_run_in(str(output)):
        pass
    os.killpg(other.pid, 9)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), only_run_in(str(tmp_path / "file")):
        pass
