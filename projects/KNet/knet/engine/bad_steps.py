"""Detectron2's training step, which stops before a loss that is no number changes a weight."""

import logging
import time
from contextlib import nullcontext
from typing import Any, Dict, List, Mapping

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UsageError

__all__ = ["CheckedTrainer"]

logger = logging.getLogger(__name__)


class CheckedTrainer(SimpleTrainer):
    """In every process: no optimizer step after a loss that is NaN or infinite in any of them.

    The losses are read once a step, after the backward pass has been started, as Detectron2 reads
    them to log them; nothing else waits for the GPU. A gradient that overflows in mixed precision
    is no bad step: the scaler skips it and goes on with a smaller factor.
    """

    def __init__(self, model: nn.Module, data_loader, optimizer, *, max_bad: int, mixed: bool):
        """
        Args:
            model, data_loader, optimizer: as in Detectron2.
            max_bad: so many bad steps of a run are left out with a warning.
            mixed: compute in float16 where that is safe, on a GPU.
        """
        super().__init__(model, data_loader, optimizer)
        self._max_bad = max_bad
        self._num_bad = 0
        self._mixed = mixed
        self._scaler = torch.amp.GradScaler("cuda", enabled=mixed)

    def run_step(self):
        """
        Raises:
            UsageError: the loss became NaN or infinite.
        """
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        statistics = self._statistics()
        with torch.autocast("cuda", dtype=torch.float16) if self._mixed else nullcontext():
            losses = self.model(data)
            if isinstance(losses, torch.Tensor):
                losses = {"total_loss": losses}
            total = sum(losses.values())
        self.optimizer.zero_grad()
        self._scaler.scale(total).backward()
        self.after_backward()
        values, is_good = _read(losses, total)
        if not is_good:
            self._leave_out(values, data)
            for buffer, before in statistics:
                buffer.copy_(before)
            return
        # gathers them from all processes; they are on the CPU already
        self._write_metrics(values, data_time)
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def _statistics(self) -> List[Any]:
        """What the forward pass changes in the model, if a bad one may have to be undone."""
        if self._num_bad >= self._max_bad:
            return []
        norms = (m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training)
        return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]

    def _leave_out(self, values: Mapping[str, torch.Tensor], data: List[Dict]) -> None:
        """Warn of a bad step.

        Raises:
            UsageError: it is one too many.
        """
        bad = [f"{name} is {v.item()}" for name, v in values.items() if not torch.isfinite(v)]
        if not bad and not torch.isfinite(sum(values.values())):
            bad = ["their sum is infinite"]
        files = [str(sample.get("file_name")) for sample in data] if bad else []
        told = comm.all_gather((bad, files))
        what = ", ".join(dict.fromkeys(words for words, _ in told for words in words))
        images = ", ".join(file for _, files in told for file in files)
        said = f"the loss became NaN or infinite at iteration {self.iter} ({what}; images {images})"
        self._num_bad += 1
        self.optimizer.zero_grad()
        if self._num_bad > self._max_bad:
            raise UsageError(
                f"{said}: no weight was changed by it; lower SOLVER.BASE_LR, look at these images, "
                f"or leave such steps out with SOLVER.MAX_BAD_STEPS {self._num_bad} or more"
            )
        logger.warning(
            f"Step left out, {self._num_bad} of at most {self._max_bad} "
            f"(SOLVER.MAX_BAD_STEPS): {said}"
        )

    def state_dict(self) -> Dict[str, Any]:
        state = {**super().state_dict(), "bad_steps": self._num_bad}
        if self._mixed:
            state["grad_scaler"] = self._scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._num_bad = state_dict.get("bad_steps", 0)
        if self._mixed and "grad_scaler" in state_dict:  # else it was switched on just now
            self._scaler.load_state_dict(state_dict["grad_scaler"])


def _read(losses: Mapping[str, torch.Tensor], total: torch.Tensor):
    """The losses on the CPU, and whether the sums of all processes are numbers; waits once."""
    with torch.no_grad():
        is_good = torch.isfinite(total).to(torch.float32)
        if comm.get_world_size() > 1:
            dist.all_reduce(is_good, dist.ReduceOp.MIN)
        read = torch.stack([*(loss.float() for loss in losses.values()), is_good]).cpu()
    return dict(zip(losses, read)), read[-1].item() == 1
