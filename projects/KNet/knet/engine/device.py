"""GPUs if there are any, else the CPU: said in the log, never an error."""

import logging

import torch

__all__ = ["select_device"]

logger = logging.getLogger(__name__)


def select_device(cfg, num_gpus: int) -> int:
    """Set ``MODEL.DEVICE`` to what the machine has and the user asked for.

    Args:
        cfg: not frozen; ``MODEL.DEVICE`` is changed to "cpu" where no GPU is to be used.
        num_gpus: wanted GPUs of this machine; 0 means CPU.

    Returns:
        the number of processes to start on this machine.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_gpus > 0 and available and cfg.MODEL.DEVICE.startswith("cuda"):
        if num_gpus > available:
            logger.warning("--num-gpus %d: only %d found, using these", num_gpus, available)
        return min(num_gpus, available)
    if num_gpus > 0 and not available and cfg.MODEL.DEVICE.startswith("cuda"):
        logger.warning("--num-gpus %d, but CUDA finds no GPU: running on the CPU", num_gpus)
    if cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.MODEL.DEVICE = "cpu"
    logger.info("Running on %s with %d threads", cfg.MODEL.DEVICE, torch.get_num_threads())
    return 1
