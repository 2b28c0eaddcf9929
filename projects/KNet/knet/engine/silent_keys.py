"""Keys that change what a model's weights compute, and that no tensor tells; a file may."""

import logging
import re
from functools import reduce
from typing import Any, Collection, Dict, NamedTuple, Optional, Tuple

from detectron2.config import CfgNode
from torch import nn

from ..checkpoint.description import config_of
from ..checkpoint.fit import OTHER_CLASSES
from ..errors import UsageError
from .model_file import ModelInfo

__all__ = ["Loading", "compare_silent_keys", "compare_stages"]

logger = logging.getLogger(__name__)

IOU_BRANCH = "MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH"

_OF_STAGE = re.compile(r"((?:.*\.)?kernel_update_heads\.\d+)\..+")
# by MODEL.KNET.KERNEL_UPDATE.RESIDUAL: what update stages do
_STAGES_IN_WORDS = {False: "make masks anew", True: "add to the masks of the stage before"}

_BACKBONE = r"backbone\..+"
_STAGE = r"backbone\.(bottom_up\.)?res{}\..+"
_BOTTLENECK = r"backbone\.(bottom_up\.)?res\d\.\d+\.conv3\..+"
_TIMM = r"backbone\.(bottom_up\.)?model\..+"
# of our ASPP head and of Detectron2's DeepLab V3 and V3+
_ASPP = r"sem_seg_head\.(base_head\.)?(aspp|decoder\.\w+\.project_conv\.convs\.).+"
# names of the tensors that mean something else where the key is another
_PARTS: Dict[str, str] = {
    "MODEL.RESNETS.STRIDE_IN_1X1": _BOTTLENECK,  # ResNet-18 and 34 have none
    "MODEL.RESNETS.RES4_DILATION": _STAGE.format(4),
    "MODEL.RESNETS.RES5_DILATION": _STAGE.format(5),
    "MODEL.RESNETS.RES5_MULTI_GRID": _STAGE.format(5),
    "MODEL.TIMM.NAME": _TIMM,
    "MODEL.TIMM.OUTPUT_STRIDE": _TIMM,
    "MODEL.FPN.FUSE_TYPE": r"backbone\.fpn_.+",
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": _ASPP,
    "MODEL.KNET.NUM_GROUPS": r"(neck|kernel_head)\..+",
    "MODEL.KNET.NECK.STRIDE": r"neck\..+",
    "MODEL.KNET.KERNEL_HEAD.STUFF_SCORES": r"kernel_head\.point_proj\..+",
    "MODEL.KNET.KERNEL_UPDATE.NUM_HEADS": r"(.+\.)?kernel_update_heads\.\d+\.attention\..+",
}
# what Detectron2's DeepLab has added to its ResNet's keys: builders that do not look at it, and the
# value that they build with
_RESNET_BUILDERS = (
    *("build_resnet_backbone", "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"),
    "build_knet_resnet_fpn_backbone",
)
_NOT_OF_BUILDERS: Dict[str, Tuple[Collection[str], Any]] = {
    "MODEL.RESNETS.RES4_DILATION": (_RESNET_BUILDERS, 1),
    "MODEL.RESNETS.RES5_MULTI_GRID": (
        (*_RESNET_BUILDERS, "build_deep_stem_resnet_backbone"),
        [1, 1, 1],
    ),
}
# of an image's values, or of results too: another may be meant
_CHOICES: Dict[str, str] = {
    "MODEL.PIXEL_MEAN": _BACKBONE,
    "MODEL.PIXEL_STD": _BACKBONE,
    "INPUT.FORMAT": _BACKBONE,
    "INPUT.VALUE_RANGE": _BACKBONE,
    "MODEL.KNET.MASK_THRESHOLD": r"kernel_head\..+",
    IOU_BRANCH: r"kernel_update_heads\..+",
}


class Loading(NamedTuple):
    """Of a file into a model.

    Attributes:
        path: of the file, for the sentences.
        taken: the model's names of what was taken from it.
        complete: nothing is learned anew.
        purpose: see :func:`knet.checkpoint.fit.leave_out_classes`.
    """

    path: str
    taken: Collection[str]
    complete: bool
    purpose: str

    def refuse(self, difference: str, key: str, value: Any) -> None:
        """
        Raises:
            UsageError: always.
        """
        other = f", or {OTHER_CLASSES[self.purpose]}" if self.purpose == "resume" else ""
        raise UsageError(f"{difference}: set {key} to {value}{other}")


def compare_stages(theirs: Optional[bool], model: nn.Module, loading: Loading) -> None:
    """Do update stages mean the same in the file and in the model? The stages themselves know.

    Args:
        theirs: MODEL.KNET.KERNEL_UPDATE.RESIDUAL of the file, None if it tells none.

    Raises:
        UsageError: they do not, and nothing would be learned anew.
    """
    # in the model's order: the first one speaks for all
    of_stages = (_OF_STAGE.fullmatch(n) for n in model.state_dict() if n in loading.taken)
    taken = next((match.group(1) for match in of_stages if match), None)
    if taken is None:
        return
    # a stage of another kind may know no such choice
    ours = getattr(model.get_submodule(taken), "residual", None)
    if theirs is None or ours is None or theirs == ours:
        return
    key = "MODEL.KNET.KERNEL_UPDATE.RESIDUAL"
    difference = (
        f"the update stages of {loading.path} {_STAGES_IN_WORDS[theirs]} ({key} {theirs}), those "
        f"of this model {_STAGES_IN_WORDS[ours]}"
    )
    if loading.complete:
        loading.refuse(difference, key, theirs)
    logger.warning(f"{difference}: they must be learned anew")


def compare_silent_keys(description: Any, info: Optional[ModelInfo], loading: Loading) -> None:
    """Is a file's model built as this one is, as far as no tensor tells?

    Args:
        description: what the file tells, see :meth:`ModelInfo.to_plain`; None if nothing.
        info: of the model; None if it does not know its config.

    Raises:
        UsageError: it is not, and nothing would be learned anew.
    """
    theirs = config_of(description)
    if theirs is None or info is None:
        return
    for key, names in {**_PARTS, **_CHOICES}.items():
        was, now = _value(theirs, key), _value(info.cfg, key)
        if was == now or not any(re.fullmatch(names, name) for name in loading.taken):
            continue
        if key.endswith("STUFF_SCORES") and all(each.isthing for each in info.classes):
            continue
        if _is_fixed(info.cfg, key):
            key, was = "MODEL.BACKBONE.NAME", theirs.MODEL.BACKBONE.NAME
            now = info.cfg.MODEL.BACKBONE.NAME
        difference = (
            f"{loading.path} is of a model that was trained with {key} {was}, this one has {now}"
        )
        goes_on = loading.purpose == "resume" and key == IOU_BRANCH  # its optimizer knows more
        if key in _CHOICES and not goes_on:
            logger.warning(f"{difference}: set it to {was}, unless that is meant")
        elif loading.complete:
            loading.refuse(difference, key, was)
        else:
            logger.warning(f"{difference}: what it changes must be learned anew")


def _is_fixed(cfg: CfgNode, key: str) -> bool:
    """The builder of the backbone does not look at the key."""
    return key in _NOT_OF_BUILDERS and cfg.MODEL.BACKBONE.NAME in _NOT_OF_BUILDERS[key][0]


def _value(cfg: CfgNode, key: str) -> Any:
    """What a model is built with."""
    if _is_fixed(cfg, key):
        return _NOT_OF_BUILDERS[key][1]
    value = reduce(getattr, key.split("."), cfg)
    if key == "MODEL.TIMM.NAME":
        return value.split(".")[0]  # behind it is which weights timm would download
    return list(value) if isinstance(value, (list, tuple)) else value
