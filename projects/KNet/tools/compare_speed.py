#!/usr/bin/env python
"""Time and memory of training steps and of results, of several configs side by side.

    python projects/KNet/tools/compare_speed.py --size 800 1216 \\
        configs/knet_panoptic.yaml configs/knet_panoptic_fast.yaml

Random weights and images, made-up objects; no data set is needed. The configs take turns, each turn
in a process of its own, and the table has the median of the turns, and its ratio to the first
config. On a GPU (``MODEL.DEVICE`` of the configs, or ``-- MODEL.DEVICE cuda``) the memory is the
GPU's, else that of the process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Dict, List

FIGURES = ("training s", "training GB", "results s", "results GB")


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config_files", nargs="+")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1, help="images of a training step")
    parser.add_argument("--objects", type=int, default=20, help="of each image")
    parser.add_argument("--steps", type=int, default=3, help="of a turn, after one that warms up")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", choices=("training", "results"), help=argparse.SUPPRESS)
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.opts = words[cut + 1 :]
    return args


def measure(args: argparse.Namespace) -> Dict[str, float]:
    """One turn, in this process: ``s`` of a step and ``GB`` at most."""
    import resource

    import torch
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Instances

    from knet.engine.main import load_config

    cfg = load_config(args.config_files[0], [*args.opts, "MODEL.WEIGHTS", ""])
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    if cfg.MODEL.KNET.NUM_THING_CLASSES < 0:
        cfg.MODEL.KNET.NUM_THING_CLASSES = 80
    if cfg.MODEL.KNET.NUM_STUFF_CLASSES < 0:
        cfg.MODEL.KNET.NUM_STUFF_CLASSES = 53
    if cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES < 0:
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 133
    on_gpu = torch.cuda.is_available() and cfg.MODEL.DEVICE != "cpu"
    cfg.MODEL.DEVICE = cfg.MODEL.DEVICE if on_gpu else "cpu"
    torch.manual_seed(0)
    model = build_model(cfg).train(args.one == "training")
    height, width = args.size

    def image() -> Dict:
        x = {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8)}
        if args.one == "training":
            masks = torch.zeros(args.objects, height, width, dtype=torch.bool)
            for mask in masks:  # rectangles of all sizes
                y, x0 = int(torch.randint(height - 8, ())), int(torch.randint(width - 8, ()))
                side = int(torch.randint(8, min(height, width) // 2, ()))
                mask[y : y + side, x0 : x0 + side] = True
            x["instances"] = Instances((height, width), gt_masks=BitMasks(masks))
            x["instances"].gt_classes = torch.randint(80, (args.objects,))
            x["sem_seg"] = torch.randint(80, 133, (height // 100 + 1, width // 100 + 1))
            x["sem_seg"] = x["sem_seg"].repeat_interleave(100, 0).repeat_interleave(100, 1)
            x["sem_seg"] = x["sem_seg"][:height, :width].contiguous()
        return x

    def step() -> None:
        if args.one == "training":
            model.zero_grad(set_to_none=True)
            sum(model([image() for _ in range(args.batch)]).values()).backward()
        else:
            with torch.no_grad():
                model([image()])
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


def table(results: Dict[str, Dict[str, float]]) -> str:
    """Config -> figures, as Markdown; beside each its ratio to the first config's."""
    lines = [" | ".join(["| config", *FIGURES]) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    first = next(iter(results.values()))
    for config, figures in results.items():
        cells = [f"{figures[name]:.2f} ({figures[name] / first[name]:.2f})" for name in FIGURES]
        lines.append(" | ".join([f"| `{config}`", *cells]) + " |")
    return "\n".join(lines)


def main(argv=None) -> int:
    args = parse_args(argv)
    if args.one:
        print(json.dumps(measure(args)))
        return 0
    turns: Dict[str, Dict[str, List[float]]] = {}
    words = ["--size", *map(str, args.size), "--batch", str(args.batch)]
    words += ["--objects", str(args.objects), "--steps", str(args.steps)]
    for _ in range(args.turns):
        for config in args.config_files:
            for what in ("training", "results"):
                command = [sys.executable, __file__, config, *words, "--one", what]
                run = subprocess.run(
                    [*command, "--", *args.opts], stdout=subprocess.PIPE, text=True
                )
                if run.returncode:
                    print(f"compare_speed.py: {config} failed in {what}", file=sys.stderr)
                    return 1
                for unit, value in json.loads(run.stdout.splitlines()[-1]).items():
                    turns.setdefault(config, {}).setdefault(f"{what} {unit}", []).append(value)
    medians = {
        config: {name: statistics.median(values) for name, values in figures.items()}
        for config, figures in turns.items()
    }
    print(table(medians))
    return 0


if __name__ == "__main__":
    sys.exit(main())
