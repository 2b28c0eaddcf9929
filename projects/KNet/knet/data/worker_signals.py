"""Loader workers leave a signal to stop to the process that they work for.

Ctrl-C and many schedulers send it to the whole process group: a worker that died of it would end
the training in an error, before it can save itself.
"""

import os
import signal
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

from torch.utils.data import DataLoader

__all__ = ["STOP_SIGNALS", "leave_signals_to_trainer", "starting_workers"]

# Windows has no SIGUSR1
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
)


class _WorkerStart:
    """A worker's ``worker_init_fn``; an object, as another way to start processes pickles it."""

    def __init__(self, theirs: Optional[Callable[[int], Any]]):
        self._theirs = theirs

    def __call__(self, worker: int) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # the loader ends by it a worker that does not end by itself; the group's comes first
        signal.signal(signal.SIGTERM, _end_at_the_second())
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if self._theirs is not None:
            self._theirs(worker)


def _end_at_the_second() -> Callable[[int, Any], None]:
    received = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(0)

    return handle


def leave_signals_to_trainer(loader: DataLoader) -> DataLoader:
    """Have the workers that a loader will start ignore the signals that stop a training."""
    loader.worker_init_fn = _WorkerStart(loader.worker_init_fn)
    return loader


@contextmanager
def starting_workers() -> Iterator[None]:
    """The signals wait while the block starts workers, which would not know yet what to do."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
