"""Draw what the kernels of a trained model do: on average, stage by stage, among each other.

    knet draw-kernels --weights model_final.pth --input photos \\
        --output kernels
    knet draw-kernels --weights model_final.pth \\
        --dataset shapes_panoptic_val --output kernels

Of all pictures: mean_masks.png, and mean_masks_at_points.png where kernels start at points. Of the
first ones (--each): <picture>_stages.png and <picture>_attention.png.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Iterator, List

from detectron2.data import DatasetCatalog
from matplotlib.figure import Figure
from tqdm import tqdm

from .. import Predictor, get_config
from ..data.datasets.custom import register_custom_datasets
from ..data.image_files import find_images
from ..data.training_images import load_dicts
from ..encoding import write_any_text
from ..errors import DatasetError, UsageError
from ..files import distinct_names
from ..results.kinds import choose_results
from ..visualization.kernel_attention import draw_attention
from ..visualization.kernel_record import KernelRecord, record_kernels
from ..visualization.kernel_stages import draw_stages
from ..visualization.mean_masks import MeanMasks
from .parsers import parser_of


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = parser_of(__doc__, program)
    add = parser.add_argument
    add("--weights", required=True, help="model file, of a panoptic or instance K-Net")
    add("--config-file", help="of the model, where the weights do not carry it")
    add("--input", nargs="+", help="pictures, folders (with those below them), patterns")
    add("--dataset", help="instead: name of a data set, registered or in DATASETS.CUSTOM")
    add("--output", required=True, help="folder for the pictures that are drawn")
    add("--each", type=int, default=3, help="pictures that are drawn one by one (3)")
    add("--limit", type=int, help="take only so many pictures, the first ones")
    add("--confidence-threshold", type=float, help="of things; the config's if left out")
    add("--device", help="cpu, cuda, cuda:1, ...; a GPU if there is one")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values, come last")
    return parser.parse_args(argv)


def main(argv=None, program: str = "draw_kernels.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    try:
        check_arguments(args)
        files = draw(args, program)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{program}: cannot write the pictures: {error}; give another --output", file=sys.stderr
        )
        return 1
    print("\n".join(files))
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: the command line cannot be followed.
    """
    if (args.input is None) == (args.dataset is None):
        raise UsageError("give one of --input and --dataset")
    if os.path.isfile(args.output):
        raise UsageError(f"{args.output} is a file: give a folder as --output")
    for name, least in (("each", 0), ("limit", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} is {value}: give {least} or more")
    threshold = args.confidence_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"--confidence-threshold is {threshold}: give a number from 0 to 1")


def draw(args: argparse.Namespace, program: str) -> List[str]:
    """Returns the files written."""
    sources = find_sources(args)
    opts = list(args.opts)
    if args.confidence_threshold is not None:
        opts += ["MODEL.KNET.TEST.SCORE_THRESHOLD", args.confidence_threshold]
    # the views of test-time augmentation are none of the kernels' own
    opts += ["TEST.AUG.ENABLED", False]
    predictor = Predictor(args.weights, config=args.config_file, device=args.device, opts=opts)
    choose_results(predictor.model)
    threshold = predictor.cfg.MODEL.KNET.TEST.SCORE_THRESHOLD
    os.makedirs(args.output, exist_ok=True)
    names = distinct_names([Path(source).stem for source in sources[: args.each]], "")
    means = MeanMasks(predictor.classes, threshold)
    files = []

    def save(figure: Figure, name: str) -> None:
        files.append(os.path.join(args.output, f"{name}.png"))
        figure.savefig(files[-1])

    for i, source in enumerate(tqdm(sources, unit=" pictures", disable=None)):
        record = record_kernels(predictor, source)
        means.add(record)
        if i < args.each:
            for figure, kind in figures_of(record, predictor, threshold, source, program):
                save(figure, f"{names[i]}_{kind}")
    save(means.draw(predictor.cfg.MODEL.KNET.NUM_KERNELS), "mean_masks")
    if means.means_at_points:
        save(means.draw_at_points(), "mean_masks_at_points")
    return files


def figures_of(
    record: KernelRecord,
    predictor: Predictor,
    threshold: float,
    source: str,
    program: str,
) -> Iterator:
    """(figure, its kind) of one picture; a line tells why there is none."""
    for function, kind in ((draw_stages, "stages"), (draw_attention, "attention")):
        try:
            options = {"score_threshold": threshold}
            yield function(record, predictor.classes, predictor.metadata, **options), kind
        except UsageError as error:
            print(f"{program}: no {kind} of {source}: {error}", file=sys.stderr)


def find_sources(args: argparse.Namespace) -> List[str]:
    """The pictures' files.

    Raises:
        UsageError, DatasetError: there are none.
    """
    if args.input is not None:
        return find_images(args.input)[: args.limit]
    if args.config_file:  # the model's own config does not tell of data sets
        cfg = get_config(args.config_file)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (args.dataset,)
        register_custom_datasets(cfg)
    if args.dataset not in DatasetCatalog.list():
        raise UsageError(
            f"the data set '{args.dataset}' is not registered: correct it, give --config-file "
            "with the config whose DATASETS.CUSTOM describes it, or the pictures as --input"
        )
    return [d["file_name"] for d in load_dicts(args.dataset)][: args.limit]
