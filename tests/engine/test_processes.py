"""Several processes are one run: they meet, share the work and end together."""

import json
from datetime import timedelta

import pytest

from tests.engine.processes import free_port, of_srun, of_torchrun, train_net_in


def losses(folder) -> list:
    records = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [r for r in records if "total_loss" in r]


@pytest.fixture
def options(tiny_options, pottery) -> dict:
    pottery.add_ordinary(2)
    return {**tiny_options, **pottery.write().options(), "DATASETS.TEST": ()}


@pytest.mark.parametrize("variables", [of_torchrun(2), of_srun(2)], ids=["torchrun", "srun"])
def test_they_are_one_run(options, tmp_path, variables):
    outcomes = train_net_in(variables, "--num-gpus", "0", options=options, folder=tmp_path)
    assert [o.status for o in outcomes] == [0, 0], outcomes
    assert "World size: 2" in outcomes[0].out and not outcomes[1].out
    assert len(losses(tmp_path / "output")) == 1


def test_an_error_of_one_is_told_once_and_ends_all(options, pottery, tmp_path):
    for stem in ("002", "004"):  # of the second process
        (pottery.images / f"{stem}.png").write_bytes(b"nothing")
    options = {**options, "SOLVER.MAX_ITER": 50, "DATALOADER.NUM_WORKERS": 0}
    outcomes = train_net_in(of_torchrun(2), "--num-gpus", "0", options=options, folder=tmp_path)
    assert [o.status for o in outcomes] == [1, 1]
    assert sum(o.err.count("train_net.py: ") for o in outcomes) == 1
    assert not any("Traceback" in o.err for o in outcomes)


def test_two_machines_train_on_their_cpus(options, tmp_path):
    flags = ("--num-gpus", "0", "--num-machines", "2", "--machine-rank", ("0", "1"))
    url = f"tcp://127.0.0.1:{free_port()}"
    outcomes = train_net_in([{}, {}], *flags, "--dist-url", url, options=options, folder=tmp_path)
    assert [o.status for o in outcomes] == [0, 0], outcomes
    assert "World size: 2" in outcomes[0].out and len(losses(tmp_path / "output")) == 1


def test_an_error_that_all_find_is_told_once(options, tmp_path):
    options = {**options, "SOLVER.IMS_PER_BATCH": 3}
    outcomes = train_net_in(of_torchrun(2), "--num-gpus", "0", options=options, folder=tmp_path)
    assert [o.status for o in outcomes] == [1, 1]
    told = "".join(o.err for o in outcomes)
    assert told.count("train_net.py: ") == 1 and "shared by 2 processes" in told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_wrong_place_is_told_before_the_others_end(train_net, options, monkeypatch, rank):
    """``srun --kill-on-bad-exit=1`` ends the one that tells it, if another has ended before."""
    slept = []
    monkeypatch.setattr("knet.engine.main.time.sleep", slept.append)
    for name, value in {**of_srun(2)[rank], "SLURM_STEP_TASKS_PER_NODE": "2,1"}.items():
        monkeypatch.setenv(name, value)
    outcome = train_net("--num-gpus", "0", options=options)
    assert outcome.status == 1
    assert ("start the same number on each machine" in outcome.err) == (rank == 0)
    assert bool(slept) == (rank == 1)


def test_one_that_never_meets_the_others_says_so(train_net, options, monkeypatch):
    """It does not wait for ever: SLURM may have made it believe in them."""
    monkeypatch.setattr("knet.engine.processes._PATIENCE", timedelta(seconds=1))
    words = ("--num-gpus", "0", "--num-machines", "2", "--dist-url")
    sentence = train_net(*words, f"tcp://127.0.0.1:{free_port()}", options=options).sentence()
    assert "process 0 of 2, started by --num-machines, has not met the others" in sentence
