"""Everything behind the backbone: the authors' names and ours."""

from typing import Iterable, Set

from .renaming import Table, conv_norm, prefixed

__all__ = ["DETECTION_HEADS", "base_head_table", "update_table"]

# An update stage; detection and semantic models have the same
STAGE: Table = [
    (f"{theirs}.{{p}}", f"{ours}.{{p}}")
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


def update_table(theirs: str, ours: str) -> Table:
    """All update stages, which are numbered behind these prefixes."""
    return prefixed(STAGE, f"{theirs}.{{s}}.", f"{ours}.{{s}}.")


_FPN = "rpn_head.localization_fpn"
DETECTION_HEADS: Table = [
    *conv_norm(f"{_FPN}.convs_all_levels.{{l}}.conv{{n}}", "neck.levels.{l}.conv{n}", "gn"),
    *conv_norm(f"{_FPN}.conv_pred", "neck.instance_conv", "gn"),
    *conv_norm(f"{_FPN}.aux_convs.0", "neck.semantic_conv", "gn"),
    *conv_norm("rpn_head.loc_convs.0", "kernel_head.instance_conv", "gn"),
    *conv_norm("rpn_head.seg_convs.0", "kernel_head.semantic_conv", "gn"),
    ("rpn_head.init_kernels.{p}", "kernel_head.instance_kernels.{p}"),
    ("rpn_head.conv_seg.{p}", "kernel_head.semantic_kernels.{p}"),
    *update_table("roi_head.mask_head", "kernel_update_heads"),
]

# Heads of semantic models: (theirs, ours) of their convolutions
_BASE_HEADS = {
    "fcn": [("convs.{i}", "convs.{i}"), ("conv_cat", "fuse_conv")],
    "psp": [("psp_modules.{i}.1", "pyramid_pooling.convs.{i}"), ("bottleneck", "fuse_conv")],
    "aspp": [
        ("image_pool.1", "image_conv"),
        ("aspp_modules.{i}", "aspp_convs.{i}"),
        ("bottleneck", "fuse_conv"),
    ],
    "uper": [
        ("psp_modules.{i}.1", "pyramid_pooling.convs.{i}"),
        ("bottleneck", "pyramid_conv"),
        ("lateral_convs.{i}", "lateral_convs.{i}"),
        ("fpn_convs.{i}", "fpn_convs.{i}"),
        ("fpn_bottleneck", "fuse_conv"),
    ],
}
_CLASSIFIER = [("conv_seg.{p}", "predictor.1.{p}")]


def base_head_table(names: Iterable[str]) -> Table:
    """The table of a semantic head, told by its names, theirs or ours, without a prefix."""
    table = list(_CLASSIFIER)
    for theirs, ours in _BASE_HEADS[_kind_of_base_head({name.split(".")[0] for name in names})]:
        table += conv_norm(theirs, ours, "bn")
    return table


def _kind_of_base_head(modules: Set[str]) -> str:
    if modules & {"lateral_convs", "fpn_convs", "fpn_bottleneck", "pyramid_conv"}:
        return "uper"
    if modules & {"psp_modules", "pyramid_pooling"}:
        return "psp"
    if modules & {"aspp_modules", "image_pool", "aspp_convs", "image_conv"}:
        return "aspp"
    return "fcn"
