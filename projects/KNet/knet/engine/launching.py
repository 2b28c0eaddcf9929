"""Who starts the processes of a run, and which of them this one is.

Detectron2's options, ``torchrun`` and ``srun`` are understood; the first that has started this
process among others counts: torchrun, then srun, then ``--num-machines``.
"""

import re
from argparse import Namespace
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

from detectron2.engine import default_argument_parser

from ..errors import UsageError

__all__ = ["ALONE", "Place", "find_place", "is_first_of_machine"]

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# SLURM's steps that srun has not started (the batch script, the shell of salloc) have the last ids
_FIRST_SPECIAL_STEP = 2**32 - 16


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run."""

    # Who has started all processes; "": this one starts those of its machine
    starter: str = ""
    num_machines: int = 1
    machine_rank: int = 0
    # Where they meet, for torch's init_process_group
    url: str = "auto"
    # With a starter: which of how many processes of its machine this is
    local_rank: int = 0
    local_size: int = 1

    @property
    def rank(self) -> int:
        """Of this process; without a starter of the first process of the machine, or 0."""
        return self.machine_rank * self.local_size + self.local_rank if self.starter else 0

    @property
    def world_size(self) -> int:
        """Processes that have been started."""
        return self.num_machines * self.local_size if self.starter else 1


ALONE = Place()


def find_place(args: Namespace, environ: Mapping[str, str]) -> Place:
    """
    Args:
        args: of Detectron2's parser.
        environ: environment variables.

    Raises:
        UsageError: options and variables contradict each other.
    """
    if all(name in environ for name in _TORCHRUN):
        return _of_torchrun(args, environ)
    place = _of_slurm(args, environ)
    if place is not None:
        return place
    if not 0 <= args.machine_rank < args.num_machines:
        raise UsageError(
            f"--machine-rank is {args.machine_rank}: of --num-machines {args.num_machines} it is 0 "
            f"to {max(args.num_machines, 1) - 1}"
        )
    if args.num_machines > 1 and args.num_gpus == 0:  # a process each, which is this one
        return Place("--num-machines", args.num_machines, args.machine_rank, args.dist_url)
    url = args.dist_url if args.num_machines > 1 else _own_url(args)
    return Place("", args.num_machines, args.machine_rank, url)


def is_first_of_machine(environ: Mapping[str, str]) -> bool:
    """Whether this process may tell of what its place cannot be found for, alone or for all."""
    return _first(environ, ("LOCAL_RANK", "SLURM_LOCALID"))[1] in ("", "0")


def _own_url(args: Namespace) -> str:
    """On one machine two runs of a user would meet at Detectron2's default port."""
    return args.dist_url if _given(args, "dist_url") else "auto"


def _of_torchrun(args: Namespace, environ: Mapping[str, str]) -> Place:
    rank, world_size, local_rank, local_size = (_number(environ, name) for name in _TORCHRUN)
    machines, machine_rank = world_size // max(local_size, 1), rank // max(local_size, 1)
    if (
        not machines
        or world_size != machines * local_size
        or rank != machine_rank * local_size + local_rank
    ):
        raise UsageError(
            f"torchrun started {local_size} of {world_size} processes on this machine: give it the "
            "same --nproc-per-node on all"
        )
    place = Place("torchrun", machines, machine_rank, "env://", local_rank, local_size)
    _compare(place, args, "torchrun", f"give torchrun --nproc-per-node {max(args.num_gpus, 1)}")
    return ALONE if world_size == 1 else place


def _of_slurm(args: Namespace, environ: Mapping[str, str]) -> Optional[Place]:
    """None where srun has not started this process as one of several."""
    if not _is_step(environ):
        return None
    size = _number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if size == 1:
        return None
    rank, local_rank = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_LOCALID")
    local_size = _tasks_of_a_machine(environ, size)
    machines, machine_rank = size // local_size, rank // local_size
    if rank != machine_rank * local_size + local_rank:
        raise UsageError(
            f"srun made this process number {rank} of all and {local_rank} of its machine, which "
            f"is not machine by machine: start it with srun --distribution=block"
        )
    place = Place("srun", machines, machine_rank, _slurm_url(environ), local_rank, local_size)
    if local_size == 1 and args.num_gpus > 1:  # one process a machine, which starts the others
        spawning = Place("", machines, machine_rank, place.url)
        if args.num_machines == 1:
            return spawning
        _compare(place, args, "srun", "", num_gpus=False, url=False)
        url = args.dist_url if _given(args, "dist_url") else place.url
        return Place("", machines, machine_rank, url)
    _compare(place, args, "srun", f"give srun --ntasks-per-node={max(args.num_gpus, 1)}")
    return place


def _is_step(environ: Mapping[str, str]) -> bool:
    """Whether srun has started this process, and not a shell in which it was typed."""
    step = environ.get("SLURM_STEP_ID", "")
    return (
        "SLURM_PROCID" in environ
        and "SLURM_LOCALID" in environ
        and step.isdigit()
        and int(step) < _FIRST_SPECIAL_STEP
    )


def _tasks_of_a_machine(environ: Mapping[str, str], size: int) -> int:
    """SLURM writes ``4(x2)`` for two machines of four tasks, ``3,2`` for different ones."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"):
        if name in environ:
            found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", environ[name].strip())
            if found is None or not int(found[1]) or size % int(found[1]):
                raise UsageError(
                    f"{name} is {environ[name]} for {size} tasks: start the same number on each "
                    "machine, with srun --ntasks-per-node"
                )
            return int(found[1])
    raise UsageError("SLURM_STEP_TASKS_PER_NODE is not set: start with srun --ntasks-per-node")


def _slurm_url(environ: Mapping[str, str]) -> str:
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((environ[name] for name in names if environ.get(name)), "")
    host = environ.get("MASTER_ADDR") or _first_host(nodes)
    if not host:
        raise UsageError("SLURM_STEP_NODELIST is not set: set MASTER_ADDR to the first machine")
    if "MASTER_PORT" in environ:
        port = _number(environ, "MASTER_PORT")
    else:  # below the ports that systems give away by themselves
        job = _number(environ, "SLURM_JOB_ID", "SLURM_JOBID")
        port = 12000 + (job + int(environ["SLURM_STEP_ID"])) % 20000
    return f"tcp://{host}:{port}"


def _first_host(nodes: str) -> str:
    """``gpu[07-09,12],big1`` -> ``gpu07``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _compare(
    place: Place,
    args: Namespace,
    starter: str,
    remedy: str,
    *,
    num_gpus: bool = True,
    url: bool = True,
) -> None:
    """
    Raises:
        UsageError: options that were given say something else.
    """
    if num_gpus and args.num_gpus not in (0, 1, place.local_size):
        raise UsageError(
            f"--num-gpus {args.num_gpus}, but {starter} has started {place.local_size} process"
            f"{'es' if place.local_size > 1 else ''} on this machine, of one GPU each: leave "
            f"--num-gpus out, or {remedy}"
        )
    for option, given, is_right in (
        ("--num-machines", args.num_machines, args.num_machines in (1, place.num_machines)),
        ("--machine-rank", args.machine_rank, args.machine_rank in (0, place.machine_rank)),
        ("--dist-url", args.dist_url, not url or not _given(args, "dist_url")),
    ):
        if not is_right:
            raise UsageError(
                f"{option} {given}, but {starter} has started this process as one of machine "
                f"{place.machine_rank} of {place.num_machines}, and tells where they meet: leave "
                f"{option} out"
            )


def _given(args: Namespace, name: str) -> bool:
    return getattr(args, name) != default_argument_parser().get_default(name)


def _number(environ: Mapping[str, str], *names: str) -> int:
    """Value of the first of these variables that is set."""
    name, value = _first(environ, names)
    if not value.isdigit():
        raise UsageError(f"the environment variable {name} is '{value}': it must be a number")
    return int(value)


def _first(environ: Mapping[str, str], names: Tuple[str, ...]) -> Tuple[str, str]:
    return next(((n, environ[n]) for n in names if n in environ), (names[0], ""))
