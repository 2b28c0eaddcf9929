"""The processes of a run: they start or meet, and end together."""

import gc
import logging
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from detectron2.engine import create_ddp_model, launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import nn

from ..errors import UsageError
from .launching import Place

__all__ = ["Peers", "leave_group", "main_first", "share_gradients", "start"]

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(minutes=10)  # from the first process of a run to its last


class Peers:
    """The other processes of a run that have been started as this one has, if there are any."""

    def __init__(self, place: Place):
        """Meet them.

        Args:
            place: of this process; without a starter it has none.

        Raises:
            UsageError: they do not come.
        """
        self.place = place
        self._store = None
        if not place.starter:
            return
        rank, size = place.rank, place.world_size
        try:
            meeting = dist.rendezvous(place.url, rank, size, timeout=_PATIENCE)
            self._store, _, _ = next(iter(meeting))
            self._store.set(f"knet/here/{rank}", "")
            self._store.wait([f"knet/here/{r}" for r in range(size)], _PATIENCE)
        except (RuntimeError, ValueError) as error:  # also torch's own for a connection
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise UsageError(
                f"process {rank} of {size}, started by {place.starter}, has not met the others at "
                f"{place.url} in {_PATIENCE.seconds // 60} minutes ({reason}): start all of them, "
                "and let --dist-url (MASTER_ADDR, MASTER_PORT) name a free port of the first "
                "machine"
            ) from error

    def join(self, device: str) -> None:
        """Make the process group, as Detectron2 does in the processes that it starts itself.

        Args:
            device: ``MODEL.DEVICE`` of all.
        """
        if self._store is None:
            return
        place = self.place
        on_gpu = device.startswith("cuda")
        if on_gpu:  # one may be all that it sees
            torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=self._store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=DEFAULT_TIMEOUT,
        )
        comm.create_local_process_group(place.local_size)
        comm.synchronize()
        logger.info(
            f"Process {place.rank} of {place.world_size}, started by {place.starter}, on machine "
            f"{place.machine_rank} of {place.num_machines}, {device}"
        )

    def is_first_to_fail(self) -> bool:
        """Whether this process has to tell of the error: one that follows from it is no news."""
        if self._store is None:
            return True
        try:
            return self._store.add("knet/failed", 1) == 1
        except RuntimeError:  # the process that keeps the store has ended before
            return False


@contextmanager
def main_first() -> Iterator[None]:
    """The main process first, then the others at once: it may write what they read.

    An error of the main process is one of all, as they find it themselves.
    """
    if not comm.is_main_process():
        comm.synchronize()
    try:
        yield
    finally:
        if comm.is_main_process():
            comm.synchronize()


def start(
    function: Callable[..., Any], num_processes: int, place: Place, args: Sequence[Any]
) -> None:
    """Call a function in this process, if it is one of several, or in those that it starts.

    Args:
        function: ends with :func:`leave_group`.
        num_processes: to start on this machine.
        place: of this process.
        args: of the function.
    """
    if place.starter:
        function(*args)
        return
    launch(
        function,
        num_processes,
        num_machines=place.num_machines,
        machine_rank=place.machine_rank,
        dist_url=place.url,
        args=tuple(args),
    )


def leave_group() -> None:
    """End the communication of the processes, when all have come here, and its threads.

    A thread of gloo that lets go of a tensor while the interpreter ends aborts the process. It runs
    as long as anything keeps its group, so the caller holds no model of :func:`share_gradients`.
    """
    if not dist.is_initialized():
        return
    gc.collect()  # such models, which are parts of cycles
    comm.synchronize()  # waits without Python's lock: threads that need it come to their end
    dist.destroy_process_group()
    _let_detectron2_forget()


def _let_detectron2_forget() -> None:
    """Detectron2 keeps the group of the machine and that of all CPUs, also destroyed ones."""
    if hasattr(comm, "_LOCAL_PROCESS_GROUP"):
        comm._LOCAL_PROCESS_GROUP = None
    of_cpus = getattr(comm, "_get_global_gloo_group", None)
    if hasattr(of_cpus, "cache_clear"):
        of_cpus.cache_clear()


def share_gradients(model: nn.Module) -> nn.Module:
    """Detectron2's wrapper of a model that several processes train, on a CPU or its own GPU."""
    device = next(model.parameters()).device
    device_ids = [device.index] if device.type == "cuda" else None
    return create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
