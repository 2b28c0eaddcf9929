"""Make one file to share out of a checkpoint: weights, config and classes, no optimizer.

    knet model-file output/cells/model_final.pth cells.pth
    knet model-file output/cells/model_final.pth small.pth --half

``knet.load_model`` and every program of the project need nothing else then. A checkpoint that does
not tell its config (an old one) needs ``--config-file``, and the data set that the config names, or
``--opts MODEL.KNET.CLASSES "[{'id': 0, 'name': 'cell', 'isthing': True}]"``.
"""

import argparse
import os
import sys

from detectron2.utils.logger import setup_logger

from ..encoding import write_any_text
from ..engine.model_file import save_model
from ..errors import DatasetError, UsageError
from ..model_zoo import load_model


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("source", help="file of weights, or its address")
    parser.add_argument("target", help="file to write, ending in .pth or .safetensors")
    parser.add_argument("--config-file", default="", help="if the source does not tell its config")
    parser.add_argument("--half", action="store_true", help="float16: half the size")
    parser.add_argument("--force", action="store_true", help="overwrite the target")
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="changes of the config"
    )
    return parser.parse_args(argv)


def main(argv=None, program: str = "make_model_file.py") -> int:
    write_any_text()
    args = parse_args(argv, program)
    setup_logger(name="knet")
    sources = [args.config_file, args.source] if args.config_file else [args.source]
    try:
        if os.path.exists(args.target) and not args.force:
            raise UsageError(f"{args.target} exists already: choose another file, or add --force")
        model = load_model(*sources, device="cpu", opts=args.opts)
        save_model(model, args.target, half=args.half)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    size = os.path.getsize(args.target) / 1e6
    print(f"{args.target}: {len(model.info.classes)} classes, {size:.1f} MB")
    return 0
