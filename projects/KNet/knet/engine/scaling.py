"""A recipe on another number of processes: one rule for batch, rate and schedule."""

import logging

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from ..errors import UsageError

__all__ = ["scale_to_processes"]

logger = logging.getLogger(__name__)


def scale_to_processes(cfg: CfgNode, num_processes: int) -> None:
    """Detectron2's rule (``SOLVER.REFERENCE_WORLD_SIZE``), before anything looks at the numbers.

    Args:
        cfg: not frozen; changed in place, as is what a checkpoint keeps of it.
        num_processes: on all machines.

    Raises:
        UsageError: no whole number of images a process.
    """
    solver = cfg.SOLVER
    reference = solver.REFERENCE_WORLD_SIZE
    if reference < 0 or (reference > 0 and solver.IMS_PER_BATCH % reference):
        raise UsageError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}: it must divide SOLVER.IMS_PER_BATCH "
            f"{solver.IMS_PER_BATCH}, or be 0 (nothing is scaled)"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, num_processes)
    for section, key in (
        ("SOLVER", "MAX_ITER"),
        ("SOLVER", "CHECKPOINT_PERIOD"),
        ("TEST", "EVAL_PERIOD"),
    ):
        if cfg[section][key] > 0:  # a period that is rounded to 0 would mean never
            scaled[section][key] = max(scaled[section][key], 1)
    cfg.merge_from_other_cfg(scaled)
    if reference not in (0, num_processes):  # Detectron2 tells it before anything logs
        logger.info(
            f"A recipe of {reference} processes is scaled to {num_processes}: "
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH}, BASE_LR {solver.BASE_LR:g}, MAX_ITER "
            f"{solver.MAX_ITER}, STEPS {solver.STEPS}, WARMUP_ITERS {solver.WARMUP_ITERS}"
        )
