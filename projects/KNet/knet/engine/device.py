"""GPUs if there are any, else the CPU: said in the log, never an error."""

import logging

import torch

from ..errors import UsageError

__all__ = ["select_device"]

logger = logging.getLogger(__name__)


def select_device(cfg, num_gpus: int, num_machines: int = 1) -> int:
    """Set ``MODEL.DEVICE`` to what the machine has and the user asked for.

    Args:
        cfg: not frozen; ``MODEL.DEVICE`` is changed to "cpu" where no GPU is to be used.
        num_gpus: wanted GPUs of this machine; 0 means CPU.
        num_machines: machines that train together; they must have that many GPUs each.

    Returns:
        the number of processes to start on this machine.
    """
    wants_gpu = num_gpus > 0 and cfg.MODEL.DEVICE.startswith("cuda")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_machines > 1 and (not wants_gpu or num_gpus > available):
        raise UsageError(
            f"--num-machines {num_machines} needs --num-gpus GPUs on each: {num_gpus} were asked "
            f"for, this machine has {available}"
        )
    if wants_gpu and available:
        if num_gpus > available:
            logger.warning("--num-gpus %d: only %d found, using these", num_gpus, available)
        return min(num_gpus, available)
    if wants_gpu:
        logger.warning("--num-gpus %d, but CUDA finds no GPU: running on the CPU", num_gpus)
    if cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.MODEL.DEVICE = "cpu"
    logger.info("Running on %s with %d threads", cfg.MODEL.DEVICE, torch.get_num_threads())
    return 1
