#!/usr/bin/env python
"""Train several configs one after the other and put their results beside each other.

    DETECTRON2_DATASETS=/path/to/datasets python projects/KNet/tools/compare.py \\
        configs/compare/camvid_*.yaml -- MODEL.WEIGHTS mobilenetv2_100.pth

What stands behind ``--`` is changed in each config. Each run is a process of its own and leaves
what ``train_net.py`` leaves in its OUTPUT_DIR; the table is written as Markdown. A run that fails
is named, and the table has the others.
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

from knet.encoding import write_any_text
from knet.engine.main import load_config
from knet.errors import UsageError

TRAIN_NET = Path(__file__).resolve().parents[3] / "train_net.py"
# The main figure of each task, as metrics.json names it
FIGURES = {"panoptic_seg/PQ": "PQ", "segm/AP": "mask AP", "sem_seg/mIoU": "mIoU"}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config_files", nargs="+")
    parser.add_argument("--num-gpus", type=int, default=0)
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.opts = words[cut + 1 :]
    return args


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
        its last metrics, and ``minutes`` of wall time.

    Raises:
        UsageError: the run failed; what it said is on stderr.
    """
    start = time.monotonic()
    command = [sys.executable, str(TRAIN_NET), "--config-file", config_file]
    run = subprocess.run([*command, "--num-gpus", str(num_gpus), *opts])
    if run.returncode:
        raise UsageError(f"{config_file} stopped with status {run.returncode}")
    metrics = {}
    path = os.path.join(load_config(config_file, opts).OUTPUT_DIR, "metrics.json")
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        metrics.update(json.loads(line))
    return {**metrics, "minutes": (time.monotonic() - start) / 60}


def table(results: Dict[str, Dict[str, float]]) -> str:
    """Config -> metrics, as Markdown; a figure that no run has gets no column."""
    names = [key for key in FIGURES if any(key in metrics for metrics in results.values())]
    lines = [
        " | ".join(["| config", *(FIGURES[name] for name in names), "minutes |"]),
        "|---" * (len(names) + 2) + "|",
    ]
    for config, metrics in results.items():
        figures = [f"{metrics[n]:.1f}" if n in metrics else "" for n in names]
        lines.append(" | ".join([f"| `{config}`", *figures, f"{metrics['minutes']:.1f} |"]))
    return "\n".join(lines)


def main(argv=None) -> int:
    args = parse_args(argv)
    write_any_text()
    results = {}
    try:
        check(args.config_files, args.opts)
    except UsageError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 1
    for config_file in args.config_files:
        try:
            results[config_file] = train(config_file, args.num_gpus, args.opts)
        except UsageError as error:
            print(f"compare.py: {error}", file=sys.stderr)
    if results:
        print(table(results))
    return int(any(config_file not in results for config_file in args.config_files))


if __name__ == "__main__":
    sys.exit(main())
