#!/usr/bin/env python
"""Draw the losses of a training over its iterations, while it runs or afterwards.

python projects/KNet/tools/draw_losses.py output/demo
python projects/KNet/tools/draw_losses.py output/demo/metrics.json --output curves.png
"""

import argparse
import sys

from knet.encoding import write_any_text
from knet.errors import UsageError
from knet.visualization import draw_losses


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", help="OUTPUT_DIR of the training, or its metrics.json")
    parser.add_argument("--output", help="PNG to write; losses.png beside metrics.json if left out")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    write_any_text()
    try:
        path = draw_losses(args.training, args.output)
    except UsageError as error:
        print(f"draw_losses.py: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
