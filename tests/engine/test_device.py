"""Which device a run gets: what the machine has and the user asked for, never an error."""

import logging

import pytest

from knet.engine import select_device
from knet.engine.launching import Place
from knet.errors import UsageError


@pytest.fixture
def machine(monkeypatch):
    """Makes CUDA report so many GPUs."""

    def set_gpus(count):
        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)

    return set_gpus


@pytest.mark.parametrize(
    "gpus, device, wanted, processes, chosen",
    [
        (0, "cuda", 1, 1, "cpu"),
        (0, "cuda", 0, 1, "cpu"),
        (0, "cpu", 8, 1, "cpu"),
        (0, "cuda:0", 1, 1, "cpu"),
        (0, "mps", 1, 1, "mps"),
        (4, "cuda", 0, 1, "cpu"),
        (4, "cuda", 1, 1, "cuda"),
        (4, "cuda", 3, 3, "cuda"),
        (4, "cuda", 8, 4, "cuda"),
        (4, "cpu", 4, 1, "cpu"),
    ],
)
def test_device_and_processes(machine, tiny_config, gpus, device, wanted, processes, chosen):
    machine(gpus)
    tiny_config.MODEL.DEVICE = device
    assert select_device(tiny_config, wanted) == processes
    assert chosen == tiny_config.MODEL.DEVICE


def test_another_accelerator_is_one_process_even_beside_gpus(machine, tiny_config):
    machine(4)
    tiny_config.MODEL.DEVICE = "mps"
    assert select_device(tiny_config, 4) == 1
    assert tiny_config.MODEL.DEVICE == "mps"


@pytest.mark.parametrize(
    "gpus, device, wanted, warning",
    [
        (0, "cuda", 2, "--num-gpus 2, but CUDA finds no GPU"),
        (2, "cuda", 8, "--num-gpus 8: only 2 found"),
        (2, "cuda", 2, None),
        (0, "cuda", 0, None),
        (0, "cpu", 1, None),
    ],
)
def test_a_wish_that_is_not_met_is_told(
    machine, tiny_config, caplog, gpus, device, wanted, warning
):
    machine(gpus)
    tiny_config.MODEL.DEVICE = device
    with caplog.at_level(logging.WARNING, logger="knet"):
        select_device(tiny_config, wanted)
    warnings = [record.getMessage() for record in caplog.records]
    assert [w[: len(warning or "")] for w in warnings] == ([warning] if warning else [])


def test_running_on_the_cpu_is_told_with_its_threads(machine, tiny_config, caplog):
    machine(0)
    with caplog.at_level(logging.INFO, logger="knet"):
        select_device(tiny_config, 0)
    assert "Running on cpu with" in caplog.text


@pytest.mark.parametrize("gpus, wanted, device", [(0, 1, "cuda"), (2, 4, "cuda"), (2, 2, "cpu")])
def test_several_machines_need_their_gpus(machine, tiny_config, gpus, wanted, device):
    """Fewer processes than the others expect would leave them waiting for ever."""
    machine(gpus)
    tiny_config.MODEL.DEVICE = device
    with pytest.raises(UsageError, match="--num-gpus 0"):
        select_device(tiny_config, wanted, Place(num_machines=2))


@pytest.mark.parametrize(
    "gpus, wanted, starter, chosen",
    [
        (2, 1, "torchrun", "cuda"),
        (8, 2, "torchrun", "cuda"),
        (8, 0, "torchrun", "cpu"),
        (0, 1, "torchrun", "cpu"),
        (1, 1, "srun", "cuda"),  # each sees its own alone
    ],
)
def test_processes_that_were_started_have_a_gpu_each(
    machine, tiny_config, gpus, wanted, starter, chosen
):
    machine(gpus)
    tiny_config.MODEL.DEVICE = "cuda"
    assert select_device(tiny_config, wanted, Place(starter, local_size=2)) == 2
    assert chosen == tiny_config.MODEL.DEVICE


@pytest.mark.parametrize("gpus, starter", [(1, "torchrun"), (3, "srun")])
def test_more_processes_than_gpus_are_told(machine, tiny_config, gpus, starter):
    machine(gpus)
    tiny_config.MODEL.DEVICE = "cuda"
    with pytest.raises(UsageError, match=f"{starter} has started 4 processes"):
        select_device(tiny_config, 1, Place(starter, local_size=4))


def test_a_device_that_there_is_not(tiny_config):
    tiny_config.MODEL.DEVICE = "gpu"
    with pytest.raises(UsageError, match=r"MODEL\.DEVICE is 'gpu': set it to cuda or cpu"):
        select_device(tiny_config, 0)
