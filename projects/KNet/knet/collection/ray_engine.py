"""Ray: where it runs, and how much of it a worker gets."""

import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from typing import Iterator, Optional

from ..errors import UsageError

__all__ = ["THIS_MACHINE", "Engine", "connected", "fitted"]

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_CPUS_A_WORKER = 4  # beyond these a CPU gains little by one more for the same image
_OBJECT_STORE_BYTES = 128 * 2**20  # shards' numbers, nothing else, go from process to process


@dataclass(frozen=True)
class Engine:
    """Where the workers run, and how many; each has a model of its own.

    Attributes:
        address: "local"; or of a Ray cluster: "auto", found by Ray itself, or "host:port".
        workers: None: one for each GPU, or else for each 4 CPUs.
        cpus_per_worker: None: a worker's share of the CPUs, 4 at most.
        gpus_per_worker: None: 1 where there are GPUs; 0 predicts on CPUs; 0.5 shares one.
    """

    address: str = "local"
    workers: Optional[int] = None
    cpus_per_worker: Optional[int] = None
    gpus_per_worker: Optional[float] = None

    def check(self) -> None:
        """
        Raises:
            UsageError: a number that cannot be, or nothing is at the address.
        """
        for name, least in (("workers", 1), ("cpus_per_worker", 1), ("gpus_per_worker", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                words = name.replace("_", " ")
                raise UsageError(f"the number of {words} is {value}: at least {least} is needed")
        if self.address not in ("local", "auto"):
            _check_reachable(self.address)


THIS_MACHINE = Engine()


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to Ray; one that there was before stays.

    Raises:
        UsageError: there is no Ray at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it warns of what Ray Data does
    import ray.data

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its log is in /tmp/ray
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options.update(include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES)
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster at {address}: {' '.join(str(error).split())} (one that asks for a "
            "token needs RAY_AUTH_MODE=token and the token here too)"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for more than a minute."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal() or int(port) > 65535:
        # Ray Data does not work by way of ray://
        raise UsageError(
            f"the address of a cluster is auto or host:port, not {address!r}: give that of its "
            "head, or start this program there (ray job submit)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"no Ray cluster answers at {address} ({error}): correct the address, or start one "
            "there with 'ray start --head'"
        ) from error


def fitted(engine: Engine) -> Engine:
    """The same with numbers for None.

    Raises:
        UsageError: the machine does not have so much.
    """
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0)
    gpus_each = engine.gpus_per_worker
    if gpus_each is None:
        gpus_each = 1 if gpus >= 1 else 0
    workers = engine.workers
    if workers is None:
        workers = max(1, int(gpus / gpus_each if gpus_each else cpus / _CPUS_A_WORKER))
    cpus_each = engine.cpus_per_worker
    if cpus_each is None:
        cpus_each = min(_CPUS_A_WORKER, max(1, cpus // workers))
    for name, each, there in (("CPU", cpus_each, cpus), ("GPU", gpus_each, gpus)):
        if workers * each <= there:
            continue
        need = f"the workers need {workers * each:g} {name}s together, there are {there:g}"
        if engine.address == "local":
            raise UsageError(f"{need}: give fewer workers, or less to each")
        logger.warning("%s: some wait until the cluster has more", need)
    logger.info("%d workers, each with %d CPUs and %g GPUs", workers, cpus_each, gpus_each)
    return Engine(engine.address, workers, cpus_each, gpus_each)
