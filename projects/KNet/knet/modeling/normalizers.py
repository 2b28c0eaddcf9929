"""What sums over a batch are divided by, where several processes share the batch."""

from typing import Optional, Union

import torch
from detectron2.utils import comm

__all__ = ["SHARES", "Normalizer", "average_over_workers"]

# MODEL.KNET.LOSS.NORMALIZER
SHARES = ("process", "batch")


def average_over_workers(count: Union[int, torch.Tensor], device: torch.device):
    """Mean of a count over all workers, at least 1; a tensor's is never read by the host."""
    if comm.get_world_size() == 1:
        return count.clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1)
    return (_total(count, device) / comm.get_world_size()).clamp(min=1)


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
        self.over_batch = share == "batch"

    def own(self, count: Union[int, torch.Tensor], device: torch.device) -> Optional[torch.Tensor]:
        """For a loss that knows the count of its own images: None where it is to use that."""
        if not self.over_batch or comm.get_world_size() == 1:
            return None
        return self._of_batch(count, device)

    def averaged(self, count: Union[int, torch.Tensor], device: torch.device):
        """For a loss that is published with the mean count of all processes, at least 1."""
        if not self.over_batch or comm.get_world_size() == 1:
            return average_over_workers(count, device)
        return self._of_batch(count, device)

    @staticmethod
    def _of_batch(count: Union[int, torch.Tensor], device: torch.device) -> torch.Tensor:
        return _total(count, device).clamp(min=1) / comm.get_world_size()


def _total(count: Union[int, torch.Tensor], device: torch.device) -> torch.Tensor:
    total = torch.as_tensor(count, dtype=torch.float32, device=device).clone()
    torch.distributed.all_reduce(total)
    return total
