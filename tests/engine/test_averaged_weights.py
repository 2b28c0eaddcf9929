"""The average of the weights: its numbers, what is evaluated and written, what is loaded."""

import shutil

import pytest
import torch
from torch import nn

from knet import load_model
from knet.checkpoint.safe_load import load_file
from knet.engine import KNetTrainer
from knet.engine.averaged_weights import AveragedWeights, averaged_in, with_averaged_weights
from knet.engine.main import load_config
from tests.conftest import DEMO_CONFIG, pairs

EMA = {"MODEL_EMA.ENABLED": True, "MODEL_EMA.DECAY": 0.5}


class Model(nn.Module):
    """A weight, statistics, an index that no arithmetic may touch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("index", torch.arange(300))


def test_it_is_the_sum_of_decayed_weights():
    model = Model()
    hook = AveragedWeights(model, 0.75)
    hook.before_train, expected = hook._average.begin, {}
    hook.before_train()
    first = {name: t.clone() for name, t in model.state_dict().items()}
    expected = first
    for step in range(4):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor += step + 1
        hook.after_step()
        expected = {n: 0.75 * expected[n] + 0.25 * t for n, t in model.state_dict().items()}
    average = hook.state_dict()["averaged"]
    for name in ("layer.weight", "layer.bias", "norm.weight", "norm.running_var"):
        torch.testing.assert_close(average[name], expected[name])
        assert not torch.allclose(average[name], model.state_dict()[name])
    assert torch.equal(average["index"], model.index)
    assert torch.equal(average["norm.num_batches_tracked"], model.norm.num_batches_tracked)

    own = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(KeyError), with_averaged_weights(model):
        assert torch.equal(model.layer.weight, average["layer.weight"])
        assert torch.equal(model.norm.running_var, average["norm.running_var"])
        raise KeyError  # an evaluation that fails
    assert all(torch.equal(t, own[name]) for name, t in model.state_dict().items())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Where the run of the fixture below is."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def trained(run, train_net, tiny_options):
    """A run of three iterations that averages; its options, and what it was evaluated with."""
    options = {**tiny_options, **EMA, "OUTPUT_DIR": str(run), "SOLVER.MAX_ITER": 3}
    options.update({"SOLVER.CHECKPOINT_PERIOD": 2, "MODEL_FILE.FORMAT": "pth"})
    options.update({"SOLVER.BASE_LR": 0.01, "SOLVER.WARMUP_ITERS": 0})
    if not (run / "model_final.pth").is_file():
        outcome = train_net(options=options)
        assert outcome.status == 0 and "Taking the averaged weights" in outcome.out
        (run / "log").write_text(outcome.out)
    return options


def weights_of(model) -> dict:
    return {name: t.clone() for name, t in model.state_dict().items()}


def differing(a: dict, b: dict) -> list:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_what_is_written(trained, run):
    checkpoint = load_file(str(run / "model_final.pth"))
    average = averaged_in(checkpoint)
    assert len(differing(average, checkpoint["model"])) > 50
    assert differing(load_file(str(run / "model.pth"))["model"], average) == []
    assert differing(weights_of(load_model(str(run / "model.pth"))), average) == []


@pytest.mark.parametrize("ending", ["model_0000001.pth", "model_final.pth"])
def test_a_checkpoint_is_a_model_of_averaged_weights(trained, run, ending):
    path = str(run / ending)
    checkpoint = load_file(path)
    average, own = averaged_in(checkpoint), checkpoint["model"]
    assert differing(weights_of(load_model(path)), average) == []
    assert differing(weights_of(load_model(path, opts=["MODEL_EMA.ENABLED", False])), own) == []


@pytest.mark.parametrize("enabled", [True, False])
def test_evaluation_alone(trained, run, train_net, tmp_path, monkeypatch, enabled):
    """Of the final checkpoint: the same numbers as at the training's end, or the weights' own."""
    seen = []
    test = KNetTrainer.test.__func__

    def noting(cls, cfg, model, evaluators=None):
        seen.append(weights_of(model))
        return test(cls, cfg, model, evaluators)

    monkeypatch.setattr(KNetTrainer, "test", classmethod(noting))
    options = {**trained, "MODEL.WEIGHTS": str(run / "model_final.pth")}
    options.update({"OUTPUT_DIR": str(tmp_path), "MODEL_EMA.ENABLED": enabled})
    outcome = train_net("--eval-only", options=options)
    assert outcome.status == 0
    checkpoint = load_file(str(run / "model_final.pth"))
    expected = averaged_in(checkpoint) if enabled else checkpoint["model"]
    assert differing(seen[0], expected) == []
    told = "its averaged weights (MODEL_EMA.ENABLED True)"
    assert (told in outcome.out) == enabled
    assert ("without its averaged weights (MODEL_EMA.ENABLED False)" in outcome.out) != enabled


def test_evaluation_in_training_is_of_the_average(trained, run, tmp_path, monkeypatch):
    cfg = load_config(DEMO_CONFIG, pairs({**trained, "OUTPUT_DIR": str(tmp_path)}))
    trainer = KNetTrainer(cfg)
    seen = []
    forward = type(trainer.model).forward

    def noting(self, inputs):
        if not self.training:
            seen.append(weights_of(self))
        return forward(self, inputs)

    monkeypatch.setattr(type(trainer.model), "forward", noting)
    trainer.resume_or_load(resume=False)
    trainer.train()
    checkpoint = load_file(str(tmp_path / "model_final.pth"))
    assert differing(seen[-1], averaged_in(checkpoint)) == []
    assert differing(weights_of(trainer.model), checkpoint["model"]) == []


def test_resuming_with_and_without(trained, run, train_net, tmp_path):
    for name in ("model_0000001.pth",):
        shutil.copy(run / name, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    options = {**trained, "OUTPUT_DIR": str(tmp_path), "DATASETS.TEST": ()}
    outcome = train_net("--resume", options=options)
    assert outcome.status == 0 and "not taken" not in outcome.out
    ours, theirs = (load_file(str(d / "model_final.pth")) for d in (tmp_path, run))
    assert differing(averaged_in(ours), averaged_in(theirs)) == []
    assert differing(ours["model"], theirs["model"]) == []

    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    outcome = train_net("--resume", options={**options, "MODEL_EMA.ENABLED": False})
    assert outcome.status == 0 and "MODEL_EMA.ENABLED False (was True)" in outcome.out
    without = load_file(str(tmp_path / "model_final.pth"))
    assert averaged_in(without) is None
    assert differing(without["model"], theirs["model"]) == []

    outcome = train_net("--resume", options={**options, "SOLVER.MAX_ITER": 4})
    assert outcome.status == 0 and "has no averaged weights: the average begins here" in outcome.out
    ended = load_file(str(tmp_path / "model_final.pth"))
    averages = averaged_in(ended)
    half = {n: (without["model"][n] + t) / 2 for n, t in ended["model"].items() if "norm" not in n}
    for name, tensor in half.items():
        torch.testing.assert_close(averages[name], tensor)
