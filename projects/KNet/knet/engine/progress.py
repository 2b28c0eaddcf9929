"""The line of progress in the log, every 20 iterations."""

import datetime
import logging
from typing import Iterator, Optional

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from ..peak_memory import peak_bytes

__all__ = ["ProgressPrinter"]

logger = logging.getLogger(__name__)


class ProgressPrinter(EventWriter):
    """Detectron2's CommonMetricPrinter, with images a second and the memory of a CPU's process too.

    Of an evaluation nothing is repeated in every line, as that one would repeat validation losses.
    """

    def __init__(self, max_iter: int, batch_size: int, window_size: int = 20):
        """
        Args:
            max_iter: iterations of the training.
            batch_size: images of an iteration, of all processes together.
            window_size: iterations over which losses are smoothed, by their median.
        """
        self._max_iter = max_iter
        self._batch_size = batch_size
        self._window_size = window_size

    def write(self):
        storage = get_event_storage()
        if storage.iter >= self._max_iter:  # after the training
            return
        parts = [f"iter: {storage.iter}", *self._losses(storage), *self._times(storage)]
        lr = _latest(storage, "lr")
        parts += ["lr: N/A" if lr is None else f"lr: {lr:.5g}", _memory()]
        logger.info("  ".join(filter(None, [*self._eta(storage), *parts])))

    def _eta(self, storage: EventStorage) -> Iterator[str]:
        """Time left; absent in the first iterations, which are slower."""
        if _latest(storage, "time") is None:
            return
        seconds = storage.history("time").median(1000)
        left = seconds * (self._max_iter - storage.iter - 1)
        storage.put_scalar("eta_seconds", left, smoothing_hint=False)
        yield f"eta: {datetime.timedelta(seconds=int(left))}"

    def _losses(self, storage: EventStorage) -> Iterator[str]:
        for name, history in storage.histories().items():
            if "loss" in name and not name.startswith("val_"):
                samples = storage.count_samples(name, self._window_size)
                yield f"{name}: {history.median(samples):.4g}"

    def _times(self, storage: EventStorage) -> Iterator[str]:
        if _latest(storage, "time") is not None:
            history = storage.history("time")
            yield f"time: {history.global_avg():.4f}"
            yield f"last_time: {history.latest():.4f}"
        if _latest(storage, "data_time") is not None:
            history = storage.history("data_time")
            samples = storage.count_samples("data_time", self._window_size)
            yield f"data_time: {history.avg(samples):.4f}"
            yield f"last_data_time: {history.latest():.4f}"
        if _latest(storage, "time") is not None:
            samples = storage.count_samples("time", self._window_size)
            speed = self._batch_size / storage.history("time").avg(samples)
            storage.put_scalar("images_per_second", speed, smoothing_hint=False)
            yield f"images/s: {speed:.4g}"


def _latest(storage: EventStorage, name: str) -> Optional[float]:
    return storage.history(name).latest() if name in storage.histories() else None


def _memory() -> str:
    """The most that this process has held: of the GPU, or of the machine where it uses none."""
    if torch.cuda.is_initialized():
        return f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
    peak = peak_bytes()
    return "" if peak is None else f"max_mem: {peak / 2**20:.0f}M (CPU)"
