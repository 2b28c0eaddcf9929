"""Check the data sets of a config: every file is read, all that is wrong is told at once.

    knet check-data --config-file configs/knet_instance_fast.yaml \\
        --workers 8 --output output/check --samples 8 DATASETS.TRAIN "('cells_train',)"

The options are those of train_net.py. Exit status: 0, or 1 where an error is found, 2 where the
check itself cannot be made.
"""

import argparse
import os
import sys

from ..data.checks import check_data
from ..encoding import write_any_text
from ..engine.main import load_config
from ..errors import DatasetError, UsageError
from ..visualization.data_report import write_report


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="", help="as of train_net.py")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--output", help="folder for report.json, report.html and samples")
    parser.add_argument(
        "--samples", type=int, default=0, help="draw so many images as training sees them"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    return parser.parse_args(argv)


def main(argv=None, program: str = "check_dataset.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    try:
        if args.samples and not args.output:
            raise UsageError("--samples draws into a folder: give --output too")
        cfg = load_config(args.config_file, args.opts)
        report = check_data(cfg, args.workers, progress=sys.stderr.isatty())
        if report.faults:
            print(report.table())
        print(report.summary())
        if args.output:
            for path in write_report(report, cfg, args.output, args.samples):
                print(path)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return 1 if report.has_errors else 0
