"""A run that goes on does what it would have done: random states and position in the data."""

import logging
from typing import Any, Dict, List, Optional

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data.resumable_loader import ResumableLoader, samples_of

__all__ = ["ExactResume"]

logger = logging.getLogger(__name__)


class ExactResume(HookBase):
    """Has its state in every checkpoint, as Detectron2's trainer keeps that of its hooks.

    It must come before the hook that saves, in every process.
    """

    def __init__(self, loader: ResumableLoader, period: int):
        """
        Args:
            loader: of the training.
            period: iterations between checkpoints.
        """
        self._loader = loader
        self._period = period
        self._states: List[Dict[str, Any]] = []  # of all processes
        self._states_of: Optional[int] = None  # the iteration
        self._loaded = False

    def before_train(self):
        if self.trainer.start_iter > 0 and not self._loaded:
            logger.warning(
                "The checkpoint does not tell the position in the data: training goes on with its "
                "weights, and the data start from their beginning"
            )

    def after_step(self):
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            self.gather()

    def gather(self) -> None:
        """Have the state of now for a checkpoint; to be called in all processes."""
        if comm.get_world_size() > 1 and self._states_of != self.trainer.iter:
            self._states = comm.gather(self._loader.state_dict())
            self._states_of = self.trainer.iter

    def state_dict(self) -> Dict[str, Any]:
        if comm.get_world_size() == 1:
            return {"processes": [self._loader.state_dict()]}
        # of another iteration it would be wrong
        return {"processes": self._states} if self._states_of == self.trainer.iter else {}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        processes, world_size = state["processes"], comm.get_world_size()
        self._loaded = True
        if len(processes) == world_size:
            difference = self._loader.load_state_dict(processes[comm.get_rank()])
            self._states, self._states_of = processes, self.trainer.iter
        else:
            samples = sum(samples_of(process) for process in processes) // world_size
            difference = self._loader.start_at(processes[0]["sampler"], samples) or (
                f"{len(processes)} processes have become {world_size}, so that random draws differ"
            )
        if difference:
            logger.warning(f"Going on, but not exactly: {difference}")
