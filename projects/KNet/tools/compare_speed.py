#!/usr/bin/env python
"""Time and memory of training steps and of results, of several configs side by side.

    python projects/KNet/tools/compare_speed.py --size 800 1216 \\
        configs/knet_panoptic.yaml configs/knet_panoptic_fast.yaml

Random weights and images, made-up objects: no data set is needed. The configs take turns, each turn
in a process of its own; the table has the median of the turns, and its ratio to the first config.
The memory is the most that a GPU gave out where there is one, else that of the process. What stands
behind ``--`` is changed in each config. Panoptic and instance K-Nets.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Dict, List

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from knet.encoding import write_any_text
from knet.engine.main import load_config
from knet.errors import UsageError

KINDS = ("training", "results")
NUM_THINGS, NUM_STUFF = 80, 53  # COCO's, where the config leaves it to the data


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config_files", nargs="+")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1, help="images of a training step")
    parser.add_argument("--objects", type=int, default=20, help="of each image")
    parser.add_argument("--steps", type=int, default=3, help="of a turn, after one that warms up")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--kind", choices=KINDS, help=argparse.SUPPRESS
    )  # one turn, in this process
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.opts = words[cut + 1 :]
    return args


def config_of(config_file: str, opts: List[str]) -> CfgNode:
    """A config that needs neither weights nor data.

    Raises:
        UsageError: it cannot be loaded, or is not of a panoptic or instance K-Net.
    """
    cfg = load_config(config_file, [*opts, "MODEL.WEIGHTS", ""])
    if cfg.MODEL.META_ARCHITECTURE != "KNet":
        raise UsageError(f"{config_file} is not of a panoptic or an instance K-Net: leave it out")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    knet = cfg.MODEL.KNET
    for key, count in (("NUM_THING_CLASSES", NUM_THINGS), ("NUM_STUFF_CLASSES", NUM_STUFF)):
        if knet[key] < 0:
            knet[key] = count
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def make_input(cfg: CfgNode, size: List[int], num_objects: int) -> Dict:
    """An image of noise, with squares of all sizes as objects and bands of stuff behind them."""
    height, width = size
    num_things, num_stuff = cfg.MODEL.KNET.NUM_THING_CLASSES, cfg.MODEL.KNET.NUM_STUFF_CLASSES
    masks = torch.zeros(num_objects, height, width, dtype=torch.bool)
    for mask in masks:
        side = int(torch.randint(4, max(5, min(size) // 2), ()))
        top, left = (int(torch.randint(length, ())) for length in size)
        mask[top : top + side, left : left + side] = True
    instances = Instances((height, width), gt_masks=BitMasks(masks))
    instances.gt_classes = torch.randint(num_things, (num_objects,))
    bands = torch.arange(height) * 8 // height % max(1, num_stuff) + num_things
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "instances": instances,
        "sem_seg": bands[:, None].expand(height, width).contiguous(),
    }


def measure(args: argparse.Namespace) -> Dict[str, float]:
    """One turn: ``s`` of a step and ``GB`` at most."""
    cfg = config_of(args.config_files[0], args.opts)
    torch.manual_seed(0)
    learns = args.kind == "training"
    model = build_model(cfg).train(learns)
    batch = [make_input(cfg, args.size, args.objects) for _ in range(args.batch if learns else 1)]
    on_gpu = model.device.type == "cuda"

    def step() -> None:
        with torch.set_grad_enabled(learns):
            found = model(batch)
            if learns:
                model.zero_grad(set_to_none=True)
                sum(found.values()).backward()
        if on_gpu:
            torch.cuda.synchronize()

    step()
    start = time.perf_counter()
    for _ in range(args.steps):
        step()
    seconds = (time.perf_counter() - start) / args.steps
    if on_gpu:
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"s": seconds, "GB": peak / 2**30}


def take_turns(args: argparse.Namespace) -> Dict[str, Dict[str, float]]:
    """Config -> the median of each figure.

    Raises:
        UsageError: a config that cannot be used, or whose process failed and told on stderr why.
    """
    for config_file in args.config_files:
        config_of(config_file, args.opts)
    found: Dict[str, Dict[str, List[float]]] = {name: {} for name in args.config_files}
    options = ["--size", *args.size, "--batch", args.batch, "--objects", args.objects]
    options = [*map(str, options), "--steps", str(args.steps)]
    for _ in range(args.turns):
        for config_file in args.config_files:
            for kind in KINDS:
                command = [sys.executable, __file__, config_file, *options, "--kind", kind]
                run = subprocess.run(
                    [*command, "--", *args.opts], stdout=subprocess.PIPE, text=True
                )
                if run.returncode:
                    raise UsageError(f"{config_file} stopped with status {run.returncode}")
                for unit, value in json.loads(run.stdout.splitlines()[-1]).items():
                    found[config_file].setdefault(f"{kind}, {unit}", []).append(value)
    return {
        config_file: {name: statistics.median(values) for name, values in figures.items()}
        for config_file, figures in found.items()
    }


def table(results: Dict[str, Dict[str, float]]) -> str:
    """Config -> figures, as Markdown; behind each its ratio to the first config's."""
    first = next(iter(results.values()))
    lines = [" | ".join(["| config", *first]) + " |", "|---" * (len(first) + 1) + "|"]
    for config, figures in results.items():
        cells = [f"{value:.3g} (x {value / first[name]:.2f})" for name, value in figures.items()]
        lines.append(" | ".join([f"| `{config}`", *cells]) + " |")
    return "\n".join(lines)


def main(argv=None) -> int:
    args = parse_args(argv)
    write_any_text()
    try:
        print(json.dumps(measure(args)) if args.kind else table(take_turns(args)))
    except UsageError as error:
        print(f"compare_speed.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
