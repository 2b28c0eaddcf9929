"""The official K-Net parameter names (detection models) and ours, one to the other.

Tensors need no change of shape or order: both sides keep classes things-first.
"""

import re
from typing import Dict, List, Tuple

import torch

__all__ = ["from_official", "to_official"]

# Pairs of templates: {p} stands for the last part of a name, other fields for numbers; both sides
# have the same.
_BLOCK = [
    ("conv2.conv_offset.{p}", "conv2_offset.{p}"),
    ("conv{n}.{p}", "conv{n}.{p}"),
    ("bn{n}.{p}", "conv{n}.norm.{p}"),
    ("downsample.0.{p}", "shortcut.{p}"),
    ("downsample.1.{p}", "shortcut.norm.{p}"),
]
_BACKBONE = [
    ("backbone.conv1.{p}", "backbone.bottom_up.stem.conv1.{p}"),
    ("backbone.bn1.{p}", "backbone.bottom_up.stem.conv1.norm.{p}"),
    *(
        (f"backbone.layer{i}.{{b}}.{theirs}", f"backbone.bottom_up.res{i + 1}.{{b}}.{ours}")
        for i in range(1, 5)
        for theirs, ours in _BLOCK
    ),
]
_PYRAMID = [
    (f"neck.{theirs}.{i}.conv.{{p}}", f"backbone.{ours}{i + 2}.{{p}}")
    for i in range(4)
    for theirs, ours in (("lateral_convs", "fpn_lateral"), ("fpn_convs", "fpn_output"))
]


def _conv_block(theirs: str, ours: str) -> List[Tuple[str, str]]:
    """A convolution with GroupNorm."""
    return [(f"{theirs}.conv.{{p}}", f"{ours}.{{p}}"), (f"{theirs}.gn.{{p}}", f"{ours}.norm.{{p}}")]


_FPN = "rpn_head.localization_fpn"
_NECK = [
    *_conv_block(f"{_FPN}.convs_all_levels.{{l}}.conv{{n}}", "neck.levels.{l}.conv{n}"),
    *_conv_block(f"{_FPN}.conv_pred", "neck.instance_conv"),
    *_conv_block(f"{_FPN}.aux_convs.0", "neck.semantic_conv"),
]
_KERNEL_HEAD = [
    *_conv_block("rpn_head.loc_convs.0", "kernel_head.instance_conv"),
    *_conv_block("rpn_head.seg_convs.0", "kernel_head.semantic_conv"),
    ("rpn_head.init_kernels.{p}", "kernel_head.instance_kernels.{p}"),
    ("rpn_head.conv_seg.{p}", "kernel_head.semantic_kernels.{p}"),
]
_STAGE = [
    (f"roi_head.mask_head.{{s}}.{theirs}.{{p}}", f"kernel_update_heads.{{s}}.{ours}.{{p}}")
    for theirs, ours in [
        ("feat_transform.conv", "feature_transform"),
        ("kernel_update_conv.dynamic_layer", "updater.feature_proj"),
        ("kernel_update_conv.input_layer", "updater.kernel_proj"),
        ("kernel_update_conv.gate_norm", "updater.gate_norm"),
        ("kernel_update_conv.input_gate", "updater.kernel_gate"),
        ("kernel_update_conv.input_norm_in", "updater.kernel_gate_norm"),
        ("kernel_update_conv.update_gate", "updater.feature_gate"),
        ("kernel_update_conv.norm_in", "updater.feature_gate_norm"),
        ("kernel_update_conv.norm_out", "updater.feature_norm"),
        ("kernel_update_conv.input_norm_out", "updater.kernel_norm"),
        ("kernel_update_conv.fc_layer", "updater.out_proj"),
        ("kernel_update_conv.fc_norm", "updater.out_norm"),
        ("attention.attn", "attention"),
        ("attention.attn.out_proj", "attention.out_proj"),
        ("attention_norm", "attention_norm"),
        ("ffn.layers.0.0", "feedforward.0"),
        ("ffn.layers.1", "feedforward.3"),
        ("ffn_norm", "feedforward_norm"),
        ("cls_fcs.{i}", "class_layers.{i}"),
        ("fc_cls", "class_proj"),
        ("mask_fcs.{i}", "mask_layers.{i}"),
        ("fc_mask", "mask_proj"),
    ]
]
_TABLE = [*_BACKBONE, *_PYRAMID, *_NECK, *_KERNEL_HEAD, *_STAGE]


def from_official(
    state_dict: Dict[str, torch.Tensor],
) -> Tuple[Dict[str, torch.Tensor], List[str]]:
    """Official names -> this model's names.

    Args:
        state_dict: of the authors' implementation.

    Returns:
        the same tensors under our names, and the names that have no counterpart here
        (``num_batches_tracked`` counters of a frozen BatchNorm are among the former).
    """
    return _rename(state_dict, _TABLE)


def to_official(state_dict: Dict[str, torch.Tensor]) -> Tuple[Dict[str, torch.Tensor], List[str]]:
    """This model's names -> official names; see :func:`from_official`."""
    return _rename(state_dict, [(ours, theirs) for theirs, ours in _TABLE])


def _rename(state_dict, table):
    rules = [(_pattern(source), re.sub(r"{(\w)}", r"\\g<\1>", target)) for source, target in table]
    renamed, unknown = {}, []
    for name, tensor in state_dict.items():
        for pattern, replacement in rules:
            match = pattern.fullmatch(name)
            if match:
                renamed[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(name)
    return renamed, unknown


def _pattern(template: str) -> "re.Pattern[str]":
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    pattern = pattern.replace("{p}", r"(?P<p>\w+)")
    return re.compile(re.sub(r"{(\w)}", r"(?P<\1>\\d+)", pattern))
