"""Processes as torchrun and srun start them, without the seconds that each would import for."""

import multiprocessing
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Union

from tests.conftest import DEMO_CONFIG, Outcome, pairs

# forks from a process that has imported and done nothing
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["knet.engine.main", "tests.conftest"])
_PATIENCE = 60.0  # seconds


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def of_torchrun(count: int) -> List[Dict[str, str]]:
    """The variables of each process of one machine."""
    port = str(free_port())
    return [
        {
            **{"RANK": str(rank), "WORLD_SIZE": str(count)},
            **{"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        }
        for rank in range(count)
    ]


def of_srun(count: int, machines: int = 1) -> List[Dict[str, str]]:
    """The variables of each task of a step, on this machine with more than one name."""
    job = str(free_port())
    return [
        {
            **{"SLURM_JOB_ID": job, "SLURM_STEP_ID": "0"},
            **{"SLURM_STEP_NUM_TASKS": str(count), "SLURM_NTASKS": str(count)},
            **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % (count // machines))},
            "SLURM_STEP_TASKS_PER_NODE": f"{count // machines}(x{machines})",
            "SLURM_STEP_NODELIST": "localhost",
        }
        for rank in range(count)
    ]


def threads_of_torch() -> int:
    """Threads of this process that are not Python's."""
    return len(os.listdir("/proc/self/task")) - threading.active_count()


def train_net_in(
    variables: Sequence[Mapping[str, str]],
    *flags: Union[str, Sequence[str]],
    options: dict,
    folder: Path,
    config_file: str = DEMO_CONFIG,
    outputs: Sequence[Path] = (),
    exactly: bool = False,
) -> List[Outcome]:
    """``train_net.py`` in a process for each of the variables; fails where one does not end.

    Args:
        variables: environment of each process; other runs may be among them.
        flags: of the command line, each for all or a sequence with that of each process.
        options: likewise, for all.
        folder: for what they print.
        config_file: of all.
        outputs: OUTPUT_DIR of each process, where they differ.
        exactly: compute in double precision, where the order of a sum decides nothing, and draw
            the same cells of every image.
    """
    processes = []
    for i, environment in enumerate(variables):
        own = [flag if isinstance(flag, str) else flag[i] for flag in flags]
        of_run = {**options, "OUTPUT_DIR": str(outputs[i])} if outputs else options
        words = ["--config-file", config_file, *own, *pairs(of_run)]
        place = (str(folder / f"{i}.out"), str(folder / f"{i}.err"))
        arguments = (words, environment, place, exactly)
        processes.append(_CONTEXT.Process(target=_train_net, args=arguments))
    for process in processes:
        process.start()
    for process in processes:
        process.join(_PATIENCE)
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
        process.join()
    outcomes = [
        Outcome(p.exitcode, *((folder / f"{i}.{end}").read_text() for end in ("out", "err")))
        for i, p in enumerate(processes)
    ]
    assert not alive, [(o.out[-1000:], o.err[-1000:]) for o in outcomes]
    return outcomes


def _train_net(
    words: List[str], environment: Mapping[str, str], place: Sequence[str], exactly: bool
) -> None:
    for descriptor, path in zip((1, 2), place):
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.environ.update(environment)
    import torch

    from knet.engine.main import main

    torch.set_num_threads(1)
    if exactly:  # what says "float32" or "float" too
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float, torch.float32 = torch.Tensor.double, torch.float64
        _draw_the_same()
    sys.exit(main(words))


def _draw_the_same() -> None:
    """Each permutation that is drawn of torch's own state, which no two processes have alike."""
    import torch

    draw = torch.randperm

    def permutation(number, *, generator=None, **kwargs):
        return draw(number, generator=generator or torch.Generator().manual_seed(0), **kwargs)

    torch.randperm = permutation
