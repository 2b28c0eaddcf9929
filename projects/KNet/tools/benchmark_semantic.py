#!/usr/bin/env python
"""Time of a training step of semantic models, beside that of the first one named.

    python projects/KNet/tools/benchmark_semantic.py --size 192x256 --batch 4 \\
        configs/compare/camvid_semantic_fpn.yaml configs/compare/camvid_knet_semantic_fpn_fast.yaml

The models take turns in one process, step by step: forward, backward, clipping and the optimizer,
on noise labelled in blocks. Random weights, no data set. What stands behind ``--`` is changed in
each config.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Tuple

import torch
from detectron2.utils.env import seed_all_rng

from knet.commands.benchmark import height_and_width
from knet.data.datasets.custom import register_custom_datasets
from knet.engine import KNetTrainer
from knet.engine.freed_memory import keep_freed_memory
from knet.engine.main import load_config
from knet.errors import DatasetError, UsageError

BLOCK = 16  # pixels of one label


@dataclass
class Cost:
    """Of one step: seconds on the clock and of computing, the most bytes of a GPU; on a CPU 0."""

    clock: float
    computing: float
    peak: int


def build(config_file: str, opts: List[str], device: str):
    """A model and its optimizer.

    Raises:
        UsageError, DatasetError: a config that cannot be loaded, or is of another kind of model.
    """
    cfg = load_config(config_file, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device, *opts])
    if cfg.MODEL.META_ARCHITECTURE != "SemanticKNet":
        raise UsageError(
            f"{config_file} is of {cfg.MODEL.META_ARCHITECTURE}, not of a semantic model: measure "
            "it with benchmark.py"
        )
    register_custom_datasets(cfg)
    seed_all_rng(0)
    model = KNetTrainer.build_model(cfg).train()
    return model, KNetTrainer.build_optimizer(cfg, model)


def made_up(batch: int, size: Tuple[int, int], num_classes: int) -> List[Dict]:
    """Training inputs: images of noise, blocks of a class each."""
    generator = torch.Generator().manual_seed(0)
    blocks = [-(-side // BLOCK) for side in size]
    inputs = []
    for _ in range(batch):
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, num_classes, blocks, generator=generator)
        labels = labels.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        inputs.append({"image": image, "sem_seg": labels[: size[0], : size[1]]})
    return inputs


def cost_of(step: Callable[[], None], device: str) -> Cost:
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()  # the other models' too
    clock, computing = time.perf_counter(), time.process_time()
    step()
    if on_gpu:
        torch.cuda.synchronize()
    return Cost(
        time.perf_counter() - clock,
        time.process_time() - computing,
        torch.cuda.max_memory_allocated() - held if on_gpu else 0,
    )


def measure(args: argparse.Namespace) -> Dict[str, List[Cost]]:
    """{config: what each of its steps cost}, the first step of each left out."""
    steps = {}
    for config_file in args.config_files:
        model, optimizer = build(config_file, args.opts, args.device)
        inputs = made_up(args.batch, args.size, model.sem_seg_head.num_classes)

        def step(model=model, optimizer=optimizer, inputs=inputs):
            optimizer.zero_grad()
            sum(model(inputs).values()).backward()
            optimizer.step()

        steps[config_file] = step
    costs = {name: [] for name in steps}
    for turn in range(args.steps + 1):
        for name, step in steps.items():
            cost = cost_of(step, args.device)
            if turn:
                costs[name].append(cost)
    return costs


def table(costs: Dict[str, List[Cost]]) -> str:
    """As Markdown; the ratio is the median of those of steps that followed each other."""
    base = next(iter(costs.values()))
    on_gpu = base[0].peak > 0
    lines = ["| config | ms | CPU ms | ratio |" + (" GB of steps |" if on_gpu else "")]
    lines.append("|---" * (5 if on_gpu else 4) + "|")
    for name, of_config in costs.items():
        clock, computing = (
            [getattr(cost, kind) for cost in of_config] for kind in ("clock", "computing")
        )
        spent = "clock" if on_gpu else "computing"
        ratios = (getattr(a, spent) / getattr(b, spent) for a, b in zip(of_config, base))
        row = f"| `{name}` | {1e3 * statistics.median(clock):.0f} "
        row += f"| {1e3 * statistics.median(computing):.0f} | {statistics.median(ratios):.2f} |"
        if on_gpu:
            row += f" {max(cost.peak for cost in of_config) / 1e9:.2f} |"
        lines.append(row)
    return "\n".join(lines)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config_files", nargs="+", metavar="CONFIG")
    parser.add_argument("--size", type=height_and_width, default=(512, 512), metavar="HxW")
    parser.add_argument("--batch", type=int, default=2, help="images of a step")
    parser.add_argument("--steps", type=int, default=10, help="of each, after one that warms up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.opts = words[cut + 1 :]
    return args


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        for name in ("batch", "steps", "threads"):
            if getattr(args, name) < 1:
                raise UsageError(f"--{name} is {getattr(args, name)}: give 1 or more")
        torch.set_num_threads(args.threads)
        if args.device == "cpu":
            keep_freed_memory()  # as train_net.py
        print(table(measure(args)))
    except (UsageError, DatasetError) as error:
        print(f"benchmark_semantic.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
