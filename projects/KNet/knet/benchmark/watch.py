"""Where the time of a step goes: one clock, read whenever another part begins or goes on.

A part that runs inside another interrupts it, so that the parts' times add up to the whole.
"""

import time
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["REST", "Clock", "EventClock", "FlopClock", "Watch", "tensors_of"]

REST = "rest"  # what is in no part


class Clock:
    """Seconds, and seconds of computing of all threads of the process."""

    units: Tuple[str, ...] = ("seconds", "cpu_seconds")

    def read(self) -> Any:
        return time.perf_counter(), time.process_time()

    def between(self, start: Any, end: Any) -> Tuple[float, ...]:
        return tuple(b - a for a, b in zip(start, end))


class EventClock(Clock):
    """Seconds on the GPU's own time line; nothing waits until they are asked for."""

    units = ("seconds",)

    def read(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> Tuple[float, ...]:
        end.synchronize()
        return (start.elapsed_time(end) / 1000,)


class FlopClock(Clock):
    """Floating-point operations of convolutions and matrix products; all else counts nothing."""

    units = ("flops",)

    def __init__(self, counter: FlopCounterMode):
        self._counter = counter

    def read(self) -> Any:
        return (self._counter.get_total_flops(),)


class Watch:
    """Writes down when which part begins; :meth:`parts` says how long each has taken."""

    def __init__(self, clock: Clock, nvtx: bool = False):
        """
        Args:
            clock: what is read.
            nvtx: also make each part a range for NVIDIA's profilers.
        """
        self._clock = clock
        self._nvtx = nvtx
        self._stack: List[str] = []
        self._moments: List[Tuple[str, Any]] = []
        self._range = None

    def _switch(self) -> None:
        name = self._stack[-1] if self._stack else ""
        self._moments.append((name, self._clock.read()))
        if self._nvtx:
            if self._range is not None:
                torch.cuda.nvtx.range_end(self._range)
            self._range = torch.cuda.nvtx.range_start(name) if name else None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """All that runs inside, but for the parts within it, is the part's."""
        self._stack.append(name)
        self._switch()
        try:
            yield
        finally:
            self._stack.pop()
            self._switch()

    def timed(self, name: str) -> Callable[[Callable], Callable]:
        """Function -> the same function as a part.

        The backward pass of what it returns is told apart too, inside of a part "backward".
        """

        def wrap(function: Callable) -> Callable:
            def timed(*args, **kwargs):
                with self.part(name):
                    result = function(*args, **kwargs)
                if torch.is_grad_enabled():
                    self._mark_backward(name, result)
                return result

            return torch.compiler.disable(timed, recursive=False)

        return wrap

    def _mark_backward(self, name: str, result: Any) -> None:
        """Autograd runs a forward pass backwards: a part's begins at the gradients of its results,
        and ends at those of the part before."""

        def mark(_):
            if self._stack:  # not while somebody else goes backward
                self._stack[-1] = f"backward: {name}"
                self._switch()

        for tensor in tensors_of(result):
            if tensor.requires_grad and not hasattr(tensor, "part"):  # of a part within this one
                tensor.part = name
                tensor.register_hook(mark)

    def parts(self) -> Dict[str, Dict[str, float]]:
        """Part -> unit -> amount since the last call, in the order in which they began."""
        found: Dict[str, Dict[str, float]] = {}
        for (name, start), (_, end) in zip(self._moments, self._moments[1:]):
            if name:
                amounts = found.setdefault(name, dict.fromkeys(self._clock.units, 0.0))
                for unit, amount in zip(self._clock.units, self._clock.between(start, end)):
                    amounts[unit] += amount
        self._moments.clear()
        return found


def tensors_of(x: Any) -> Iterator[torch.Tensor]:
    """The tensors in lists, tuples, dicts and dataclasses, as modules return them."""
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, dict):
        yield from tensors_of(tuple(x.values()))
    elif isinstance(x, (list, tuple)):
        for item in x:
            yield from tensors_of(item)
    elif is_dataclass(x):
        yield from tensors_of(vars(x))
