"""A process that runs the steps of one candidate when it is told to, and says what they took."""

import math
import time
from multiprocessing.connection import Connection
from typing import Any, Callable, Dict

import torch
from detectron2.utils.events import EventStorage
from torch.utils.flop_counter import FlopCounterMode

from ..engine.optimizer import build_optimizer
from ..errors import UsageError
from ..peak_memory import peak_bytes
from .candidates import Candidate, build_candidate
from .jobs import DTYPES, MACHINE, Job
from .parts import parameters_of
from .patches import Patches
from .watch import REST, Clock, EventClock, FlopClock, Watch

__all__ = ["Runner", "serve"]


class Runner:
    """Steps of one candidate, timed by parts."""

    def __init__(self, job: Job):
        settings = job.settings
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self._job = job
        self._dtype = getattr(torch, DTYPES[settings.dtype])
        self._on_gpu = settings.device == "cuda"
        self.candidate: Candidate = build_candidate(job)
        self._scaler = torch.amp.GradScaler(
            settings.device, enabled=job.learns and settings.dtype == "fp16"
        )
        self._optimizer = None
        if job.learns and job.candidate != MACHINE:
            self._optimizer = _build_optimizer(job, self.candidate.model)
        self._patches = Patches()
        self._clock: Clock = EventClock() if self._on_gpu else Clock()
        self._start_gb = self._peak_gb()
        self._attach(self._clock, compiled=settings.compiled)

    def _attach(self, clock: Clock, compiled: bool = False) -> None:
        self._watch = Watch(clock, nvtx=self._job.settings.nvtx)
        for part in self.candidate.parts:
            if compiled and part.is_network:
                self._patches.put(part.owner, part.name, torch.compile)
            self._patches.put(part.owner, part.name, self._watch.timed(part.label))
        self.candidate.make_up(self._patches)

    def close(self) -> None:
        """The model as it was."""
        self._patches.close()

    def forward(self) -> Any:
        """Results, or losses by name."""
        autocast = torch.autocast(
            self._job.settings.device, self._dtype, enabled=self._dtype != torch.float32
        )
        with torch.set_grad_enabled(self._optimizer is not None), autocast, EventStorage():
            return self.candidate.forward(self.candidate.batch)

    def _run(self) -> None:
        with self._watch.part(REST):
            found = self.forward()
            if self._optimizer is None:
                return
            total = sum(found.values())
            with self._watch.part("backward"):
                self._scaler.scale(total).backward()
            with self._watch.part("optimizer"):
                self._scaler.step(self._optimizer)
                self._scaler.update()
                self._optimizer.zero_grad()

    def step(self) -> Dict[str, Any]:
        """``seconds`` and ``cpu_seconds`` of the whole, and ``parts`` by the clock's units."""
        start, cpu_start = time.perf_counter(), time.process_time()
        self._run()
        if self._on_gpu:
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "parts": self._watch.parts()}

    def finish(self) -> Dict[str, Any]:
        """Memory, parameters, operations, and what was made up; the model is then as it was."""
        peak = self._peak_gb()
        candidate = self.candidate
        return {
            "memory_gb": peak,
            "memory_of_steps_gb": peak - self._start_gb,
            "parameters": sum(p.numel() for p in candidate.model.parameters()),
            "parameters_of_parts": parameters_of(candidate.parts),
            "flops_of_parts": self._count_flops(),
            "notes": candidate.notes,
        }

    def _count_flops(self) -> Dict[str, int]:
        self._patches.close()
        # attention's fast path is one operator, which has no count
        torch.backends.mha.set_fastpath_enabled(False)
        with FlopCounterMode(display=False) as counter:
            self._attach(FlopClock(counter))
            self._run()
        self._patches.close()
        torch.backends.mha.set_fastpath_enabled(True)
        return {name: amount["flops"] for name, amount in self._watch.parts().items()}

    def _peak_gb(self) -> float:
        if self._on_gpu:
            return torch.cuda.max_memory_allocated() / 2**30
        peak = peak_bytes()
        return math.nan if peak is None else peak / 2**30


def _build_optimizer(job: Job, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Of a K-Net that of its config, of the others K-Net's AdamW: their own costs as much."""
    cfg = job.config()
    if job.candidate not in job.settings.config_files:
        cfg.SOLVER.OPTIMIZER = "ADAMW"
    if hasattr(model, "backbone"):
        return build_optimizer(cfg, model)
    return torch.optim.AdamW(model.parameters(), lr=cfg.SOLVER.BASE_LR)


def serve(connection: Connection, job: Job) -> None:
    """Answer "step" and "finish" until there is nothing more to answer.

    The answer is a pair: was it done, and what was found, or a sentence why not.
    """
    try:
        runner = _tried(connection, lambda: Runner(job))
        if runner is None:
            return
        connection.send((True, None))
        while True:
            wanted = connection.recv()
            answer = _tried(connection, runner.step if wanted == "step" else runner.finish)
            if answer is None:
                return
            connection.send((True, answer))
    except EOFError:  # nobody listens any more
        pass


def _tried(connection: Connection, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except UsageError as error:
        connection.send((False, str(error)))
    except (RuntimeError, ImportError, FloatingPointError, MemoryError) as error:
        lines = str(error).strip().splitlines() or [""]
        connection.send((False, f"{type(error).__name__}: {lines[0]}"))
    return None
