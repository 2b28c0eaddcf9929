"""Checkpoints are whole or not there, and a run goes on from the last that can be read."""

import errno
import os
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from knet.checkpoint.safe_load import load_file
from knet.engine.checkpointer import KNetCheckpointer
from knet.engine.run_folder import RunFolder
from knet.errors import UsageError
from tests.engine.test_exact_resume import differences


@pytest.fixture
def checkpointer(tmp_path):
    """With checkpoints of iteration 0 to 2."""
    made = KNetCheckpointer(nn.Linear(3, 2), str(tmp_path))
    for iteration in range(3):
        made.save(f"model_{iteration:07d}", iteration=iteration)
        stamp = time.time() - 10 + iteration
        os.utime(tmp_path / f"model_{iteration:07d}.pth", (stamp, stamp))
    return made


def resumed(tmp_path):
    return KNetCheckpointer(nn.Linear(3, 2), str(tmp_path)).resume_or_load("")["iteration"]


def test_it_goes_on_from_the_last(checkpointer, tmp_path, caplog):
    assert resumed(tmp_path) == 2
    assert "going on" not in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir())[0] == "last_checkpoint", "nothing hidden"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


def flip(path):
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [truncate, flip, lambda p: p.unlink(), lambda p: p.write_bytes(b"")]
)
def test_a_damaged_last_one_is_told_and_the_one_before_taken(
    checkpointer, tmp_path, damage, caplog
):
    damage(tmp_path / "model_0000002.pth")
    assert resumed(tmp_path) == 1
    (told,) = [r.getMessage() for r in caplog.records if "going on" in r.getMessage()]
    assert "model_0000002.pth" in told and told.endswith("model_0000001.pth")


@pytest.mark.parametrize("content", [None, "", "model_0000"])
def test_a_damaged_name_of_the_last_one(checkpointer, tmp_path, content, caplog):
    if content is None:
        (tmp_path / "last_checkpoint").unlink()
    else:
        (tmp_path / "last_checkpoint").write_text(content)
    assert checkpointer.has_checkpoint()
    assert resumed(tmp_path) == 2
    assert "going on from" in caplog.text


def test_all_damaged(checkpointer, tmp_path):
    for path in tmp_path.glob("*.pth"):
        truncate(path)
    with pytest.raises(UsageError, match="no checkpoint of OUTPUT_DIR can be read") as error:
        resumed(tmp_path)
    assert all(f"model_000000{i}.pth" in str(error.value) for i in range(3))


def test_an_empty_folder_has_none(tmp_path):
    assert not KNetCheckpointer(nn.Linear(3, 2), str(tmp_path)).has_checkpoint()
    assert not KNetCheckpointer(nn.Linear(3, 2)).has_checkpoint()
    assert not KNetCheckpointer(nn.Linear(3, 2), str(tmp_path / "none")).has_checkpoint()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("enforce fail: write failed")],
)
def test_a_full_disk(checkpointer, tmp_path, monkeypatch, error):
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(content, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UsageError, match=r"model_0000003\.pth cannot be written \(.*--resume") as e:
        checkpointer.save("model_0000003", iteration=3)
    assert f"the last good one is {tmp_path / 'model_0000002.pth'}" in str(e.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_disk_that_is_really_full():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with pytest.raises((OSError, RuntimeError)), open("/dev/full", "wb") as file:
        torch.save({"model": torch.zeros(100000)}, file)  # what RunFolder must take


def test_a_process_killed_while_it_writes(checkpointer, tmp_path):
    code = f"""
import torch, os, signal
from torch import nn
from knet.engine.run_folder import RunFolder
def killed(content, file):
    file.write(b"half"); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
torch.save = killed
RunFolder(nn.Linear(3, 2), {str(tmp_path)!r}).save("model_0000002", iteration=9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -9
    assert any(p.name.endswith(".part") for p in tmp_path.iterdir())
    assert resumed(tmp_path) == 2
    assert not any(p.name.endswith(".part") for p in tmp_path.iterdir()), "taken away"


def numbers(tmp_path):
    return sorted(int(p.stem[6:]) for p in tmp_path.glob("model_0*.pth"))


def test_the_last_ones_are_kept(checkpointer, tmp_path):
    checkpointer.save("model_final", iteration=2)
    (tmp_path / "model_best.pth").touch()
    checkpointer.keep = 2
    checkpointer.save("model_0000003", iteration=3)
    assert numbers(tmp_path) == [2, 3]
    # a run that goes on knows those from before
    again = KNetCheckpointer(nn.Linear(3, 2), str(tmp_path))
    again.keep = 2
    assert again.resume_or_load("")["iteration"] == 3
    again.save("model_0000004", iteration=4)
    assert numbers(tmp_path) == [3, 4]
    assert (tmp_path / "model_final.pth").exists() and (tmp_path / "model_best.pth").exists()


def test_none_is_removed_for_one_that_is_not_whole(checkpointer, tmp_path, monkeypatch):
    checkpointer.keep = 1

    def full(content, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UsageError):
        checkpointer.save("model_0000003", iteration=3)
    assert numbers(tmp_path) == [0, 1, 2]


def test_a_damaged_one_does_not_count_as_kept(checkpointer, tmp_path):
    truncate(tmp_path / "model_0000002.pth")
    checkpointer.keep = 2
    assert checkpointer.resume_or_load("")["iteration"] == 1
    checkpointer.save("model_0000003", iteration=3)
    assert numbers(tmp_path) == [1, 2, 3], "two that are whole"
    checkpointer.save("model_0000002", iteration=2)
    assert numbers(tmp_path) == [2, 3]


@pytest.mark.parametrize("flags", [[], ["--eval-only"]], ids=["train", "eval-only"])
@pytest.mark.parametrize("below", ["/proc/run", "a file"])
def test_a_folder_that_cannot_be_written(train_net, tiny_options, tmp_path, below, flags):
    (tmp_path / "file").touch()
    output = below if below.startswith("/") else str(tmp_path / "file" / "run")
    sentence = train_net(*flags, options={**tiny_options, "OUTPUT_DIR": output}).sentence()
    assert output in sentence and "OUTPUT_DIR" in sentence


def test_what_is_written_is_what_fvcore_writes(tmp_path):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    RunFolder(nn.Linear(3, 2), str(tmp_path), optimizer=optimizer).save("model_final", iteration=4)
    content = load_file(str(tmp_path / "model_final.pth"))
    assert set(content) == {"model", "optimizer", "iteration"}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    RunFolder(nn.Linear(3, 2), str(tmp_path / "none"), save_to_disk=False).save("model_final")
    assert not (tmp_path / "none").exists()


def test_a_training_goes_on_behind_a_damaged_checkpoint(train_net, tiny_options, tmp_path):
    options = {**tiny_options, "DATASETS.TEST": (), "SOLVER.CHECKPOINT_PERIOD": 1}
    assert train_net(options=options).status == 0
    for name in ("model_final.pth", "model_0000001.pth"):
        truncate(tmp_path / "output" / name)
    outcome = train_net("--resume", options=options)
    assert outcome.status == 0 and "Starting training from iteration 1" in outcome.out
    assert load_file(str(tmp_path / "output" / "model_final.pth"))["iteration"] == 1


def test_a_run_killed_after_its_last_step_gets_its_final_files(train_net, tiny_options, tmp_path):
    options = {**tiny_options, "DATASETS.TEST": (), "SOLVER.CHECKPOINT_PERIOD": 1}
    options["MODEL_FILE.FORMAT"] = "pth"
    assert train_net(options=options).status == 0
    output = tmp_path / "output"
    names = ("model_final.pth", "model.pth")
    before = [load_file(str(output / name)) for name in names]
    for name in names:
        (output / name).unlink()
    (output / "last_checkpoint").write_text("model_0000001.pth")
    assert train_net("--resume", options=options).status == 0
    assert differences(before, [load_file(str(output / name)) for name in names]) == []
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
