"""The records of a run as tables, and what the machine is."""

import platform
from typing import Any, Dict, List, Sequence, Tuple

import detectron2
import torch
from tabulate import tabulate

from .candidates import CONVOLUTION, PRODUCT
from .jobs import MACHINE, Settings

__all__ = ["describe_machine", "point_of", "table"]


def describe_machine(settings: Settings) -> Dict[str, Any]:
    """Processor, GPU, threads and versions, for whoever compares figures."""
    machine = {
        "processor": _processor(),
        "threads": settings.threads or torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
    }
    if settings.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
        machine["cuda"] = torch.version.cuda
    return machine


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            names = [line.split(":", 1)[1] for line in f if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def point_of(record: Dict[str, Any]) -> Tuple:
    """What records that took turns have in common."""
    size = " x ".join(map(str, record["size"]))
    return record["kind"], size, record["batch"], record["objects"], record["kernels"]


def table(records: Sequence[Dict[str, Any]], by_parts: bool = True) -> str:
    """All points, one after the other, in Markdown.

    Args:
        records: of :func:`knet.benchmark.measure`.
        by_parts: the parts of each candidate too.
    """
    groups: Dict[Tuple, List[Dict]] = {}
    for record in records:
        groups.setdefault(point_of(record), []).append(record)
    blocks = []
    for (kind, size, batch, objects, kernels), group in groups.items():
        said = [f"{batch} of {size}", f"{objects} objects"]
        said += [f"{kernels} kernels"] if kernels is not None else []
        blocks.append(f"## {kind}: {', '.join(said)}")
        blocks.append(_candidates([r for r in group if r["candidate"] != MACHINE]))
        blocks.append("\n".join(_remarks(group)))
        for record in group:
            if by_parts and "error" not in record and record["candidate"] != MACHINE:
                blocks.append(f"`{record['candidate']}` by parts:\n\n{_parts(record)}")
    return "\n\n".join(blocks)


def _ms(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _range(spread: Dict[str, float]) -> str:
    """Median, smallest and largest."""
    return f"{_ms(spread['median'])} ({_ms(spread['min'])}..{_ms(spread['max'])})"


def _candidates(records: Sequence[Dict[str, Any]]) -> str:
    rows = []
    for r in records:
        if "error" in r:
            rows.append([f"`{r['candidate']}`", "not measured"])
            continue
        ratio = {name: f"x {value:.2f}" for name, value in r["ratio"].items()}
        rows.append(
            [
                f"`{r['candidate']}`",
                f"{_range(r['seconds'])} {ratio.get('seconds', '')}",
                f"{_ms(r['cpu_seconds']['median'])} {ratio.get('cpu_seconds', '')}",
                f"{r['memory_gb']:.2f} {ratio.get('memory_gb', '')}",
                f"{r['memory_of_steps_gb']:.2f}",
                f"{r['flops'] / 1e9:.1f} {ratio.get('flops', '')}",
                f"{r['parameters'] / 1e6:.1f}",
                *_percents(r),
            ]
        )
    headers = ["candidate", "ms (range), ratio", "CPU ms", "GB", "GB of steps", "GFLOP"]
    headers += ["M parameters", "% conv", "% product"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _percents(figures: Dict[str, Any]) -> List[str]:
    percent = figures["percent_of_machine"]
    return [f"{percent[name]:.0f}" if name in percent else "" for name in (CONVOLUTION, PRODUCT)]


def _parts(record: Dict[str, Any]) -> str:
    whole = sum(part["seconds"]["median"] for part in record["parts"].values())
    rows = [
        [
            name,
            _range(part["seconds"]),
            _ms(part["cpu_seconds"]["median"]) if "cpu_seconds" in part else "",
            f"{100 * part['seconds']['median'] / whole:.1f}",
            f"{part['flops'] / 1e9:.2f}",
            f"{part['parameters'] / 1e6:.2f}",
            *(_percents(part) if part["flops"] else ["", ""]),
        ]
        for name, part in record["parts"].items()
    ]
    headers = ["part", "ms (range)", "CPU ms", "% of time", "GFLOP", "M parameters", "% conv"]
    return tabulate(rows, [*headers, "% product"], tablefmt="github", disable_numparse=True)


def _remarks(records: Sequence[Dict[str, Any]]) -> List[str]:
    lines = []
    for record in records:
        name = record["candidate"]
        if "error" in record:
            lines.append(f"- {name}: {record['error']}")
            continue
        notes = list(record["notes"])
        if name == MACHINE:
            speeds = record["flops_a_second"]
            notes.append(
                f"{speeds[CONVOLUTION] / 1e9:.3g} and {speeds[PRODUCT] / 1e9:.3g} GFLOP/s, the "
                "100 % of the columns % conv and % product"
            )
        lines += [f"- {name}: {'; '.join(notes)}"] if notes else []
    return lines
