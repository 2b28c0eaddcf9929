"""Draw the results of an evaluation beside the ground truth: panoptic, instance or semantic.

    knet draw \\
        --predictions output/demo/inference/shapes_panoptic_val \\
        --dataset shapes_panoptic_val --output output/demo/pictures

A folder that holds several kinds of results shows the first of these, unless ``--kind`` names one.
``--no-labels`` leaves out the names of classes; names too large for their object are never written.
A data set of your own is found by the ``DATASETS.CUSTOM`` of the config it was evaluated with
(``--config-file``). ``--sheet`` puts the pictures on one sheet:

    knet draw --predictions output/demo/inference/shapes_panoptic_val \\
        --dataset shapes_panoptic_val --output output/demo/pictures \\
        --images 100001 100004 --sheet two.jpg
"""

import argparse
import os
import sys

from detectron2.data import DatasetCatalog
from detectron2.utils.logger import setup_logger

from ..data.datasets.custom import register_custom_datasets
from ..data.image_reading import ImageReader
from ..encoding import write_any_text
from ..engine.main import load_config
from ..errors import DatasetError, UsageError
from ..visualization import KINDS, draw_contact_sheet, draw_predictions

SHEET_ENDINGS = (".png", ".jpg")


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument(
        "--predictions", required=True, help="folder OUTPUT_DIR/inference/<data set>"
    )
    parser.add_argument("--dataset", required=True, help="name of the data set evaluated")
    parser.add_argument("--output", required=True, help="folder for the pictures")
    parser.add_argument("--kind", choices=KINDS, help="of the results; found if left out")
    parser.add_argument(
        "--score-threshold", type=float, default=0.3, help="instances below it are not drawn"
    )
    parser.add_argument("--no-labels", action="store_true", help="without the names of classes")
    parser.add_argument("--limit", type=int, help="draw only so many images, the first ones")
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="NAME", help="draw only these, in this order"
    )
    parser.add_argument("--no-file-names", action="store_true", help="write 'image' instead")
    parser.add_argument("--sheet", metavar="FILE", help="the pictures on one sheet too, .png, .jpg")
    parser.add_argument("--columns", type=int, default=2, help="pictures in a row of the sheet (2)")
    parser.add_argument("--config-file", default="", help="for DATASETS.CUSTOM and INPUT.*")
    return parser.parse_args(argv)


def check_arguments(args: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: the options do not fit.
    """
    for name, value in (("limit", args.limit), ("columns", args.columns)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} is {value}: at least 1 picture is needed")
    if args.sheet and not args.sheet.lower().endswith(SHEET_ENDINGS):
        raise UsageError(f"--sheet {args.sheet} must end in {' or '.join(SHEET_ENDINGS)}")
    if args.sheet and os.path.exists(args.sheet):
        raise UsageError(f"--sheet {args.sheet} exists already: remove it, or give another")


def register_dataset(name: str, cfg, is_given: bool) -> None:
    """Register the data set if the config's ``DATASETS.CUSTOM`` describes it, and only that one.

    Raises:
        UsageError: nothing registers it, and no config is given that could.
    """
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)
    register_custom_datasets(cfg)
    if not is_given and name not in DatasetCatalog.list():
        raise UsageError(
            f"the data set '{name}' is not registered: correct its name, or give --config-file "
            "with the config whose DATASETS.CUSTOM describes it"
        )


def main(argv=None, program: str = "draw_results.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    setup_logger(name="knet")
    try:
        check_arguments(args)
        cfg = load_config(args.config_file)
        register_dataset(args.dataset, cfg, bool(args.config_file))
        files = draw_predictions(
            args.predictions,
            args.dataset,
            args.output,
            limit=args.limit,
            kind=args.kind,
            score_threshold=args.score_threshold,
            labels=not args.no_labels,
            images=args.images,
            file_names=not args.no_file_names,
            reader=ImageReader.from_config(cfg) if args.config_file else None,
        )
        if args.sheet:
            os.makedirs(os.path.dirname(os.path.abspath(args.sheet)), exist_ok=True)
            draw_contact_sheet(files, args.sheet, args.columns)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    print(f"{len(files)} picture{'s' * (len(files) != 1)} in {args.output}")
    return 0
