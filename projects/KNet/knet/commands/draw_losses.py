"""Draw the losses of a training over its iterations, while it runs or afterwards.

knet draw-losses output/demo
knet draw-losses output/demo/metrics.json --output curves.png
"""

import argparse
import sys

from ..encoding import write_any_text
from ..errors import UsageError
from ..visualization import draw_losses


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("training", help="OUTPUT_DIR of the training, or its metrics.json")
    parser.add_argument("--output", help="PNG to write; losses.png beside metrics.json if left out")
    return parser.parse_args(argv)


def main(argv=None, program: str = "draw_losses.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    try:
        path = draw_losses(args.training, args.output)
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0
