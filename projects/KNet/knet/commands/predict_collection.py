"""Predict on more images than one process, or one machine, should do; see docs/collections.md.

    knet predict-collection --weights model_final.pth \\
        --input photos/ --output results --workers 2
    knet predict-collection --weights model_final.pth \\
        --input images.parquet --output /shared/results --address auto --coco

Needs ``pip install 'knet-detectron2[ray]'``. Stopped, the same command goes on where it was: each
image once.

Exit status: 0 all done; 1 not done, a sentence says why; 3 some images have no result, the table
OUTPUT/failures says why; 130 stopped by Ctrl-C.
"""

import argparse
import sys

from detectron2.utils.logger import setup_logger

from ..encoding import write_any_text
from ..errors import DatasetError, UsageError
from ..results.kinds import KINDS
from .parsers import parser_of

SOME_FAILED, INTERRUPTED = 3, 130


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = parser_of(__doc__, program)
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="images, folders, patterns, .txt .csv .parquet")
    add("--column", default="image", help="of the paths in .csv and .parquet (image)")
    add("--output", required=True, help="folder that all machines see")
    add("--weights", required=True, help="model file that all machines see")
    add("--config-file", help="of the model, where the weights do not carry it")
    add(
        "--kind",
        nargs="+",
        choices=KINDS,
        default=[],
        help="of results to keep; the first that the model has if left out",
    )
    add("--score-threshold", type=float, default=0.0, help="of instances to keep; for AP all (0)")
    add("--shard-size", type=int, default=256, help="images a file (256)")
    add("--batch-size", type=int, default=1, help="images at once, where sizes are equal (1)")
    add("--coco", action="store_true", help="at the end join the shards to COCO's files")
    add(
        "--address",
        default="local",
        help="of a Ray cluster: auto or host:port; this machine if left out",
    )
    add("--workers", type=int, help="a model each; one for each GPU or for 4 CPUs if left out")
    add("--cpus-per-worker", type=int, help="its share, 4 at most, if left out")
    add("--gpus-per-worker", type=float, help="1 if left out, 0 where there are no GPUs")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values, come last")
    return parser.parse_args(argv)


def predict(args: argparse.Namespace):
    from ..collection import Engine, ModelSource, join_shards, predict_collection

    summary = predict_collection(
        args.input,
        ModelSource(args.weights, args.config_file, tuple(args.opts)),
        args.output,
        engine=Engine(args.address, args.workers, args.cpus_per_worker, args.gpus_per_worker),
        column=args.column,
        kinds=args.kind,
        score_threshold=args.score_threshold,
        shard_size=args.shard_size,
        batch_size=args.batch_size,
    )
    if args.coco:
        print(f"COCO's files are in {join_shards(args.output)}")
    return summary


def main(argv=None, program: str = "predict_collection.py") -> int:
    write_any_text()
    args = parse_args(argv, program)
    setup_logger(name="knet")
    try:
        summary = predict(args)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{program}: cannot write the results: {error}; give another --output", file=sys.stderr
        )
        return 1
    except (KeyboardInterrupt, RuntimeError) as error:
        # Ctrl-C while Ray waits may come as the error of a lock that is lost by it
        if KeyboardInterrupt not in (type(error), type(error.__context__)):
            raise
        print(f"{program}: stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    done = summary.images - summary.failures
    print(f"{done} of {summary.images} images are done, in {args.output}")
    if summary.failures:
        print(
            f"{program}: {summary.failures} could not be done, see {args.output}/failures",
            file=sys.stderr,
        )
        return SOME_FAILED if done else 1
    return 0
