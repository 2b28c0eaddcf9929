"""The command line of ``train_net.py``: config, device, processes, training or evaluation."""

import logging
import os
import sys
import time
import traceback
from argparse import Namespace
from contextlib import nullcontext
from typing import Dict, List, Optional, Sequence

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from yaml import YAMLError

from ..config import add_knet_config
from ..config_files import close_names, find_base, find_config
from ..data.class_layout import resolve_class_layout, resolve_semantic_classes
from ..data.datasets.custom import register_custom_datasets
from ..data.training_images import loading_once
from ..encoding import text_for_locale, write_any_text
from ..errors import DatasetError, UsageError
from .checkpointer import KNetCheckpointer
from .checks import check_config, check_datasets
from .config_faults import close_key, dotted_keys, plainly
from .device import select_device
from .freed_memory import keep_freed_memory
from .launching import ALONE, find_place, is_first_of_machine
from .logs import setup_loggers, tidy_loggers
from .output_folder import own_output_folder
from .processes import Peers, leave_group, main_first, start
from .scaling import scale_to_processes
from .stop_signals import (
    INTERRUPTED,
    Stopped,
    ignore_stop_signals,
    passing_on_signals,
    status_of_signal,
)
from .trainer import KNetTrainer

__all__ = ["load_config", "main", "merge_options", "prepare", "run", "setup_logging"]

logger = logging.getLogger(__name__)

EXAMPLES = """Examples:
    {0} --config-file configs/knet_panoptic.yaml --num-gpus 8
    {0} --config-file my.yaml MODEL.WEIGHTS weights.pth TEST.DETECTIONS_PER_IMAGE 200

The keys: knet/config.py and Detectron2's; docs/many_devices.md tells of several machines.
"""

_TIME_TO_TELL = 5.0  # seconds between the processes of a machine

# what a CfgNode raises for keys and values that do not fit
_WRONG_CONFIG = (AssertionError, KeyError, TypeError, ValueError)
_IS_AN_ADDRESS = "is an address: download the file, and name the copy"


class _Utf8Config(CfgNode):
    """Reads its files as UTF-8, whatever the locale; a ``_BASE_`` may be a published config."""

    @classmethod
    def _open_cfg(cls, filename: str):
        if "://" in filename:  # Detectron2's would download it
            raise ValueError(f"its _BASE_ {filename} {_IS_AN_ADDRESS}")
        return PathManager.open(find_base(filename), encoding="utf-8-sig")


def load_config(config_file: str, opts: Optional[List[str]] = None) -> CfgNode:
    """Detectron2's defaults, K-Net's, the file's and the command line's, in this order.

    Raises:
        UsageError: a file that does not exist, a key that is unknown, or options that are no pairs.
    """
    cfg = get_cfg()
    add_knet_config(cfg)
    if config_file:
        path = find_config(config_file)
        if path is None:
            if os.path.isdir(config_file):
                raise UsageError(f"--config-file {config_file} is a folder: name a file in it")
            if "://" in config_file:
                raise UsageError(f"--config-file {config_file} {_IS_AN_ADDRESS}")
            close = close_names(config_file)
            hint = f": did you mean {' or '.join(close)}?" if close else ""
            raise UsageError(f"--config-file {config_file} does not exist{hint}")
        try:
            # runs no code of the file's
            content = _Utf8Config.load_yaml_with_base(str(path), allow_unsafe=False)
            cfg.merge_from_other_cfg(CfgNode(content))
        except (*_WRONG_CONFIG, AttributeError, OSError, RecursionError, YAMLError) as error:
            raise UsageError(
                f"--config-file {config_file} cannot be used: {plainly(error, cfg)}"
            ) from error
    merge_options(cfg, opts or ())
    return cfg


def merge_options(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Merge ``KEY VALUE KEY VALUE ...``, so that the sentence can name the pair that is wrong."""
    said = " ".join(str(word) for word in opts)
    for word in opts:
        if str(word).startswith("--"):
            raise UsageError(f"{word} stands among the options '{said}': flags go before the keys")
    for key in opts[::2]:
        if "=" in key:
            raise UsageError(f"the option {key} has a '=': write KEY VALUE, with a space between")
    if len(opts) % 2:
        raise UsageError(f"the options '{said}' are no pairs: write KEY VALUE, a value to each key")
    for key, value in zip(opts[::2], opts[1::2]):
        try:
            cfg.merge_from_list([key, value])
        except _WRONG_CONFIG as error:
            if key in dotted_keys(cfg):
                raise UsageError(
                    f"the option {key} {value} does not fit: {plainly(error, cfg, of_key=True)}"
                ) from error
            near = close_key(key, cfg)
            hint = f": did you mean {near}?" if near else ""
            raise UsageError(f"the option {key} is no key of the config{hint}") from error


def prepare(
    cfg: CfgNode, num_gpus: int, peers: Optional[Peers] = None, eval_only: bool = False
) -> int:
    """Choose the device and find, before anything is built, what cannot work.

    Args:
        cfg: not frozen.
        num_gpus: wanted GPUs of this machine; 0 means CPU.
        peers: processes started as this one has been, which it joins.
        eval_only: the images of DATASETS.TRAIN are not needed.

    Returns:
        the number of processes on a machine.

    Raises:
        UsageError, DatasetError: see :mod:`knet.engine.checks`.
    """
    place = peers.place if peers else ALONE
    num_processes = select_device(cfg, num_gpus, place)
    if peers:
        peers.join(cfg.MODEL.DEVICE)
    scale_to_processes(cfg, num_processes * place.num_machines)
    check_config(cfg, num_processes * place.num_machines)
    with main_first():
        check_datasets(cfg, eval_only)
    if cfg.MODEL.META_ARCHITECTURE == "SemanticKNet":
        resolve_semantic_classes(cfg)
    elif cfg.MODEL.META_ARCHITECTURE == "KNet":
        resolve_class_layout(cfg)
    return num_processes


def run(cfg: CfgNode, args) -> Dict:
    """What each process does: evaluate (``--eval-only``) or train; returns the results."""
    setup_logging(cfg)
    setup_loggers(cfg.OUTPUT_DIR)
    with nullcontext() if args.eval_only else own_output_folder(cfg, resume=args.resume):
        return train_or_evaluate(cfg, args)


def train_or_evaluate(cfg: CfgNode, args) -> Dict:
    """:func:`run` in a folder that is its own."""
    config_file = find_config(args.config_file) if args.config_file else ""
    config_file = config_file and text_for_locale(str(config_file))
    default_setup(cfg, Namespace(**{**vars(args), "config_file": config_file}))  # logs the file
    register_custom_datasets(cfg)  # a process that was spawned has not
    if not args.eval_only:
        if cfg.MODEL.DEVICE == "cpu":
            keep_freed_memory()
        trainer = KNetTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = KNetTrainer.build_model(cfg)
    checkpointer = KNetCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (args.resume and checkpointer.has_checkpoint()):
        trained = checkpointer.last_checkpoint()
        example = f", such as MODEL.WEIGHTS {trained}" if trained else ""
        logger.warning(
            "MODEL.WEIGHTS is empty: evaluating a model that has learned nothing; give the weights "
            f"of one that has{example}"
        )
    checkpointer.complete = True  # weights left out would make the result meaningless
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = KNetTrainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def run_in_group(cfg: CfgNode, args) -> Dict:
    """:func:`run` in one of several processes, which part at its end: else torch may abort one."""
    stopped = None
    try:
        results = run(cfg, args)
    except Stopped as error:
        stopped = error.with_traceback(None)  # its frames keep the model
    except KeyboardInterrupt:
        if comm.get_world_size() > 1:  # torch would take it for an end without error
            sys.exit(INTERRUPTED)
        raise
    if stopped and comm.get_world_size() > 1:  # before one of the others can have ended
        ignore_stop_signals()
    leave_group()
    if stopped:
        raise stopped
    return results


def prepare_and_start(cfg: CfgNode, args: Namespace, peers: Peers) -> None:
    """:func:`prepare`, then :func:`run_in_group` here or in processes that are waited for."""
    with loading_once() as loaded:
        num_processes = prepare(cfg, args.num_gpus, peers, args.eval_only)
        cfg.freeze()
        # one that is among those that others have started waits for none
        waits = not peers.place.starter and num_processes * args.num_machines > 1
        if waits:  # those that it starts load themselves
            loaded.clear()
        with passing_on_signals() if waits else nullcontext():
            start(run_in_group, num_processes, peers.place, (cfg, args))


def main(argv: Optional[List[str]] = None, program: str = "train_net.py") -> int:
    """
    Args:
        argv: command line without the program's name; ``sys.argv`` if None.
        program: its name, as messages tell it.

    Returns:
        exit status: 0; 1 after an error of the user, told in one sentence; 128 + its number after
        a signal, see :mod:`.stop_signals`.
    """
    parser = default_argument_parser(EXAMPLES.format(program))
    parser.prog = program
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of every error, yours too"
    )
    args = parser.parse_args(argv)
    peers = None
    try:
        peers = Peers(find_place(args, os.environ))
        cfg = load_config(args.config_file, args.opts)
        setup_logging(cfg, peers.place.rank)
        prepare_and_start(cfg, args, peers)
    except Stopped as stopped:
        return stopped.code
    except KeyboardInterrupt:
        print(f"{program}: interrupted outside of training: nothing to save", file=sys.stderr)
        return INTERRUPTED
    except ProcessExitedException as error:
        status = status_of_signal(error.exit_code)
        if status is None and error.exit_code != 1:  # 1: other results than expected, told
            raise
        return status or 1
    except SystemExit:  # of Detectron2, where results are not those that were expected
        if peers:
            peers.is_first_to_fail()
        raise
    except Exception as error:
        is_first = peers.is_first_to_fail() if peers else is_first_of_machine(os.environ)
        sentence = user_sentence(error)
        if is_first and sentence is None:
            raise
        if args.debug:
            traceback.print_exc()
        if is_first:
            print(f"{program}: {sentence}", file=sys.stderr)
        else:
            logger.error("This process ends, as another has ended with an error")
            if peers is None:  # launchers end all when one has ended: the first may tell it later
                time.sleep(_TIME_TO_TELL)
        return 1
    return 0


def user_sentence(error: Exception) -> Optional[str]:
    """The sentence for the user, None for an error that is not the user's.

    An error of a data loading worker or of another process brings its traceback along; its last
    line is ours.
    """
    if not isinstance(error, (UsageError, DatasetError, ProcessRaisedException)):
        return None
    last = str(error).strip().splitlines()[-1]
    for kind in (UsageError, DatasetError):
        prefix = f"{kind.__module__}.{kind.__name__}: "
        if last.startswith(prefix):
            return last[len(prefix) :]
    return None if isinstance(error, ProcessRaisedException) else one_line(error)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def setup_logging(cfg: CfgNode, rank: Optional[int] = None) -> None:
    """Log this package where Detectron2 logs itself; a second call in a process is harmless.

    Args:
        cfg: names ``OUTPUT_DIR``.
        rank: of a process that has not joined the others yet.

    Raises:
        UsageError: ``OUTPUT_DIR`` cannot be written.
    """
    rank = comm.get_rank() if rank is None else rank
    try:
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="knet")
    except OSError as error:
        raise UsageError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written ({one_line(error)}): choose another"
        ) from error
    tidy_loggers()
    write_any_text()
