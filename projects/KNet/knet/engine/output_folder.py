"""OUTPUT_DIR belongs to one run: an earlier one is set aside, and no two write at once."""

import logging
import os
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Iterator, List

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from ..errors import UsageError
from .run_folder import RunFolder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["FILES_OF_RUN", "only_run_in", "own_output_folder", "set_earlier_run_aside"]

logger = logging.getLogger(__name__)

# What tells of a training in a folder, and what else it leaves
_RUN = ("last_checkpoint", "metrics.json", "model_[0-9]*.pth", "model_final.pth")
FILES_OF_RUN = (
    *_RUN,
    "*_run_id.txt",
    "config.yaml",
    "events.out.tfevents.*",
    "inference",
    "model_best.*",
    "model.pth",
    "model.safetensors",
    "pictures",
    "run.png",
)
_LOCK = ".training.lock"


@contextmanager
def own_output_folder(cfg: CfgNode, *, resume: bool) -> Iterator[None]:
    """``OUTPUT_DIR`` for a training, to be asked for in all processes before anything is written.

    ``MODEL.WEIGHTS`` of an earlier run there are found where they are then.

    Raises:
        UsageError: another training is in it, or it cannot be written.
    """
    with only_run_in(cfg.OUTPUT_DIR) if comm.is_main_process() else nullcontext():
        weights = cfg.MODEL.WEIGHTS
        if comm.is_main_process():
            goes_on = resume and RunFolder(nn.Identity(), cfg.OUTPUT_DIR).has_checkpoint()
            if resume and not goes_on:
                logger.warning(
                    f"--resume: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint, so that a new run "
                    "starts, from MODEL.WEIGHTS"
                )
            if not goes_on:
                weights = set_earlier_run_aside(cfg)
        weights = comm.all_gather(weights)[0]  # the other processes wait
        if weights != cfg.MODEL.WEIGHTS:
            cfg.defrost()
            cfg.MODEL.WEIGHTS = weights
            cfg.freeze()
        yield


@contextmanager
def only_run_in(folder: str) -> Iterator[None]:
    """Keep other trainings out of a folder while the block runs; a process that dies lets go.

    Raises:
        UsageError: another training is in it, or it cannot be written.
    """
    lock = Path(folder, _LOCK)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise UsageError(
            f"OUTPUT_DIR {folder} cannot be written ({error}): choose another"
        ) from error
    with open(lock, "ab") as file:
        try:
            # of this process alone: a loader worker that outlives it a little does not have it
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UsageError(
                f"another training is writing to OUTPUT_DIR {folder}: wait for its end, or choose "
                "another OUTPUT_DIR"
            ) from error
        except OSError:
            logger.warning(f"The disk of {folder} has no locks: start no other training there")
        yield


def set_earlier_run_aside(cfg: CfgNode) -> str:
    """Move what an earlier training left in ``OUTPUT_DIR`` into a folder ``run_<number>`` there.

    Returns:
        ``MODEL.WEIGHTS``, the new path if they were among it.
    """
    folder, weights = Path(cfg.OUTPUT_DIR), cfg.MODEL.WEIGHTS
    if not _found(folder, _RUN):
        return weights
    number = 1
    while (folder / f"run_{number}").exists():
        number += 1
    aside = folder / f"run_{number}"
    aside.mkdir()
    weights_file, *query = cfg.MODEL.WEIGHTS.partition("?")
    for path in _found(folder, FILES_OF_RUN):
        if os.path.realpath(path) == os.path.realpath(weights_file):
            weights = "".join((str(aside / path.name), *query))
        path.rename(aside / path.name)
    for log in folder.glob("log.txt*"):
        # it is open for appending already, in other processes too
        shutil.copyfile(log, aside / log.name)
        os.truncate(log, 0)
    logger.warning(
        f"OUTPUT_DIR {folder} held an earlier run, which is in {aside} now: to go on with that "
        f"one instead, stop this one, and start with --resume and OUTPUT_DIR {aside}"
    )
    if weights != cfg.MODEL.WEIGHTS:
        logger.warning(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} of that run are in {weights} now")
    return weights


def _found(folder: Path, patterns) -> List[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})
