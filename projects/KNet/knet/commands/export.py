"""Write a model as ONNX, torch.export program or TorchScript, checked against the model.

    knet export --weights model_final.pth --output street.onnx
    knet export --weights model_final.pth --format torch-export \\
        --output street.pt2

The network takes images of any size and batch; class names, preprocessing and thresholds are in the
file. Beside an ONNX file knet_runtime.py is put, which needs onnxruntime and NumPy alone.

Exit status: 0 written and equal to the model; 1 not written, a sentence says why; 2 the command
line is wrong; 3 written, but it differs from the model.
"""

import argparse
import os
import sys

from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from .. import load_model
from ..encoding import write_any_text
from ..errors import DatasetError, UsageError
from ..export import FORMATS, SUFFIXES, export_model, is_rounding
from .parsers import parser_of

DIFFERS = 3  # 2 is argparse's


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = parser_of(__doc__, program)
    add = parser.add_argument
    add("--weights", required=True, help="model file, or its address")
    add("--config-file", help="of the model, where the weights do not carry it")
    add("--format", choices=FORMATS, default="onnx", help="of the file (onnx)")
    add("--output", required=True, help="file to write: .onnx, .pt2 or .ts")
    add("--force", action="store_true", help="overwrite the output")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values, come last")
    return parser.parse_args(argv)


def main(argv=None, program: str = "export.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    setup_logger(name="knet")
    try:
        check_output(args)
        sources = [args.config_file, args.weights] if args.config_file else [args.weights]
        model = load_model(*sources, device="cpu", opts=args.opts)
        comparisons = export_model(model, args.output, args.format)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # e.g. the disk is full
        reason = error.strerror or error
        print(
            f"{program}: cannot write {args.output}: {reason}; give another --output",
            file=sys.stderr,
        )
        return 1
    is_same = is_rounding(comparisons)
    different = "one kernel" if is_same else "NO"
    rows = [
        (
            c.batch,
            f"{c.height} x {c.width}",
            c.output,
            f"{c.largest:.1e}",
            f"{c.mean:.1e}",
            "yes" if c.is_equal else different,
        )
        for c in comparisons
    ]
    print("Differences from the model, relative to the largest value of each output:")
    print(tabulate(rows, ("images", "height x width", "output", "largest", "mean", "equal")))
    if not all(c.is_equal for c in comparisons) and is_same:
        print("One kernel: by rounding a pixel at its mask's edge lies on the other side.")
    if not is_same:
        print(f"{program}: {args.output} is written, but differs from the model", file=sys.stderr)
        return DIFFERS
    size = os.path.getsize(args.output) / 1e6
    count = len(model.info.classes)
    print(f"{args.output}: {count} class{'' if count == 1 else 'es'}, {size:.1f} MB")
    return 0


def check_output(args: argparse.Namespace) -> None:
    """Find what cannot be written before the model is loaded.

    Raises:
        UsageError: it cannot.
    """
    suffix = SUFFIXES[args.format]
    if not args.output.endswith(suffix):
        raise UsageError(f"--output {args.output} must end in {suffix} for --format {args.format}")
    if os.path.isdir(args.output):
        raise UsageError(f"{args.output} is a folder: name a file as --output")
    if os.path.exists(args.output) and not args.force:
        raise UsageError(f"{args.output} exists already: choose another file, or add --force")
