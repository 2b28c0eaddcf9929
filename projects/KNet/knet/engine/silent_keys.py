"""Keys that change what a model's weights compute, and that no tensor tells; a file may."""

import logging
import re
from functools import reduce
from typing import Any, Dict, Iterable, Optional

from detectron2.config import CfgNode

from ..checkpoint.description import config_of
from ..checkpoint.fit import OTHER_CLASSES
from ..errors import UsageError
from .model_file import ModelInfo

__all__ = ["compare_silent_keys"]

logger = logging.getLogger(__name__)

_BACKBONE = r"backbone\..+"
_RESNET = r"backbone\.(bottom_up\.)?res\d\..+"
_TIMM = r"backbone\.(bottom_up\.)?model\..+"
# names of the tensors that mean something else where the key is another
_PARTS: Dict[str, str] = {
    "MODEL.RESNETS.STRIDE_IN_1X1": _RESNET,
    "MODEL.RESNETS.RES4_DILATION": _RESNET,
    "MODEL.RESNETS.RES5_DILATION": _RESNET,
    "MODEL.TIMM.NAME": _TIMM,
    "MODEL.TIMM.OUTPUT_STRIDE": _TIMM,
    "MODEL.FPN.FUSE_TYPE": r"backbone\.fpn_.+",
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": r"sem_seg_head\.(base_head\.)?aspp.+",
    "MODEL.KNET.NUM_GROUPS": r"(neck|kernel_head)\..+",
    "MODEL.KNET.NECK.STRIDE": r"neck\..+",
    "MODEL.KNET.KERNEL_HEAD.STUFF_SCORES": r"kernel_head\.point_proj\..+",
    "MODEL.KNET.KERNEL_UPDATE.NUM_HEADS": r"(.+\.)?kernel_update_heads\.\d+\.attention\..+",
}
# of an image's values, or of results too: another may be meant
_CHOICES: Dict[str, str] = {
    "MODEL.PIXEL_MEAN": _BACKBONE,
    "MODEL.PIXEL_STD": _BACKBONE,
    "INPUT.FORMAT": _BACKBONE,
    "INPUT.VALUE_RANGE": _BACKBONE,
    "MODEL.KNET.MASK_THRESHOLD": r"kernel_head\..+",
}


def compare_silent_keys(
    description: Any,
    info: Optional[ModelInfo],
    taken: Iterable[str],
    *,
    path: str,
    complete: bool,
    purpose: str,
) -> None:
    """Is a file's model built as this one is, as far as no tensor tells?

    MODEL.KNET.KERNEL_UPDATE.RESIDUAL is another such key; the stages themselves know it.

    Args:
        description: what the file tells, see :meth:`ModelInfo.to_plain`; None if nothing.
        info: of the model; None if it does not know its config.
        taken: the model's names of what was taken from the file.
        path: of the file, for the sentence.
        complete: nothing of it is learned anew.
        purpose: see :func:`knet.checkpoint.fit.leave_out_classes`.

    Raises:
        UsageError: it is not, and nothing would be learned anew.
    """
    theirs, taken = config_of(description), list(taken)
    if theirs is None or info is None:
        return
    for key, names in {**_PARTS, **_CHOICES}.items():
        was, now = _value(theirs, key), _value(info.cfg, key)
        if was == now or not any(re.fullmatch(names, name) for name in taken):
            continue
        if key.endswith("STUFF_SCORES") and all(each.isthing for each in info.classes):
            continue
        difference = f"{path} is of a model that was trained with {key} {was}, this one has {now}"
        if key in _CHOICES:
            logger.warning(f"{difference}: set it to {was}, unless that is meant")
        elif complete:
            other = f", or {OTHER_CLASSES[purpose]}" if purpose == "resume" else ""
            raise UsageError(f"{difference}: set {key} to {was}{other}")
        else:
            logger.warning(f"{difference}: what it changes must be learned anew")


def _value(cfg: CfgNode, key: str) -> Any:
    value = reduce(getattr, key.split("."), cfg)
    if key == "MODEL.TIMM.NAME":
        return value.split(".")[0]  # behind it is which weights timm would download
    return list(value) if isinstance(value, (list, tuple)) else value
