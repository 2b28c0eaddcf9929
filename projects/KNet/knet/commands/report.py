"""Make a page about a trained model: how good it is, class by class, and where it fails.

    knet report output/demo
    knet report output/first output/second --output both.html
    knet report --weights model_final.pth --dataset shapes_panoptic_val

A run is the OUTPUT_DIR of a training or of an evaluation; its results in ``inference/`` are
looked at, no model is needed. ``--weights`` evaluates a model first. The page is one file.
"""

import argparse
import os
import sys

from detectron2.utils.logger import setup_logger

from ..encoding import write_any_text
from ..errors import DatasetError, UsageError
from ..report import write_run_report
from ..report.evaluate import evaluate_weights
from ..report.run import open_run, title_of
from ..visualization import KINDS


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", help="OUTPUT_DIR of each run")
    parser.add_argument("--weights", help="of a model to evaluate first; needs --dataset")
    parser.add_argument("--dataset", help="that was evaluated; found if left out")
    parser.add_argument("--kind", choices=KINDS, help="of results to look at; found if left out")
    parser.add_argument(
        "--config-file", default="", help="for DATASETS.CUSTOM; config.yaml of the run if left out"
    )
    parser.add_argument(
        "--output", help="page to write; report.html in the first run's folder if left out"
    )
    parser.add_argument(
        "--images", type=int, default=6, help="best and worst images, so many of both (6)"
    )
    parser.add_argument("--image-size", type=int, default=640, help="of their longest side (640)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="objects below it are not counted; MODEL.KNET.TEST.SCORE_THRESHOLD if left out",
    )
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: options that do not go together.
    """
    if bool(args.runs) == bool(args.weights):
        raise UsageError("give the folders of runs, or --weights and --dataset")
    if args.weights and not (args.dataset and args.output):
        raise UsageError("--weights needs --dataset, what to evaluate on, and --output, the page")
    if args.output and not os.path.splitext(args.output)[1]:  # no browser would show it
        raise UsageError(f"--output {args.output} is to be a page: give a name that ends in .html")
    for name, value, least, most in (
        ("--images", args.images, 0, 100),
        ("--image-size", args.image_size, 64, 4096),
    ):
        if not least <= value <= most:
            raise UsageError(f"{name} is {value}: give {least} to {most}")
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        raise UsageError(f"--score-threshold is {args.score_threshold}: give 0 to 1")


def main(argv=None, program: str = "report.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    setup_logger(name="knet")
    try:
        check_args(args)
        page = args.output or os.path.join(args.runs[0], "report.html")
        folders, config_file = args.runs, args.config_file
        if args.weights:
            folders = [f"{os.path.splitext(page)[0]}_evaluation"]
            config_file = evaluate_weights(args.weights, args.dataset, folders[0], config_file)
        runs = [
            open_run(
                folder,
                dataset=args.dataset,
                kind=args.kind,
                config_file=config_file,
                title=title,
            )
            for folder, title in zip(folders, title_of(folders))
        ]
        write_run_report(
            runs,
            page,
            num_images=args.images,
            side=args.image_size,
            score_threshold=args.score_threshold,
        )
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    print(f"{page} ({os.path.getsize(page) / 2**20:.1f} MB)")
    return 0
