"""Which results a model makes: panoptic, instance, semantic."""

from typing import Iterable, Optional

from detectron2.modeling import GeneralizedRCNN
from torch import nn

from ..errors import UsageError

__all__ = ["KINDS", "choose_results"]

KINDS = ("panoptic", "instance", "semantic")


def choose_results(model: nn.Module, kind: Optional[str] = None, also: Iterable[str] = ()) -> str:
    """Let a model make the results that are asked for, and no others: each takes time and memory.

    Args:
        model: of ``load_model``. A ``KNet`` makes any kind, a Mask R-CNN instance results alone,
            other models semantic ones.
        kind: the main one; None: the first that the model's config switches on.
        also: others.

    Returns:
        the main kind.

    Raises:
        UsageError: the model does not make one of them.
    """
    switches = getattr(model, "postprocessor", None)
    if switches is None:
        only = "instance" if isinstance(model, GeneralizedRCNN) else "semantic"
        if {kind, *also} - {None, only}:
            raise UsageError(f"this model makes {only} results alone: choose no others")
        return only
    if kind is None:
        kind = next((each for each in KINDS if getattr(switches, f"{each}_on")), None)
    if kind is None:
        raise UsageError("all of MODEL.KNET.TEST.*_ON are False: name a kind of results")
    for each in KINDS:
        setattr(switches, f"{each}_on", each == kind or each in also)
    return kind
