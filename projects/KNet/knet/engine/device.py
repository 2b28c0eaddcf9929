"""GPUs if there are any, else the CPU: said in the log, never an error."""

import logging

import torch

from ..errors import UsageError
from .launching import ALONE, Place

__all__ = ["select_device"]

logger = logging.getLogger(__name__)


def select_device(cfg, num_gpus: int, place: Place = ALONE) -> int:
    """Set ``MODEL.DEVICE`` to what the machine has and the user asked for.

    Args:
        cfg: not frozen; ``MODEL.DEVICE`` is changed to "cpu" where no GPU is to be used.
        num_gpus: wanted GPUs of this machine; 0 means CPU. Processes that have been started
            already have one each.
        place: of this process in the run; machines that train together must have the same.

    Returns:
        the number of processes on a machine.

    Raises:
        UsageError: no such device, or others count on GPUs that this machine does not have.
    """
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UsageError(f"MODEL.DEVICE is '{cfg.MODEL.DEVICE}': set it to cuda or cpu") from error
    wants_gpu = num_gpus > 0 and cfg.MODEL.DEVICE.startswith("cuda")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = place.local_size if place.starter else num_gpus
    if wants_gpu and (place.num_machines > 1 or available):
        _check_gpus_of_all(place, wanted, available)
    if not wants_gpu and place.num_machines > 1 and not place.starter:
        raise UsageError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE} on {place.num_machines} machines: set --num-gpus "
            "0, for one process on the CPU of each"
        )
    if wants_gpu and available:
        if wanted > available and not place.starter:
            logger.warning("--num-gpus %d: only %d found, using these", num_gpus, available)
        return wanted if place.starter else min(num_gpus, available)
    if wants_gpu:
        logger.warning("--num-gpus %d, but CUDA finds no GPU: running on the CPU", num_gpus)
    if cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.MODEL.DEVICE = "cpu"
    logger.info("Running on %s with %d threads", cfg.MODEL.DEVICE, torch.get_num_threads())
    return place.local_size if place.starter else 1


def _check_gpus_of_all(place: Place, wanted: int, available: int) -> None:
    """Fewer processes than the others expect would leave them waiting for ever."""
    # srun can let each process see its own GPU alone
    if wanted <= available or (place.starter == "srun" and available == 1):
        return
    if place.starter:
        raise UsageError(
            f"{place.starter} has started {wanted} processes on a machine with {available} GPUs: "
            "start one a GPU, or set --num-gpus 0 for the CPU"
        )
    if place.num_machines > 1:
        raise UsageError(
            f"--num-machines {place.num_machines} needs --num-gpus GPUs on each: {wanted} were "
            f"asked for, this machine has {available}; --num-gpus 0 takes the CPU of each"
        )
