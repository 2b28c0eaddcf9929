"""Train several configs one after the other and put their results beside each other.

    DETECTRON2_DATASETS=/path/to/datasets knet compare \\
        --seeds 1,2,3 configs/compare/camvid_*.yaml -- MODEL.WEIGHTS mobilenetv2_100.pth

What stands behind ``--`` is changed in each config. Each run is a process of its own and leaves
what ``train_net.py`` leaves in its OUTPUT_DIR (with several seeds, in a folder of it named after
the seed); the table is written as Markdown, of several seeds the mean and the range. A run that
fails is named, and the table has the others.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

from ..encoding import write_any_text
from ..engine.main import load_config
from ..errors import UsageError

TRAIN = ("-m", "knet", "train")
# The main figure of each task, as metrics.json names it
FIGURES = {"panoptic_seg/PQ": "PQ", "segm/AP": "mask AP", "sem_seg/mIoU": "mIoU"}


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("config_files", nargs="+")
    parser.add_argument("--num-gpus", type=int, default=0)
    parser.add_argument(
        "--seeds", type=seeds, default=[], help="as 1,2,3: a run of each config with each SEED"
    )
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.opts = words[cut + 1 :]
    return args


def seeds(text: str) -> List[int]:
    """Numbers between commas."""
    return [int(word) for word in text.split(",")]


def check(config_files: List[str], opts: List[str]) -> None:
    """Find, before the first run, what would stop a later one.

    Raises:
        UsageError: a config that cannot be loaded, or options that do not fit.
    """
    if "OUTPUT_DIR" in opts[::2]:
        raise UsageError(
            "OUTPUT_DIR behind -- would be one folder for all runs: set it in each config"
        )
    folders: Dict[str, str] = {}
    for config_file in config_files:
        is_key = re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*(=.*)?", config_file)
        if is_key and not os.path.exists(config_file):
            raise UsageError(
                f"{config_file} is no config file: options KEY VALUE stand behind --, after the "
                "config files"
            )
        folder = os.path.realpath(load_config(config_file, opts).OUTPUT_DIR)
        if folder in folders:
            raise UsageError(
                f"{folders[folder]} and {config_file} have one OUTPUT_DIR, {folder}: give each its "
                "own"
            )
        folders[folder] = config_file


def train(config_file: str, num_gpus: int, opts: List[str]) -> Dict[str, float]:
    """Train and evaluate one config.

    Returns:
        its last metrics, and ``minutes`` of wall time and ``CPU minutes`` of all its processes.

    Raises:
        UsageError: the run failed; what it said is on stderr.
    """
    start, used = time.monotonic(), _cpu_seconds()
    command = [sys.executable, *TRAIN, "--config-file", config_file]
    run = subprocess.run([*command, "--num-gpus", str(num_gpus), *opts])
    if run.returncode:
        raise UsageError(f"{config_file} stopped with status {run.returncode}")
    metrics = {}
    path = os.path.join(load_config(config_file, opts).OUTPUT_DIR, "metrics.json")
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        metrics.update(json.loads(line))
    metrics["minutes"] = (time.monotonic() - start) / 60
    metrics["CPU minutes"] = (_cpu_seconds() - used) / 60
    return metrics


def _cpu_seconds() -> float:
    """Of all processes that were started here and ended."""
    times = os.times()
    return times.children_user + times.children_system


def table(results: Dict[str, List[Dict[str, float]]]) -> str:
    """Config -> the metrics of its runs, as Markdown; a figure that no run has gets no column."""
    all_runs = [metrics for runs in results.values() for metrics in runs]
    names = [key for key in FIGURES if any(key in metrics for metrics in all_runs)]
    names += ["minutes", "CPU minutes"]
    header = " | ".join(["| config", *(FIGURES.get(name, name) for name in names)])
    lines = [f"{header} |", "|---" * (len(names) + 1) + "|"]
    for config, runs in results.items():
        values = ([metrics[name] for metrics in runs if name in metrics] for name in names)
        lines.append(" | ".join([f"| `{config}`", *map(_mean_and_range, values)]) + " |")
    return "\n".join(lines)


def _mean_and_range(values: List[float]) -> str:
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def main(argv=None, program: str = "compare.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    results = {}
    try:
        check(args.config_files, args.opts)
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    failed = False
    for config_file in args.config_files:
        for seed in args.seeds or [None]:
            opts = args.opts
            if seed is not None:
                folder = load_config(config_file, opts).OUTPUT_DIR
                opts = [*opts, "SEED", str(seed), "OUTPUT_DIR", os.path.join(folder, str(seed))]
            try:
                metrics = train(config_file, args.num_gpus, opts)
                results.setdefault(config_file, []).append(metrics)
            except UsageError as error:
                failed = True
                print(f"{program}: {error}", file=sys.stderr)
    if results:
        print(table(results))
    return int(failed)
