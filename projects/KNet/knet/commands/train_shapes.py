"""``make demo``: train a small K-Net on the built-in shapes, evaluate it, draw what it sees.

    knet demo
    knet demo --config-file configs/demo/knet_instance_shapes.yaml

Panoptic unless a config of another task is given. Minutes on a CPU, nothing to download. The folder
(``OUTPUT_DIR`` of the config, or ``--output``) gets results.png, losses.png, pictures/ and all that
a training leaves. Repeated, it starts anew. ``knet predict`` tries the model on other pictures.
"""

import argparse
import glob
import itertools
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import verify_results

from ..data.datasets.custom import register_custom_datasets
from ..encoding import write_any_text
from ..engine.main import load_config, prepare, run, setup_logging
from ..engine.output_folder import FILES_OF_RUN
from ..errors import DatasetError, UsageError
from ..evaluation import inference_folder
from ..visualization import draw_contact_sheet, draw_losses, draw_predictions

CONFIG = "demo/knet_panoptic_shapes"
NUM_PICTURES = 12
NUM_ON_SHEET = 6


class Task(NamedTuple):
    """What the demo shows of a task: its main figure, and the kind of its pictures."""

    result: str
    metric: str
    figure: str
    kind: str


# the first whose result the evaluation has
TASKS = (
    Task("panoptic_seg", "PQ", "PQ", "panoptic"),
    Task("segm", "AP", "mask AP", "instance"),
    Task("sem_seg", "mIoU", "mIoU", "semantic"),
)

MARKER = ".knet_demo"  # lies in a folder that the demo may clear
RUN_FILES = (*FILES_OF_RUN, "log.txt*", "losses.png", "results.png")


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=CONFIG)
    parser.add_argument("--output", help="folder of the run; OUTPUT_DIR of the config if left out")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    return parser.parse_args(argv)


def start_clean(folder: str, data: Iterable[str] = ()) -> None:
    """Make the folder, or remove from it what an earlier demo left.

    Args:
        folder: of the run.
        data: files and folders that the run reads.

    Raises:
        UsageError: it holds something that no demo made, or the data, or cannot be written.
    """
    marker = os.path.join(folder, MARKER)
    is_empty = not os.path.exists(folder) or (os.path.isdir(folder) and not os.listdir(folder))
    if not is_empty and not os.path.isfile(marker):
        raise UsageError(
            f"{folder} holds what the demo did not make: remove it, or give another --output"
        )
    try:
        os.makedirs(folder, exist_ok=True)
        Path(marker).touch()
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written ({error.strerror}): give another --output"
        ) from error
    patterns = (os.path.join(glob.escape(folder), pattern) for pattern in RUN_FILES)
    paths = [path for pattern in patterns for path in glob.glob(pattern)]
    for path, read in itertools.product(paths, data):
        if Path(os.path.realpath(read)).is_relative_to(os.path.realpath(path)):
            raise UsageError(f"the demo reads {read}, which it would remove: give another --output")
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)


def data_of(cfg: CfgNode) -> List[str]:
    """The files and folders of the data sets of a config."""
    register_custom_datasets(cfg)
    keys = ("image_root", "panoptic_root", "sem_seg_root", "panoptic_json", "json_file")
    sets = [MetadataCatalog.get(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)]
    return [metadata.get(key) for metadata in sets for key in keys if metadata.get(key)]


def train_and_evaluate(cfg: CfgNode, args: argparse.Namespace) -> Dict:
    """Train on the CPU; returns the results of the evaluation at the end."""
    setup_logging(cfg)
    cfg.TEST.EXPECTED_RESULTS = []  # compared when the pictures are drawn
    # the images are small: a second thread mostly waits, on a busy machine for long
    torch.set_num_threads(1)
    prepare(cfg, num_gpus=0)
    cfg.freeze()
    args.eval_only, args.resume = False, False
    return run(cfg, args)


def draw(cfg: CfgNode, dataset: str, kind: str) -> None:
    """Draw some results of the data set, a sheet of the first ones, and the losses."""
    files = draw_predictions(
        inference_folder(cfg.OUTPUT_DIR, dataset),
        dataset,
        os.path.join(cfg.OUTPUT_DIR, "pictures"),
        limit=NUM_PICTURES,
        kind=kind,
        score_threshold=cfg.MODEL.KNET.TEST.SCORE_THRESHOLD,
    )
    draw_contact_sheet(files[:NUM_ON_SHEET], os.path.join(cfg.OUTPUT_DIR, "results.png"))
    draw_losses(cfg.OUTPUT_DIR)


def compare_with_expected(cfg: CfgNode, expected: List, results: Dict) -> None:
    """Detectron2's comparison of results with TEST.EXPECTED_RESULTS; exits where they differ."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.EXPECTED_RESULTS = expected
    verify_results(cfg, results)


def main(argv=None, program: str = "train_shapes.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    try:
        cfg = load_config(args.config_file, args.opts)
        # of the settings in the file, not of others
        expected = [] if args.opts else cfg.TEST.EXPECTED_RESULTS
        if args.output:
            cfg.OUTPUT_DIR = args.output
        if not cfg.DATASETS.TEST:
            raise UsageError("DATASETS.TEST is empty: name a data set whose results to show")
        start_clean(cfg.OUTPUT_DIR, data_of(cfg))
        results = train_and_evaluate(cfg, args)
        dataset = cfg.DATASETS.TEST[0]
        all_results = results
        results = results.get(dataset, results)  # by data set only where there are several
        task = next(task for task in TASKS if task.result in results)
        draw(cfg, dataset, task.kind)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    quality = results[task.result][task.metric]
    print(f"{task.figure} {quality:.1f} on {dataset}, pictures in {cfg.OUTPUT_DIR}")
    compare_with_expected(cfg, expected, all_results)
    weights = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    python, weights = (_from_here(path) for path in (sys.executable, weights))
    print("To try the model on a picture of your own:")
    print(f"    {python} -m knet predict --weights {weights} --input PICTURE --output FOLDER")
    return 0


def _from_here(path) -> str:
    """A path as one types it in the working folder, for the command line."""
    path = Path(os.path.abspath(path))  # links stay: that of an environment's Python counts
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
