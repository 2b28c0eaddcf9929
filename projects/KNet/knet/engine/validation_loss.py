"""The losses of a training on the images it is evaluated on (``TEST.VALIDATION_LOSS``)."""

import itertools
import logging
from contextlib import contextmanager
from typing import Dict, Iterable, Iterator, List, Tuple

import torch
from detectron2.data import build_detection_test_loader
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.dataset_mapper import KNetDatasetMapper
from ..data.ground_truth import is_annotated
from ..data.random_state import keep_random_state
from ..data.training_images import load_dicts
from ..modeling.normalizers import each_process_alone
from .stop_signals import StoppableLoader

__all__ = ["validation_losses"]

logger = logging.getLogger(__name__)

_SEED = 0  # of points that a loss draws: the same at each evaluation


def validation_losses(cfg, model: nn.Module) -> Dict[str, float]:
    """Mean losses over the images of ``DATASETS.TEST``, resized as in a test, one a batch.

    Neither weights, BatchNorm statistics, nor the random numbers of the training change.

    Args:
        cfg: the config of the training.
        model: without the wrapper of several processes, in any mode.

    Returns:
        {"val_total_loss", "val_<name of each loss>": mean}, the same in every process; empty if no
        image has ground truth.
    """
    dicts = _annotated(cfg)
    if not dicts:
        logger.warning(
            "TEST.VALIDATION_LOSS: no image of DATASETS.TEST has ground truth, there is no loss"
        )
        return {}
    mapper = KNetDatasetMapper(cfg, is_train=False)  # resizes as in a test
    mapper.is_train = True  # and reads the truth
    loader = StoppableLoader(
        build_detection_test_loader(dicts, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    )
    means = _mean_over_workers(*_sum_over_batches(model, loader))
    logger.info("Validation loss of %d images: %.4f", len(dicts), means["val_total_loss"])
    return means


def _annotated(cfg) -> List[Dict]:
    dicts = list(itertools.chain(*map(load_dicts, cfg.DATASETS.TEST)))
    # an image of an instance data set that has no object counts too
    return [d for d in dicts if is_annotated(d) or "annotations" in d]


@torch.no_grad()
def _sum_over_batches(model: nn.Module, loader: Iterable) -> Tuple[Dict[str, float], int]:
    """{loss: sum}, and the number of batches, of this process."""
    sums: Dict[str, float] = {}
    count = 0
    # what a model of Detectron2 puts into the storage is of the training alone
    with keep_random_state(), EventStorage(), each_process_alone(), _in_loss_mode(model):
        for batch in loader:
            torch.manual_seed(_SEED)
            losses = {name: loss.item() for name, loss in model(batch).items()}
            losses["total_loss"] = sum(losses.values())
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss
            count += 1
    return sums, count


@contextmanager
def _in_loss_mode(model: nn.Module) -> Iterator[None]:
    """The model gives losses, but nothing drops out and BatchNorm uses what it has learned."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for module in model.modules():
        is_random = isinstance(module, nn.MultiheadAttention) or "Drop" in type(module).__name__
        if is_random or isinstance(module, _BatchNorm):
            module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _mean_over_workers(sums: Dict[str, float], count: int) -> Dict[str, float]:
    """A worker without images has no sums."""
    gathered = comm.all_gather((sums, count))
    total = sum(count for _, count in gathered)
    names = dict.fromkeys(name for sums, _ in gathered for name in sums)
    return {f"val_{n}": sum(sums.get(n, 0.0) for sums, _ in gathered) / total for n in names}
