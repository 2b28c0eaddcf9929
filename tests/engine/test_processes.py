"""Several processes are one run: they meet, share the work and end together."""

import json

import pytest

from tests.engine.processes import of_srun, of_torchrun, train_net_in


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
