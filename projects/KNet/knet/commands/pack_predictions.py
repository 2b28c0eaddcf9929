"""Pack predictions on a test set into the archive that its evaluation server takes.

    knet pack --server coco-panoptic --name knet \\
        --predictions output/inference/coco_test --images image_info_test-dev2017.json \\
        --output packed
    knet pack --server cityscapes-semantic --name knet \\
        --predictions results --images datasets/cityscapes/leftImg8bit/test --output packed

The predictions are those of train_net.py --eval-only (OUTPUT_DIR/inference/<data set>) or of
demo.py with --save. Every image of the test set must have one, of its size, with classes that the
server knows; else a sentence says what is missing and no archive is written.
"""

import argparse
import sys
from pathlib import Path

from ..encoding import write_any_text
from ..errors import DatasetError, UsageError
from ..submission import SERVERS, pack_predictions
from .parsers import parser_of


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = parser_of(__doc__, program)
    add = parser.add_argument
    add("--server", required=True, choices=list(SERVERS))
    add("--predictions", required=True, type=Path, help="folder that holds them")
    add(
        "--images",
        required=True,
        type=Path,
        help="of the test set: COCO's image_info json; of others the folder that they lie in",
    )
    add("--output", required=True, type=Path, help="folder for the archive")
    add("--name", default="knet", help="of the method (knet)")
    add("--test-set", default="test-dev2017", help="COCO's name of it (test-dev2017)")
    return parser.parse_args(argv)


def main(argv=None, program: str = "pack_predictions.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    try:
        archive = pack_predictions(
            args.server, args.predictions, args.images, args.output, args.name, args.test_set
        )
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{program}: cannot write the archive: {error}", file=sys.stderr)
        return 1
    print(archive)
    return 0
