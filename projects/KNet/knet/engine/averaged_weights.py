"""A running average of the weights (EMA): kept beside them, and used in their place."""

import logging
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Optional

import torch
from detectron2.engine import HookBase
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["AveragedWeights", "WeightAverage", "averaged_in", "with_averaged_weights"]

logger = logging.getLogger(__name__)


class WeightAverage:
    """Of all that a model learns: its weights, and BatchNorm's statistics.

    Attributes:
        state: the average under the names of the model's state dict; {} before it has begun.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model: not the wrapper of several processes.
            decay: share of the average that stays in an update.
        """
        self._model = model
        self._update = get_ema_multi_avg_fn(decay)
        self.state: Dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """With the weights as they are."""
        self.state = {n: t.detach().clone() for n, t in self._model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        averages: List[torch.Tensor] = []
        weights: List[torch.Tensor] = []
        for name, tensor in self._model.state_dict().items():
            if tensor.is_floating_point():
                averages.append(self.state[name])
                weights.append(tensor)
            else:  # a count, or an index
                self.state[name].copy_(tensor)
        self._update(averages, weights, None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the average; then its own weights again, bit for bit."""
        state = self._model.state_dict()
        own = {name: tensor.clone() for name, tensor in state.items()}
        _copy(self.state, state)
        try:
            yield
        finally:
            _copy(own, state)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        own = self._model.state_dict()
        self.state = {n: tensor.to(own[n].device, copy=True) for n, tensor in state.items()}


@torch.no_grad()
def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


class AveragedWeights(HookBase):
    """Updates the average after each step; ``model.weight_average`` is where others find it.

    Has its state in every checkpoint, as Detectron2's trainer keeps that of its hooks. It must come
    before the hooks that evaluate or save, in every process.
    """

    def __init__(self, model: nn.Module, decay: float):
        """Arguments: see :class:`WeightAverage`."""
        self._average = model.weight_average = WeightAverage(model, decay)

    def before_train(self):
        if self._average.state:  # resumed
            return
        if self.trainer.start_iter > 0:
            logger.warning("The checkpoint has no averaged weights: the average begins here")
        self._average.begin()

    def after_step(self):
        self._average.update()

    def state_dict(self) -> Dict[str, Any]:
        return {"averaged": self._average.state}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self._average.load(state["averaged"])


@contextmanager
def with_averaged_weights(model: nn.Module) -> Iterator[None]:
    """Within it a model in training has its averaged weights, if there are some."""
    network = model.module if isinstance(model, DistributedDataParallel) else model
    average: Optional[WeightAverage] = getattr(network, "weight_average", None)
    if average is None or not average.state:
        yield
        return
    logger.info("Taking the averaged weights (MODEL_EMA.ENABLED)")
    with average.in_place():
        yield


def averaged_in(checkpoint: Mapping[str, Any]) -> Optional[Dict[str, torch.Tensor]]:
    """The averaged weights in a checkpoint of training, None if there are none."""
    state: Any = checkpoint
    for key in ("trainer", "hooks", AveragedWeights.__name__, "averaged"):
        state = state.get(key) if isinstance(state, dict) else None
    return state or None
