"""What can be wrong in ``MODEL.RESNETS``, found before anything is built."""

from typing import Sequence

from detectron2.utils import comm

from ...errors import UsageError

__all__ = ["check_resnet"]


def check_resnet(cfg, depths: Sequence[int]) -> None:
    """Raises UsageError for keys of ``MODEL.RESNETS`` that no ResNet can be built from.

    Args:
        depths: that the builder knows.
    """
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in depths:
        raise UsageError(
            f"MODEL.RESNETS.DEPTH is {resnets.DEPTH}: set it to one of "
            f"{', '.join(map(str, depths))}"
        )
    known = ("stem", "res2", "res3", "res4", "res5")
    if not resnets.OUT_FEATURES or not set(resnets.OUT_FEATURES) <= set(known):
        raise UsageError(
            f"MODEL.RESNETS.OUT_FEATURES is {list(resnets.OUT_FEATURES)}: name some of "
            f"{', '.join(known)}"
        )
    on_cpus = cfg.MODEL.DEVICE == "cpu" and comm.get_world_size() > 1
    if on_cpus and "SyncBN" in (resnets.NORM, cfg.MODEL.FPN.NORM):
        raise UsageError(
            "a NORM of SyncBN in MODEL.RESNETS or MODEL.FPN works among GPUs only: with "
            "MODEL.DEVICE cpu and several processes set it to naiveSyncBN or BN"
        )
    _check_deform_conv(resnets)


def _check_deform_conv(resnets) -> None:
    stages = resnets.DEFORM_ON_PER_STAGE
    if len(stages) != 4:
        raise UsageError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {list(stages)}: it needs four values, for res2 "
            "to res5"
        )
    if not any(stages):
        return
    if resnets.DEPTH < 50:
        raise UsageError(
            f"MODEL.RESNETS.DEPTH {resnets.DEPTH} has no deformable convolutions: set "
            "DEFORM_ON_PER_STAGE to [False, False, False, False] or DEPTH to 50 or more"
        )
