"""Time, memory and operations of K-Net by its parts, beside other models on the same machine.

    knet benchmark
    knet benchmark configs/knet_panoptic.yaml \\
        configs/knet_panoptic_fast.yaml --kernels 50 100 200 500 --plot growth.png

Random weights and images, made-up objects: no data set is needed. The candidates take turns, step
by step, each in a process of its own. What stands behind ``--`` is changed in each config.
docs/speed.md says how to read the tables.
"""

import argparse
import json
import sys
from typing import Tuple

import torch

from ..benchmark import (
    ALTERNATIVES,
    DTYPES,
    KINDS,
    SCENES,
    Settings,
    describe_machine,
    measure,
    plot,
    table,
)
from ..encoding import write_any_text
from ..errors import UsageError


def height_and_width(text: str) -> Tuple[int, int]:
    """ "800x1216" -> (800, 1216)."""
    height, width = (positive(word) for word in text.lower().split("x"))
    return height, width


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("config_files", nargs="*", help="panoptic or instance K-Nets (configs/knet_panoptic.yaml)")
    add("--alternatives", nargs="*", choices=ALTERNATIVES, default=ALTERNATIVES)
    add("--kind", choices=KINDS, help="both if left out")
    add("--sizes", nargs="+", type=height_and_width, default=[(800, 1216)], metavar="HxW")
    add("--output-size", type=height_and_width, metavar="HxW", help="of results; the input's")
    add("--batch", nargs="+", type=positive, default=[1], metavar="N", help="images a step")
    add("--objects", nargs="+", type=positive, default=[30], metavar="N", help="of each image")
    add("--kernels", nargs="+", type=positive, default=[None], metavar="N", help="of instances")
    add("--scene", choices=SCENES, default="objects", help="what the results of K-Net are made of")
    add("--dtype", choices=tuple(DTYPES), default="fp32", help="by autocast")
    add("--compile", action="store_true", help="torch.compile, each part of the network by itself")
    add("--steps", type=positive, default=5, metavar="N", help="timed ones of each candidate")
    add("--warm-up", type=positive, default=1, metavar="N", help="steps before these")
    add("--threads", type=positive, metavar="N", help="of the CPU")
    add("--device", choices=("cpu", "cuda"), help="the GPU, where there is one")
    add("--nvtx", action="store_true", help="each part a range for NVIDIA's profilers")
    add("--output", metavar="FILE", help="JSON to write")
    add("--plot", metavar="FILE", help="picture to write")
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.opts = words[cut + 1 :]
    return args


def settings_of(args: argparse.Namespace) -> Settings:
    """
    Raises:
        UsageError: there is no GPU for what was asked.
    """
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no GPU that PyTorch can use: leave --device out")
    if args.nvtx and device == "cpu":
        raise UsageError("--nvtx is for NVIDIA's profilers: there is no GPU, leave it out")
    return Settings(
        config_files=tuple(args.config_files or ["configs/knet_panoptic.yaml"]),
        opts=tuple(args.opts),
        alternatives=tuple(args.alternatives),
        kinds=(args.kind,) if args.kind else KINDS,
        sizes=tuple(args.sizes),
        output=args.output_size,
        batches=tuple(args.batch),
        objects=tuple(args.objects),
        kernels=tuple(args.kernels),
        dtype=args.dtype,
        compiled=args.compile,
        steps=args.steps,
        warm_up=args.warm_up,
        threads=args.threads,
        device=device,
        scene=args.scene,
        nvtx=args.nvtx,
    )


def main(argv=None, program: str = "benchmark.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    try:
        settings = settings_of(args)
        records = measure(settings, tell=lambda line: print(line, file=sys.stderr, flush=True))
        machine = describe_machine(settings)
        print(", ".join(f"{name} {value}" for name, value in machine.items()), end="\n\n")
        print(table(records))
        if args.output:
            write_json(args, {"machine": machine, "settings": vars(args), "records": records})
        if args.plot:
            plot(records, args.plot)
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0


def write_json(args: argparse.Namespace, content: dict) -> None:
    """
    Raises:
        UsageError: the file cannot be written.
    """
    try:
        with open(args.output, "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1)
    except OSError as error:
        raise UsageError(f"cannot write {args.output} ({error.strerror}): give another") from error
