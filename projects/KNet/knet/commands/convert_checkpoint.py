"""Convert the authors' (or MMSegmentation's) K-Net weights to this project's, or back.

    knet convert knet_official.pth weights/knet.pth
    knet convert weights/knet.pth official.pth --to official

Loading needs no conversion: MODEL.WEIGHTS takes official files as they are. With --config-file the
weights are compared with the model that it describes, and a backbone's weights (of torchvision,
mmseg, timm, the original Swin) get the names that they have in it.
"""

import argparse
import sys

from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

from ..checkpoint.convert import FORMS, convert_file
from ..encoding import write_any_text
from ..engine import KNetTrainer
from ..engine.main import load_config
from ..errors import DatasetError, UsageError


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("source", help="file of weights, or its address")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--to", choices=FORMS, default="knet", help="names of the target")
    parser.add_argument("--config-file", default="", help="of the model that the weights are for")
    parser.add_argument("--force", action="store_true", help="overwrite the target")
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="changes of the config"
    )
    return parser.parse_args(argv)


def model_of(config_file: str, opts):
    """State dict of the model that a config builds, and does it have stages that refine."""
    cfg = load_config(config_file, opts)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.PRETRAINED = False
    return KNetTrainer.build_model(cfg).state_dict(), cfg.MODEL.KNET.KERNEL_UPDATE.RESIDUAL


def main(argv=None, program: str = "convert_checkpoint.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    setup_logger(name="knet")
    try:
        given = args.config_file
        model, residual = model_of(given, args.opts) if given else (None, False)
        source = PathManager.get_local_path(args.source)
        print(
            convert_file(
                source, args.target, args.to, model=model, residual=residual, force=args.force
            )
        )
    except (UsageError, DatasetError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0
