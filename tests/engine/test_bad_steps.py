"""A loss that is no number: what is told, and that no weight learns from it."""

import logging

import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from knet.engine import KNetTrainer
from knet.engine.bad_steps import CheckedTrainer
from knet.engine.processes import leave_group
from knet.errors import UsageError
from tests.engine.processes import threads_of_torch


class Model(nn.Module):
    """Two losses, of a network whose BatchNorm learns its statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def forward(self, batch):
        values = self.layers(torch.stack([sample["image"] for sample in batch]))
        return {
            "loss_mean": values.mean() + 2,
            "loss_square": (values * batch[0]["factor"]).square().mean(),
        }


def batches(bad: dict, rank: int = 0):
    """Endless ones of two images; in some iterations with another factor of a loss."""
    generator, iteration = torch.Generator().manual_seed(rank), 0
    while True:
        yield [
            {
                "image": torch.randn(3, generator=generator),
                "file_name": f"{rank}_{iteration}_{i}.png",
                "factor": bad.get(iteration, 1.0),
            }
            for i in range(2)
        ]
        iteration += 1


def trainer(bad, max_bad=0, rank=0, wrap=lambda model: model):
    model = wrap(Model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return CheckedTrainer(model, batches(bad, rank), optimizer, max_bad=max_bad, mixed=False)


def state(trainer):
    """All that a step may change."""
    momentum = [s["momentum_buffer"] for s in trainer.optimizer.state.values()]
    return [t.clone() for t in (*trainer.model.state_dict().values(), *momentum)]


def steps(trainer, first, stop):
    with EventStorage(first):
        for trainer.iter in range(first, stop):
            trainer.run_step()


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
def test_it_ends_before_the_weights_change(factor):
    bad = trainer({2: factor})
    steps(bad, 0, 2)
    weights = [p.clone() for p in bad.model.parameters()]
    with pytest.raises(UsageError) as error:
        steps(bad, 2, 3)
    sentence = str(error.value)
    assert "NaN or infinite at iteration 2 (loss_square is " in sentence
    assert "loss_mean" not in sentence
    assert "images 0_2_0.png, 0_2_1.png)" in sentence
    assert "SOLVER.BASE_LR" in sentence and "SOLVER.MAX_BAD_STEPS 1 or more" in sentence
    assert all(torch.equal(p, before) for p, before in zip(bad.model.parameters(), weights))


def test_a_tolerated_step_leaves_no_trace(caplog):
    bad = trainer({2: float("nan"), 5: float("nan"), 6: float("nan")}, max_bad=2)
    bad.model.layers.register_forward_pre_hook(  # also what BatchNorm sees is no number then
        lambda module, inputs: inputs[0] * torch.nan if bad.iter in (2, 5, 6) else inputs[0]
    )
    steps(bad, 0, 2)
    before = state(bad)
    with caplog.at_level(logging.WARNING):
        steps(bad, 2, 3)
    assert "Step left out, 1 of at most 2" in caplog.text and "0_2_0.png" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(state(bad), before))
    steps(bad, 3, 5)
    assert not any(torch.equal(a, b) for a, b in zip(state(bad), before))

    # a run that goes on counts on
    again = trainer({5: float("nan"), 6: float("nan")}, max_bad=2)
    again.load_state_dict(bad.state_dict())
    steps(again, 0, 6)
    with pytest.raises(UsageError, match=r"at iteration 6 .*MAX_BAD_STEPS 3 or more"):
        steps(again, 6, 7)


def test_a_state_without_a_count_is_read():
    old = trainer({}).state_dict()
    del old["bad_steps"]
    trainer({}).load_state_dict(old)


def test_a_gradient_that_the_scaler_skips_is_no_bad_step(monkeypatch):
    """As on a GPU: the scaled gradient overflows, the loss does not."""
    good = trainer({})
    skipped = []

    class Scaler:
        def scale(self, loss):
            return loss * torch.inf

        def unscale_(self, optimizer):
            pass

        def step(self, optimizer):
            skipped.append(any(not p.grad.isfinite().all() for p in good.model.parameters()))

        def update(self):
            pass

    good._scaler = Scaler()
    steps(good, 0, 3)
    assert skipped == [True] * 3


def bad_step(path):
    rank = comm.get_rank()
    bad = trainer({1: float("nan")} if rank == 1 else {}, rank=rank, wrap=DistributedDataParallel)
    steps(bad, 0, 1)
    weights = [p.clone() for p in bad.model.parameters()]
    with pytest.raises(UsageError) as error:
        steps(bad, 1, 2)
    assert all(torch.equal(p, before) for p, before in zip(bad.model.parameters(), weights))
    (path / f"{rank}.txt").write_text(str(error.value))


def worker(path):
    bad_step(path)
    leave_group()
    assert threads_of_torch() == 0, "one of them may abort the process when it ends"


def test_all_processes_end_if_one_is_bad(tmp_path):
    launch(worker, 2, dist_url="auto", args=(tmp_path,))
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert "iteration 1 (loss_square is nan; images 1_1_0.png, 1_1_1.png)" in first


def test_features_that_spoil_a_real_model(tiny_config):
    tiny_config.merge_from_list(["SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()])
    trainer = KNetTrainer(tiny_config)

    def spoil(backbone, inputs, features):
        factor = torch.nan if trainer.iter == 1 else 1.0
        return {name: feature * factor for name, feature in features.items()}

    trainer.model.backbone.register_forward_hook(spoil)
    with pytest.raises(UsageError, match=r"at iteration 1 \(.*loss_.* is nan.*; images .*\.jpg, "):
        trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_number_below_zero(train_net, tiny_options):
    options = {**tiny_options, "SOLVER.MAX_BAD_STEPS": -1}
    assert "SOLVER.MAX_BAD_STEPS" in train_net(options=options).sentence()
