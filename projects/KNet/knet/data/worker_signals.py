"""Loader workers leave a signal to stop to the process that they work for.

Ctrl-C and many schedulers send it to the whole process group: a worker that died of it would end
the training in an error, before it can save itself.
"""

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
            if number != signal.SIGTERM:
                signal.signal(number, signal.SIG_IGN)
        # the loader may end its workers by it: a training's handler, which a fork has, tells that
        # from the signal to the group, but torch has put one of its own in its place
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler):
            signal.signal(signal.SIGTERM, handler)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if self._theirs is not None:
            self._theirs(worker)


def leave_signals_to_trainer(loader: DataLoader) -> DataLoader:
    """Have the workers that a loader will start leave the signals that stop a training to it."""
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
