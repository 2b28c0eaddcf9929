"""Detectron2's training step, which stops before a loss that is no number changes a weight."""

import logging
import time
from contextlib import nullcontext
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UsageError
from .step_parts import counted_together, split_batch, without_sync

__all__ = ["CheckedTrainer"]

logger = logging.getLogger(__name__)

_TOTAL = ""  # stands for the sum of all losses


class CheckedTrainer(SimpleTrainer):
    """In every process: no optimizer step after a loss that is NaN or infinite in any of them.

    The losses are read once a step, after the backward pass has been started, as Detectron2 reads
    them to log them; nothing else waits for the GPU. A gradient that overflows in mixed precision
    is no bad step: the scaler skips it and goes on with a smaller factor.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer,
        *,
        max_bad: int,
        mixed: bool,
        dtype: torch.dtype = torch.float16,
        num_parts: int = 1,
    ):
        """
        Args:
            model, data_loader, optimizer: as in Detectron2.
            max_bad: so many bad steps of a run are left out with a warning.
            mixed: compute in ``dtype`` where that is safe.
            num_parts: a batch goes through the model in so many parts, see :mod:`.step_parts`.
        """
        super().__init__(model, data_loader, optimizer)
        self._max_bad = max_bad
        self._num_bad = 0
        self._dtype = dtype if mixed else None
        self._num_parts = num_parts
        self._device = next(model.parameters()).device.type
        on_nvidia = self._device == "cuda" and torch.version.hip is None
        if self._dtype is torch.bfloat16 and on_nvidia and _is_before_ampere():
            raise UsageError(
                f"{torch.cuda.get_device_name()} does not know bfloat16: set SOLVER.AMP.DTYPE to "
                "float16"
            )
        # of bfloat16 the range is that of float32
        self._scaler = torch.amp.GradScaler(self._device, enabled=self._dtype is torch.float16)

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
        self.optimizer.zero_grad()
        parts = split_batch(data, self._num_parts)
        losses = []
        with counted_together(self.model, parts):
            for part in parts:
                with without_sync(self.model, is_last=part is parts[-1]):
                    losses.append(self._learn(part))
        self.after_backward()
        values, is_good = _read(losses)
        if not is_good:
            self._leave_out(values, parts)
            for buffer, before in statistics:
                buffer.copy_(before)
            return
        # gathers them from all processes; they are on the CPU already
        self._write_metrics(_mean(values), data_time)
        # clipping must see the gradients themselves; a fused optimizer would be left to unscale
        self._scaler.unscale_(self.optimizer)
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def _learn(self, part: List[Dict]) -> Dict[str, torch.Tensor]:
        """Add a part's share to the gradients; returns its losses and, as "", their sum."""
        precision = nullcontext()
        if self._dtype is not None:
            precision = torch.autocast(self._device, dtype=self._dtype)
        with precision:
            losses = self.model(part)
            if isinstance(losses, torch.Tensor):
                losses = {"total_loss": losses}
            total = sum(losses.values())
        share = total / self._num_parts if self._num_parts > 1 else total
        self._scaler.scale(share).backward()
        return {name: loss.detach() for name, loss in {**losses, _TOTAL: total}.items()}

    def _statistics(self) -> List[Any]:
        """What the forward pass changes in the model, if a bad one may have to be undone."""
        if self._num_bad >= self._max_bad:
            return []
        norms = (m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training)
        return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]

    def _leave_out(self, values: List[Dict[str, torch.Tensor]], parts: List[List[Dict]]) -> None:
        """Warn of a bad step.

        Raises:
            UsageError: it is one too many.
        """
        bad, files = [], []
        for of_part, part in zip(values, parts):
            found = [f"{name} is {v.item()}" for name, v in of_part.items() if not v.isfinite()]
            if not found and not sum(of_part.values()).isfinite():
                found = ["their sum is infinite"]
            bad += found
            files += [str(sample.get("file_name")) for sample in part] if found else []
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
        if self._scaler.is_enabled():
            state["grad_scaler"] = self._scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._num_bad = state_dict.get("bad_steps", 0)
        # a checkpoint without one is of another precision
        if self._scaler.is_enabled() and "grad_scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["grad_scaler"])


def _is_before_ampere() -> bool:
    """torch itself calls bfloat16 supported there, and computes it slowly."""
    return torch.cuda.get_device_capability() < (8, 0)


def _read(
    losses: Sequence[Mapping[str, torch.Tensor]],
) -> Tuple[List[Dict[str, torch.Tensor]], bool]:
    """The losses of each part on the CPU, and whether the sums of all processes are numbers.

    Waits once.
    """
    is_good = torch.stack([torch.isfinite(each[_TOTAL]) for each in losses]).all().float()
    if comm.get_world_size() > 1:
        dist.all_reduce(is_good, dist.ReduceOp.MIN)
    names = [[name for name in each if name != _TOTAL] for each in losses]
    flat = [each[name].float() for each, its in zip(losses, names) for name in its]
    *values, is_good = torch.stack([*flat, is_good]).cpu()
    values = iter(values)
    return [{name: next(values) for name in its} for its in names], is_good.item() == 1


def _mean(values: Sequence[Mapping[str, torch.Tensor]]) -> Dict[str, torch.Tensor]:
    """Of each loss over the parts."""
    return {name: sum(each[name] for each in values) / len(values) for name in values[0]}
