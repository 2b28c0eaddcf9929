"""Gradient accumulation: one step of a batch that goes through the model in parts."""

from contextlib import ExitStack, contextmanager, nullcontext
from typing import ContextManager, Dict, Iterator, List

from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["counted_together", "split_batch", "without_sync"]


def split_batch(batch: List[Dict], num_parts: int) -> List[List[Dict]]:
    """Part j of k has images j, j + k, j + 2 k, ...: those that process j of k would have.

    That is what Detectron2's samplers give to each process, unless images are grouped by their
    aspect ratio.
    """
    return [batch[part::num_parts] for part in range(num_parts)]


@contextmanager
def counted_together(model: nn.Module, parts: List[List[Dict]]) -> Iterator[None]:
    """Within it a model that divides losses by counts over all processes counts all parts too."""
    network = model.module if isinstance(model, DistributedDataParallel) else model
    with ExitStack() as stack:
        if len(parts) > 1 and hasattr(network, "counted_together"):
            stack.enter_context(network.counted_together(parts))
        yield


def without_sync(model: nn.Module, is_last: bool) -> ContextManager:
    """Gradients are exchanged among processes once a step, with its last part."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return nullcontext()
