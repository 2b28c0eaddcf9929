"""The command line of ``train_net.py``: config, device, processes, training or evaluation."""

import os
import sys
from typing import Dict, List, Optional

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import add_knet_config
from ..data.checks import check_config, check_datasets, resolve_class_layout
from ..errors import DatasetError, UsageError
from .device import select_device
from .trainer import KNetTrainer

__all__ = ["load_config", "main", "prepare", "run", "setup_logging"]


def load_config(config_file: str, opts: Optional[List[str]] = None) -> CfgNode:
    """Detectron2's defaults, K-Net's, the file's and the command line's, in this order.

    Raises:
        UsageError: a file that does not exist, or a key that is unknown.
    """
    cfg = get_cfg()
    add_knet_config(cfg)
    if config_file:
        if not os.path.isfile(config_file):
            raise UsageError(f"--config-file {config_file} does not exist")
        cfg.merge_from_file(config_file)
    try:
        cfg.merge_from_list(opts or [])
    except (AssertionError, KeyError, ValueError) as error:
        raise UsageError(
            f"the options {opts} are not pairs of a known key and a fitting value: {error}"
        ) from error
    return cfg


def prepare(cfg: CfgNode, num_gpus: int) -> int:
    """Choose the device and find, before anything is built, what cannot work.

    Returns:
        the number of processes to start on this machine.

    Raises:
        UsageError, DatasetError: see :mod:`knet.data.checks`.
    """
    num_processes = select_device(cfg, num_gpus)
    check_config(cfg)
    check_datasets(cfg)
    resolve_class_layout(cfg)
    return num_processes


def run(cfg: CfgNode, args) -> Dict:
    """What each process does: evaluate (``--eval-only``) or train; returns the results."""
    setup_logging(cfg)
    default_setup(cfg, args)
    if not args.eval_only:
        trainer = KNetTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = KNetTrainer.build_model(cfg)
    DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
        cfg.MODEL.WEIGHTS, resume=args.resume
    )
    results = KNetTrainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(argv: Optional[List[str]] = None) -> int:
    """
    Args:
        argv: command line without the program's name; ``sys.argv`` if None.

    Returns:
        exit status: 0, or 1 after an error of the user, told in one sentence.
    """
    args = default_argument_parser().parse_args(argv)
    try:
        cfg = load_config(args.config_file, args.opts)
        setup_logging(cfg)
        num_processes = prepare(cfg, args.num_gpus)
        cfg.freeze()
        launch(
            run,
            num_processes,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(cfg, args),
        )
    except (UsageError, DatasetError) as error:
        # an error of a data loading worker brings its traceback along; its last line is ours
        sentence = str(error).strip().splitlines()[-1].split("Error: ", 1)[-1]
        print(f"train_net.py: {sentence}", file=sys.stderr)
        return 1
    return 0


def setup_logging(cfg: CfgNode) -> None:
    """Log this package where Detectron2 logs itself; a second call in a process is harmless."""
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="knet")
