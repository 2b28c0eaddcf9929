"""The candidates take turns, step by step, each in a process of its own."""

import multiprocessing
import statistics
from typing import Any, Callable, Dict, List, Optional, Sequence

from .candidates import CONVOLUTION, PRODUCT
from .jobs import MACHINE, Job, Settings, config_of, points
from .worker import serve

__all__ = ["measure"]

RATIOS = ("seconds", "cpu_seconds", "memory_gb", "flops", "parameters")


class _Worker:
    """The process of one job, from the parent's side; ``error`` says why it answers no more."""

    def __init__(self, job: Job):
        self.job = job
        self.error: Optional[str] = None
        self.steps: List[Dict[str, Any]] = []
        self.facts: Dict[str, Any] = {}
        # forks of a process that has imported all, but used no GPU; Windows has no forks
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            context.set_forkserver_preload([serve.__module__])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, job))
        self._process.start()
        theirs.close()
        self._answer()

    def ask(self, what: str) -> Any:
        """Its answer, None if there is none."""
        if self.error is None:
            self._connection.send(what)
            return self._answer()
        return None

    def _answer(self) -> Any:
        try:
            done, found = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            done, found = False, f"its process stopped with status {self._process.exitcode}"
        if done:
            return found
        self.error = found
        return None

    def step(self, is_timed: bool) -> None:
        found = self.ask("step")
        if is_timed and found is not None:
            self.steps.append(found)

    def stop(self) -> None:
        self._connection.close()
        self._process.join()


def measure(settings: Settings, tell: Callable[[str], None] = lambda line: None) -> List[Dict]:
    """
    Args:
        settings: what to measure.
        tell: is told of each point when it begins.

    Returns:
        one record for each candidate at each point; the machine's own is the last of its point. The
        figures of time are ``{median, min, max, of}``; ``of`` steps.

    Raises:
        UsageError: a config that cannot be used.
    """
    for config_file in settings.config_files:
        config_of(config_file, settings)
    records = []
    for jobs in points(settings):
        tell(_describe(jobs[0]))
        records += _measure_point(jobs, settings)
    return records


def _describe(job: Job) -> str:
    kernels = "" if job.kernels is None else f", {job.kernels} kernels"
    height, width = job.size
    return f"{job.kind}, {job.batch} x {height} x {width}, {job.objects} objects{kernels}"


def _measure_point(jobs: Sequence[Job], settings: Settings) -> List[Dict]:
    workers: List[_Worker] = []
    try:
        for job in jobs:
            workers.append(_Worker(job))
        for turn in range(-settings.warm_up, settings.steps):
            for worker in workers:
                worker.step(is_timed=turn >= 0)
        for worker in workers:
            worker.facts = worker.ask("finish") or {}
    finally:
        for worker in workers:
            worker.stop()
    machine = _speeds(workers[-1])
    records = [_record(worker, machine) for worker in workers]
    for record in records[:-1]:
        record["ratio"] = _ratios(record, records[0])
    return records


def _spread(values: Sequence[float]) -> Dict[str, float]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "of": len(values),
    }


def _speeds(worker: _Worker) -> Dict[str, float]:
    """Operations a second of the machine; none if it could not be measured."""
    return {
        name: worker.facts["flops_of_parts"][name]
        / statistics.median(step["parts"][name]["seconds"] for step in worker.steps)
        for name in (CONVOLUTION, PRODUCT)
        if worker.error is None
    }


def _record(worker: _Worker, machine: Dict[str, float]) -> Dict[str, Any]:
    job, facts, steps = worker.job, worker.facts, worker.steps
    record: Dict[str, Any] = {
        "candidate": job.candidate,
        "kind": job.kind,
        "size": list(job.size),
        "batch": job.batch,
        "objects": job.objects,
        "kernels": job.kernels,
    }
    if worker.error is not None:
        return {**record, "error": worker.error}
    for unit in ("seconds", "cpu_seconds"):
        record[unit] = _spread([step[unit] for step in steps])
    for name in ("memory_gb", "memory_of_steps_gb", "parameters", "notes"):
        record[name] = facts[name]
    flops, parameters = facts["flops_of_parts"], facts["parameters_of_parts"]
    record["flops"] = sum(flops.values())
    record["parts"] = {}
    # in the order of the step; a part may be missing in some steps, but not in all
    for name in dict.fromkeys(name for step in steps for name in step["parts"]):
        found = [step["parts"][name] for step in steps if name in step["parts"]]
        part = {unit: _spread([x[unit] for x in found]) for unit in found[0]}
        part.update(flops=flops.get(name, 0), parameters=parameters.get(name, 0))
        record["parts"][name] = part
    for figures in (record, *record["parts"].values()):
        figures["percent_of_machine"] = {
            name: 100 * figures["flops"] / figures["seconds"]["median"] / speed
            for name, speed in machine.items()
        }
    if job.candidate == MACHINE:
        record["flops_a_second"] = machine
    return record


def _ratios(record: Dict[str, Any], first: Dict[str, Any]) -> Dict[str, float]:
    """Each figure to that of the first candidate."""
    if "error" in record or "error" in first:
        return {}

    def value(of: Dict[str, Any], name: str) -> float:
        return of[name]["median"] if isinstance(of[name], dict) else of[name]

    return {name: value(record, name) / value(first, name) for name in RATIOS}
