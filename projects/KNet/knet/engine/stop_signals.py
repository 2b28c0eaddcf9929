"""A training that is told to stop saves itself after the step it is in, and ends.

SIGTERM (``kill``, a preempted job), SIGINT (Ctrl-C) and SIGUSR1 (which SLURM sends some time before
the end of a job with ``--signal=USR1@120``) tell it so. The exit status is 128 + the signal's
number, as a shell has it for a program that a signal ended.
"""

import functools
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawValue
from typing import Any, Callable, ClassVar, Dict, Iterator, Optional, Union

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.utils.data import DataLoader

from ..data.resumable_loader import ResumableLoader
from ..data.worker_signals import STOP_SIGNALS, leave_signals_to_trainer, starting_workers
from .exact_resume import ExactResume
from .run_folder import RunFolder

__all__ = [
    "INTERRUPTED",
    "StopOnSignal",
    "StopSignals",
    "StoppableLoader",
    "Stopped",
    "ignore_stop_signals",
    "passing_on_signals",
    "status_of_signal",
]

logger = logging.getLogger(__name__)

INTERRUPTED = 128 + signal.SIGINT  # exit status

# Launchers pass on what they get, so that a process of the group gets one signal twice
_SAME_SIGNAL_SECONDS = 1.0


class Stopped(SystemExit):
    """Ends a training that was told to stop, without a traceback; ``code`` is the exit status."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


class StopSignals:
    """Notes the signals that stop a training while its block runs, if in the main thread.

    The first is noted. A second, if it does not come at once with the first, ends the process
    and its loader workers as it would have without this. A signal that was ignored (as by
    ``nohup``) stays ignored.
    """

    # the one whose block this process is in, as its handlers are the process's too
    active: ClassVar[Optional["StopSignals"]] = None

    def __init__(self):
        self.number = 0  # of the first signal; 0: none has come
        self._process = os.getpid()
        self._time = RawValue("d", -math.inf)  # when it came; also told to forked processes
        self._before: Dict[int, Any] = {}
        self._group: Optional[dist.ProcessGroup] = None

    def __enter__(self) -> "StopSignals":
        _let_helpers_end()
        if comm.get_world_size() > 1:
            # of the CPU: to ask costs some 0.2 ms, and no GPU waits
            self._group = dist.new_group(backend="gloo")
        self._before = _handle_by(self._handle)
        StopSignals.active = self
        return self

    def __exit__(self, *error: Any) -> None:
        StopSignals.active = None
        _put_back(self._before)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            self._handle_in_fork(number)
        elif not self.number:
            self.number, self._time.value = number, time.monotonic()
        elif self._is_new():
            for child in multiprocessing.active_children():
                child.kill()
            _end_by(number)

    def _handle_in_fork(self, number: int) -> None:
        """In a process that loads data for this one."""
        if number == signal.SIGTERM:
            time.sleep(0.1)
            # that of the whole group is for this process to obey; by another it ends the work,
            # and takes it for an error if the status is not 0
            if self._is_new():
                os._exit(0)

    def _is_new(self) -> bool:
        return time.monotonic() - self._time.value > _SAME_SIGNAL_SECONDS

    def agreed(self) -> int:
        """The signal that any process has got, 0 if none; to be asked in all of them."""
        if self._group is None:
            return self.number
        number = torch.tensor(self.number)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        return int(number)


class StopOnSignal(HookBase):
    """Ends the training after a step if a signal has come.

    It must come after the hook that saves and before the one that evaluates, in every process.
    """

    def __init__(self, checkpointer: RunFolder, loader: ResumableLoader, resume: ExactResume):
        self._checkpointer = checkpointer
        self._loader = loader
        self._resume = resume

    def after_step(self):
        signals = StopSignals.active
        # after the last step all is saved, and the evaluation asks by itself
        if signals is None or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        number = signals.agreed()
        if number:
            raise Stopped(number)

    def save(self, stopped: Stopped) -> None:
        """Write the checkpoint to go on from; to be called in all processes.

        Raises:
            UsageError: it cannot be written.
        """
        self._resume.gather()
        name = f"model_{self.trainer.iter:07d}"
        if comm.is_main_process():
            if self._checkpointer.saved != name:
                self._checkpointer.save(name, iteration=self.trainer.iter)
            logger.warning(
                f"Stopped by {signal.Signals(stopped.number).name} after iteration "
                f"{self.trainer.iter}, all of it is in {self._checkpointer.save_dir}/{name}.pth: "
                "go on with the same command and --resume"
            )
        self._loader.close()
        comm.synchronize()


class StoppableLoader:
    """A loader of an evaluation, which a signal stops before the next batch, in all processes."""

    def __init__(self, loader: DataLoader):
        self._loader = leave_signals_to_trainer(loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        """
        Raises:
            Stopped: a signal has come to one of the processes.
        """
        signals = StopSignals.active
        if signals is None:  # no training
            yield from self._loader
            return
        with starting_workers():
            batches = iter(self._loader)
        # processes may have one batch more or less, and all must ask as often
        for _ in range(max(comm.all_gather(len(self._loader)))):
            number = signals.agreed()
            if number:
                raise Stopped(number)
            yield from (batch for batch in [next(batches, None)] if batch is not None)


def status_of_signal(exit_code: int) -> Optional[int]:
    """The exit status of a process of ours that a signal has stopped; None if none has.

    Args:
        exit_code: of the process, as :mod:`multiprocessing` gives it.
    """
    status = 128 - exit_code if exit_code < 0 else exit_code
    return status if status - 128 in STOP_SIGNALS else None


@contextmanager
def passing_on_signals() -> Iterator[None]:
    """What a process that only waits for others does with signals: gives them to these."""

    def handle(number: int, frame: Any) -> None:
        children = multiprocessing.active_children()
        for child in children:
            os.kill(child.pid, number)
        if not children:
            _end_by(number)

    before = _handle_by(handle)
    try:
        yield
    finally:
        _put_back(before)


def ignore_stop_signals() -> None:
    """For a process that has stopped, saved, and is about to end with the status that says so.

    srun (``--kill-on-bad-exit``) and torchrun send the others SIGTERM as soon as one has ended, and
    srun would have the status of that instead.
    """
    _handle_by(signal.SIG_IGN)


@functools.cache  # once
def _let_helpers_end() -> None:
    """SIGTERM ends a process that is forked for other work than loading, as a pool's, at once.

    A handler in Python may run too late: a fork forgets the signals that it gets before it runs any
    Python, and so does a wait that has just begun. The pool would wait for its process for ever.
    """
    before = threading.local()

    def block() -> None:
        before.mask = None
        if StopSignals.active is not None:
            before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def restore() -> None:
        if before.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)

    def end_by_default() -> None:
        is_of_loader = before.mask is None or signal.SIGTERM in before.mask  # see starting_workers
        if not is_of_loader and callable(signal.getsignal(signal.SIGTERM)):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        restore()

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(before=block, after_in_parent=restore, after_in_child=end_by_default)


def _end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _handle_by(handler: Union[Callable[[int, Any], None], signal.Handlers]) -> Dict[int, Any]:
    """Set the handler of the signals that are not ignored; returns those that were set."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    free = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in free}


def _put_back(handlers: Dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
