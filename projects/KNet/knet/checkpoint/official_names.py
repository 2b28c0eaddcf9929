"""The official K-Net parameters and ours, one to the other.

All tensors keep their values; only the input channels of Swin's patch merging change their order.
Both sides keep classes things-first. MMSegmentation's K-Net has the names of the authors' semantic
models.
"""

from typing import Dict, Iterable, List, Tuple

import torch

from .backbone_names import (
    PYRAMID,
    SWIN,
    backbone_table,
    from_unfold_order,
    swap_patch_merging,
    to_unfold_order,
)
from .head_names import DETECTION_HEADS, base_head_table, update_table
from .renaming import Table, prefixed, rename, reversed_table

__all__ = ["from_official", "is_of_network", "is_semantic", "to_official"]

_OUR_BASE, _OUR_UPDATES = "sem_seg_head.base_head.", "sem_seg_head.kernel_update_heads"
# A plain model (the authors' baseline) has no stage in front of the head's name
_THEIR_BASE, _THEIR_PLAIN_BASE = "decode_head.kernel_generate_head.", "decode_head."
_THEIR_UPDATES = "decode_head.kernel_update_head"
_MODULES = {
    *("backbone", "neck", "rpn_head", "roi_head", "decode_head", "auxiliary_head"),
    *("kernel_head", "kernel_update_heads", "sem_seg_head"),
}


def from_official(
    state_dict: Dict[str, torch.Tensor],
) -> Tuple[Dict[str, torch.Tensor], List[str]]:
    """Official names and order -> this project's.

    Args:
        state_dict: of the authors' implementation or of MMSegmentation, whole or in part; without
            any name of a semantic head (``decode_head``, ``auxiliary_head``) or of its deep stem it
            is taken as a detection model's.

    Returns:
        the tensors under our names, and the names that have no counterpart here
        (``num_batches_tracked`` counters of a frozen BatchNorm are among the former).
    """
    table, is_swin = _table(state_dict)
    renamed, unknown = rename(state_dict, table)
    return (swap_patch_merging(renamed, from_unfold_order) if is_swin else renamed), unknown


def to_official(state_dict: Dict[str, torch.Tensor]) -> Tuple[Dict[str, torch.Tensor], List[str]]:
    """This project's names and order -> the official ones; see :func:`from_official`."""
    table, is_swin = _table(state_dict)
    renamed, unknown = rename(state_dict, reversed_table(table))
    return (swap_patch_merging(renamed, to_unfold_order) if is_swin else renamed), unknown


def is_of_network(name: str) -> bool:
    """Whether a tensor, under its official name or ours, is of one of the network's modules.

    Others are what a framework keeps beside them, such as mmcv's running averages ``ema_*``.
    """
    return name.split(".")[0] in _MODULES


def is_semantic(names: Iterable[str]) -> bool:
    """Whether names, theirs or ours, are those of a semantic model."""
    names = list(names)
    if any(n.startswith(("decode_head.", "auxiliary_head.", "sem_seg_head.")) for n in names):
        return True
    heads = ("neck.", "rpn_head.", "roi_head.", "kernel_head.", "kernel_update_heads.")
    if any(n.startswith((*heads, "backbone.bottom_up.", "backbone.fpn_")) for n in names):
        return False
    # of the backbone alone: its deep stem, or our names without a pyramid around them
    marks = ("backbone.stem.", "backbone.res", "backbone.layers.", "backbone.patch_embed.proj.")
    return any(n.startswith(marks) for n in names)


def _table(names: Iterable[str]) -> Tuple[Table, bool]:
    """The table for a model, and whether its backbone is Swin."""
    names = list(names)
    backbone = backbone_table(name for name in names if name.startswith("backbone."))
    if is_semantic(names):
        return _semantic_table(names, backbone), backbone is SWIN
    table = prefixed(backbone, "backbone.", "backbone.bottom_up.")
    table += prefixed(PYRAMID, "neck.", "backbone.")
    return [*table, *DETECTION_HEADS], backbone is SWIN


def _semantic_table(names: List[str], backbone: Table) -> Table:
    updated = any(n.startswith((_THEIR_BASE, _THEIR_UPDATES, _OUR_UPDATES)) for n in names)
    their_base = _THEIR_BASE if updated else _THEIR_PLAIN_BASE
    inside = [n[len(p) :] for p in (their_base, _OUR_BASE) for n in names if n.startswith(p)]
    return [
        *prefixed(backbone, "backbone.", "backbone."),
        *prefixed(base_head_table(inside), their_base, _OUR_BASE),
        *update_table(_THEIR_UPDATES, _OUR_UPDATES),
        *prefixed(base_head_table([]), "auxiliary_head.", "sem_seg_head.auxiliary_head."),
    ]
