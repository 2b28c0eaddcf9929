"""A signal ends a training after a step, with a checkpoint, and it goes on as if never stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import get_context

import pytest
import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from torch.utils.data import DataLoader

import knet.engine.main
from knet.checkpoint.safe_load import load_file
from knet.engine.processes import leave_group
from knet.engine.stop_signals import (
    StoppableLoader,
    Stopped,
    StopSignals,
    passing_on_signals,
    status_of_signal,
)
from knet.engine.trainer import KNetTrainer
from knet.modeling.meta_arch import KNet
from tests.conftest import REPO
from tests.engine.test_exact_resume import differences, final

pytestmark = pytest.mark.usefixtures("interruptible")


class Signals(HookBase):
    """Sends this process a signal in the step of an iteration."""

    def __init__(self, number, iteration):
        self.number, self.iteration = number, iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def options(tiny_options):
    return {**tiny_options, "DATASETS.TEST": (), "SOLVER.MAX_ITER": 5, "INPUT.CROP.ENABLED": True}


@pytest.fixture
def signalled(train_net, monkeypatch):
    """Trains, and gets a signal in the step of an iteration."""

    def run(number, iteration, *, options):
        build_hooks = KNetTrainer.build_hooks
        with monkeypatch.context() as patch:
            patch.setattr(
                KNetTrainer, "build_hooks", lambda s: [*build_hooks(s), Signals(number, iteration)]
            )
            return train_net(options=options)

    return run


@pytest.mark.parametrize(
    "name, workers", [("SIGTERM", 2), ("SIGINT", 0), ("SIGUSR1", 0)], ids=lambda x: str(x)
)
def test_it_stops_after_the_step_and_goes_on(
    train_net, signalled, options, tmp_path, name, workers
):
    options["DATALOADER.NUM_WORKERS"] = workers
    number = getattr(signal, name)
    before = signal.getsignal(number)
    outcome = signalled(number, 2, options=options)
    assert outcome.status == 128 + number
    (told,) = [line for line in outcome.out.splitlines() if "Stopped by" in line]
    assert f"{name} after iteration 2" in told and "model_0000002.pth" in told
    assert "--resume" in told and "Traceback" not in outcome.out + outcome.err
    assert signal.getsignal(number) == before and StopSignals.active is None
    assert not any("Stopped" in str(child) for child in threading.enumerate())

    assert train_net("--resume", options=options).status == 0
    stopped = final(tmp_path / "output")
    options["OUTPUT_DIR"] = str(tmp_path / "straight")
    assert train_net(options=options).status == 0
    assert differences(stopped, final(tmp_path / "straight")) == []


def test_in_the_last_step_the_training_just_ends(signalled, options, tmp_path):
    assert signalled(signal.SIGTERM, 4, options=options).status == 0
    assert final(tmp_path / "output")["iteration"] == 4


@pytest.fixture
def evaluation_signalled(monkeypatch):
    """The first evaluation of this process gets a signal at its first image."""
    forward, seen = KNet.forward, []

    def signals(self, inputs):
        if not self.training:
            seen.append(inputs)
            if len(seen) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, inputs)

    monkeypatch.setattr(KNet, "forward", signals)
    return seen


def test_an_evaluation_is_left(train_net, evaluation_signalled, options, tiny_options, tmp_path):
    options.update({"DATASETS.TEST": tiny_options["DATASETS.TEST"], "TEST.EVAL_PERIOD": 2})
    assert train_net(options=options).status == 143
    assert len(evaluation_signalled) == 1, "of three images"
    assert load_file(str(tmp_path / "output" / "model_0000001.pth"))["iteration"] == 1
    assert train_net("--resume", options=options).status == 0
    stopped = final(tmp_path / "output")
    options["OUTPUT_DIR"] = str(tmp_path / "straight")
    assert train_net(options=options).status == 0
    assert differences(stopped, final(tmp_path / "straight")) == []


def test_the_last_evaluation_is_left_and_made_later(
    train_net, evaluation_signalled, options, tiny_options, tmp_path
):
    options.update({"DATASETS.TEST": tiny_options["DATASETS.TEST"]})
    assert train_net(options=options).status == 143
    assert len(evaluation_signalled) == 1
    assert final(tmp_path / "output")["iteration"] == 4
    assert not list((tmp_path / "output" / "inference").rglob("panoptic_quality.json"))
    assert train_net("--resume", options=options).status == 0
    assert list((tmp_path / "output" / "inference").rglob("panoptic_quality.json"))


def test_a_disk_that_is_full_then(train_net, signalled, options, monkeypatch):
    def full(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    sentence = signalled(signal.SIGTERM, 1, options=options).sentence()
    assert "model_0000001.pth cannot be written" in sentence


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


SETTING = "import os, signal, time; from knet.engine.stop_signals import StopSignals, Stopped\n"


def test_a_second_signal_ends_at_once():
    done = run_python(
        SETTING
        + """
with StopSignals() as signals:
    for _ in range(3):  # as launchers pass one on
        os.kill(os.getpid(), signal.SIGTERM)
    print("there", signals.number, flush=True)
    time.sleep(1.1)
    os.kill(os.getpid(), signal.SIGINT)
    print("not there")
"""
    )
    assert done.returncode == -signal.SIGINT and done.stdout == "there 15\n", done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.number == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.number == signal.SIGTERM
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_another_thread_can_train():
    seen = []

    def train():
        with StopSignals() as signals:
            seen.append(signals.agreed())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [0]


@pytest.mark.parametrize(
    "exit_code, status", [(-15, 143), (143, 143), (130, 130), (-9, None), (1, None), (0, None)]
)
def test_the_status_of_a_process_that_was_started(exit_code, status):
    assert status_of_signal(exit_code) == status


def in_two_processes(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}/group", rank=rank, world_size=2)
    loader = StoppableLoader(DataLoader(torch.arange(3 - rank), batch_size=None))
    assert list(loader) == list(range(3 - rank))  # without a training
    with StopSignals() as signals:
        assert list(loader) == list(range(3 - rank)), "one batch more in one process"
        assert signals.agreed() == 0
        if rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Stopped) as stopped:
            list(loader)
        assert stopped.value.code == 128 + signal.SIGUSR1 == 128 + signals.agreed()
    leave_group()


def test_two_processes_agree(tmp_path):
    processes = [
        get_context("fork").Process(target=in_two_processes, args=(rank, tmp_path))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


def stop_and_end_late(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}/group", rank=rank, world_size=2)

    def stop(cfg, args):
        raise Stopped(signal.SIGUSR1)

    knet.engine.main.run = stop
    try:
        knet.engine.main.run_in_group(None, None)
    finally:  # it has not ended yet, as the interpreter takes its time, and the other one has
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_launcher_that_ends_the_others_hears_that_they_stopped(tmp_path):
    """``srun --kill-on-bad-exit=1`` returns the highest status; scripts that requeue want 138."""
    processes = [
        get_context("fork").Process(target=stop_and_end_late, args=(rank, tmp_path))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [138, 138]


def test_a_process_that_waits_for_others_passes_signals_on():
    process = get_context("fork").Process(target=signal.pause)
    process.start()
    with passing_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        process.join(10)
    assert process.exitcode == -signal.SIGTERM


def test_killed_again_and_again():
    """A short form of the program; it says how many kills it has made."""
    words = ["--kills", "6", "--iterations", "8", "--signals", "SIGKILL", "SIGTERM", "SIGINT"]
    done = subprocess.run(
        [sys.executable, "tests/integration/kill_runs.py", *words],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills: 6" in done.stdout


def test_a_helper_that_is_ended_as_soon_as_it_starts():
    """As a pool does whose work is done before its second process runs."""
    helpers = []
    with StopSignals():
        for _ in range(100):
            helpers.append(os.fork())
            if helpers[-1] == 0:
                time.sleep(20)  # if it forgets the signal
                os._exit(0)
            os.kill(helpers[-1], signal.SIGTERM)
        statuses = [os.waitpid(helper, 0)[1] for helper in helpers]
    assert statuses == [signal.SIGTERM] * len(helpers)
