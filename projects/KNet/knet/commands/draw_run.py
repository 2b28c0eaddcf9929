"""Draw what trainings tell of themselves: losses, results of each evaluation, learning rate.

knet draw-run output/demo
knet draw-run output/first output/second --output both.png

While they run or afterwards; several are drawn into the same panels, to be compared.
"""

import argparse
import os
import sys

from ..encoding import write_any_text
from ..errors import UsageError
from ..visualization import draw_runs


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument(
        "trainings", nargs="+", help="OUTPUT_DIR of each training, or its metrics.json"
    )
    parser.add_argument("--output", help="PNG to write; run.png in the first folder if left out")
    return parser.parse_args(argv)


def main(argv=None, program: str = "draw_run.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    first = args.trainings[0]
    folder = first if os.path.isdir(first) else os.path.dirname(first)
    path = args.output or os.path.join(folder, "run.png")
    try:
        draw_runs(args.trainings, path)
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0
