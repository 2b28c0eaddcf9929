#!/usr/bin/env python
"""Draw what trainings tell of themselves: losses, results of each evaluation, learning rate.

python projects/KNet/tools/draw_run.py output/demo
python projects/KNet/tools/draw_run.py output/first output/second --output both.png

While they run or afterwards; several are drawn into the same panels, to be compared.
"""

import argparse
import os
import sys

from knet.encoding import write_any_text
from knet.errors import UsageError
from knet.visualization import draw_runs


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "trainings", nargs="+", help="OUTPUT_DIR of each training, or its metrics.json"
    )
    parser.add_argument("--output", help="PNG to write; run.png in the first folder if left out")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    write_any_text()
    first = args.trainings[0]
    folder = first if os.path.isdir(first) else os.path.dirname(first)
    path = args.output or os.path.join(folder, "run.png")
    try:
        draw_runs(args.trainings, path)
    except UsageError as error:
        print(f"draw_run.py: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
