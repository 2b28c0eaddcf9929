"""Numbers for Weights & Biases and MLflow, which are stood in for by modules that only listen."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from knet.engine import writers
from knet.engine.checks import check_config
from knet.engine.tracking import MLflowWriter, WandbWriter
from knet.errors import UsageError


class FakeWandb(ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **options):
        self.started.append(options)
        return SimpleNamespace(
            id=options["id"] or f"run{len(self.started)}",
            define_metric=lambda *args, **kwargs: None,
            log=self.logged.append,
            finish=self._finish,
        )

    def _finish(self):
        self.finished += 1


class FakeMLflow(ModuleType):
    def __init__(self):
        super().__init__("mlflow")
        self.experiments, self.started, self.logged, self.texts = [], [], [], []
        self.set_experiment = self.experiments.append
        self.log_text = lambda text, name: self.texts.append(name)
        self.end_run = lambda: None

    def start_run(self, run_id, run_name):
        self.started.append((run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or f"run{len(self.started)}"))

    def log_metrics(self, values, step):
        self.logged.append((step, values))


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    return sys.modules["wandb"]


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", FakeMLflow())
    return sys.modules["mlflow"]


@pytest.fixture
def config(tiny_config, tmp_path):
    tiny_config.OUTPUT_DIR = str(tmp_path)
    return tiny_config


def train(writer, first: int = 0, num_writes: int = 1) -> None:
    with EventStorage(first) as storage:
        for i in range(num_writes):
            storage.iter = first + 20 * i + 19
            storage.put_scalar("total_loss", 2.0)
            storage.put_scalar("segm/AP-a, b", 5.0, smoothing_hint=False)
            storage.put_scalar("segm/APl", math.nan, smoothing_hint=False)
            writer.write()
    writer.close()


def test_wandb_gets_each_number_once(wandb, config):
    train(WandbWriter(config, lambda: False), num_writes=2)
    (started,) = wandb.started
    assert started["project"] == "knet" and started["config"]["SOLVER"]["MAX_ITER"] == 2
    numbers = {"total_loss": 2.0, "segm/AP-a, b": 5.0}
    assert wandb.logged == [{**numbers, "iteration": 19}, {**numbers, "iteration": 39}]
    assert wandb.finished == 1


def test_a_resumed_training_goes_on_in_its_run_and_a_new_one_does_not(wandb, config):
    train(WandbWriter(config, lambda: False))
    train(WandbWriter(config, lambda: True), first=20)
    train(WandbWriter(config, lambda: False))
    assert [started["id"] for started in wandb.started] == [None, "run1", None]
    assert wandb.started[1]["resume"] == "allow"


def test_mlflow(mlflow, config, tmp_path):
    config.LOGGING.PROJECT, config.LOGGING.RUN_NAME = "pots", "first"
    train(MLflowWriter(config, lambda: False))
    train(MLflowWriter(config, lambda: True), first=20)
    assert mlflow.experiments == ["pots", "pots"]
    assert mlflow.started == [(None, "first"), ("run1", None)]
    numbers = {"total_loss": 2.0, "segm/AP-a_ b": 5.0}
    assert mlflow.logged == [(19, numbers), (39, numbers)] and "config.yaml" in mlflow.texts


def test_a_service_that_fails_is_told_once(wandb, config, monkeypatch, caplog):
    tries = []

    def refuses(**options):
        tries.append(options)
        raise ConnectionError("no network")

    monkeypatch.setattr(wandb, "init", refuses)
    train(WandbWriter(config, lambda: False), num_writes=3)
    told = [r.getMessage() for r in caplog.records if "no network" in r.getMessage()]
    assert len(told) == 1 and "the training goes on" in told[0]
    assert len(tries) == 1, "each may take minutes"


def test_a_service_that_fails_at_the_end_fails_alone(wandb, config, monkeypatch, caplog):
    def refuses():
        raise ConnectionError("no network")

    monkeypatch.setattr(wandb, "_finish", refuses)
    train(WandbWriter(config, lambda: False))
    assert "wandb could not be closed" in caplog.text


@pytest.mark.parametrize("key, package", [("WANDB", "wandb"), ("MLFLOW", "mlflow")])
def test_a_service_whose_package_is_missing(key, package, config, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(writers, "find_spec", lambda name: None)
    config.LOGGING[key] = True
    with pytest.raises(UsageError, match=rf"LOGGING\.{key} True needs .*pip install {package}"):
        check_config(config)


def test_without_tensorboard_a_training_runs_and_says_so(
    train_net, tiny_options, monkeypatch, tmp_path
):
    monkeypatch.setattr(writers, "has_tensorboard", lambda: False)
    outcome = train_net(options={**tiny_options, "DATASETS.TEST": ()})
    assert outcome.status == 0 and outcome.out.count("TensorBoard is not installed") == 1
    output = tmp_path / "output"
    assert (output / "metrics.json").exists() and not list(output.glob("events.*"))


def test_wandb_by_its_key(train_net, wandb, tiny_options):
    options = {**tiny_options, "DATASETS.TEST": (), "LOGGING.WANDB": True}
    outcome = train_net(options=options)
    assert outcome.status == 0
    (logged,) = wandb.logged
    assert logged["iteration"] == 1 and logged["total_loss"] > 0
