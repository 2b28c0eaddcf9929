"""What sums over a batch are divided by, where several processes share the batch."""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Iterator, Optional, Union

import torch
from detectron2.utils import comm

__all__ = ["SHARES", "Normalizer", "each_process_alone"]

# MODEL.KNET.LOSS.NORMALIZER
SHARES = ("process", "batch")

_ALONE = ContextVar("each process alone", default=False)


@contextmanager
def each_process_alone() -> Iterator[None]:
    """Losses of a process's own images: none waits for another, which may have fewer of them."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


class Normalizer:
    """Of the losses that the published recipe normalises in each process by itself.

    The gradients of several processes are averaged. Sums over each one's images become the
    gradient of one process with all images if they are divided by the mean of their counts.
    """

    def __init__(self, share: str):
        """
        Args:
            share: "process", as published, or "batch": as if one process had all images.
        """
        self._share = share

    @property
    def over_batch(self) -> bool:
        """Are sums over the images of other processes wanted too?"""
        return self._share == "batch" and _num_processes() > 1

    def own(self, count: Union[int, torch.Tensor], device: torch.device) -> Optional[torch.Tensor]:
        """For a loss that knows the count of its own images: None where it is to use that."""
        return self._of_batch(count, device) if self.over_batch else None

    def averaged(self, count: Union[int, torch.Tensor], device: torch.device):
        """For a loss that is published with the mean count of all processes, at least 1.

        The count of a tensor is never read by the host.
        """
        if self.over_batch:
            return self._of_batch(count, device)
        if _num_processes() == 1:
            return count.clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1)
        return (_total(count, device) / _num_processes()).clamp(min=1)

    @staticmethod
    def _of_batch(count: Union[int, torch.Tensor], device: torch.device) -> torch.Tensor:
        return _total(count, device).clamp(min=1) / _num_processes()


def _num_processes() -> int:
    return 1 if _ALONE.get() else comm.get_world_size()


def _total(count: Union[int, torch.Tensor], device: torch.device) -> torch.Tensor:
    total = torch.as_tensor(count, dtype=torch.float32, device=device).clone()
    torch.distributed.all_reduce(total)
    return total
