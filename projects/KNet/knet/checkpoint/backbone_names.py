"""Backbones: the names of torchvision, mmdet, mmseg and of the original Swin, and Detectron2's."""

from typing import Dict, Iterable

import torch

from .renaming import Table

__all__ = [
    "DEEP_STEM_RESNET",
    "PYRAMID",
    "RESNET",
    "SWIN",
    "backbone_table",
    "from_unfold_order",
    "swap_patch_merging",
    "to_unfold_order",
]

_RESNET_BLOCK = [
    ("conv2.conv_offset.{p}", "conv2_offset.{p}"),
    ("conv{n}.{p}", "conv{n}.{p}"),
    ("bn{n}.{p}", "conv{n}.norm.{p}"),
    ("downsample.0.{p}", "shortcut.{p}"),
    ("downsample.1.{p}", "shortcut.norm.{p}"),
]
_RESNET_STAGES = [
    (f"layer{i}.{{b}}.{theirs}", f"res{i + 1}.{{b}}.{ours}")
    for i in range(1, 5)
    for theirs, ours in _RESNET_BLOCK
]
# Torchvision's, which mmdet kept
RESNET: Table = [
    ("conv1.{p}", "stem.conv1.{p}"),
    ("bn1.{p}", "stem.conv1.norm.{p}"),
    *_RESNET_STAGES,
]
# mmseg's "V1c": convolutions and norms of the stem are counted through, ReLUs too
DEEP_STEM_RESNET: Table = [
    *(
        pair
        for i in range(3)
        for pair in (
            (f"stem.{3 * i}.{{p}}", f"stem.conv{i + 1}.{{p}}"),
            (f"stem.{3 * i + 1}.{{p}}", f"stem.conv{i + 1}.norm.{{p}}"),
        )
    ),
    *_RESNET_STAGES,
]
# mmdet's and mmseg's; Detectron2 has the names of the original
SWIN: Table = [
    ("patch_embed.projection.{p}", "patch_embed.proj.{p}"),
    ("patch_embed.norm.{p}", "patch_embed.norm.{p}"),
    ("norm{n}.{p}", "norm{n}.{p}"),
    *(
        (f"stages.{{l}}.{theirs}.{{p}}", f"layers.{{l}}.{ours}.{{p}}")
        for theirs, ours in [
            ("blocks.{b}.norm{n}", "blocks.{b}.norm{n}"),
            ("blocks.{b}.attn.w_msa", "blocks.{b}.attn"),
            ("blocks.{b}.attn.w_msa.qkv", "blocks.{b}.attn.qkv"),
            ("blocks.{b}.attn.w_msa.proj", "blocks.{b}.attn.proj"),
            ("blocks.{b}.ffn.layers.0.0", "blocks.{b}.mlp.fc1"),
            ("blocks.{b}.ffn.layers.1", "blocks.{b}.mlp.fc2"),
            ("downsample.norm", "downsample.norm"),
            ("downsample.reduction", "downsample.reduction"),
        ]
    ),
]
# mmdet's FPN, called neck there
PYRAMID: Table = [
    (f"{theirs}.{i}.conv.{{p}}", f"{ours}{i + 2}.{{p}}")
    for i in range(4)
    for theirs, ours in (("lateral_convs", "fpn_lateral"), ("fpn_convs", "fpn_output"))
]


def backbone_table(names: Iterable[str]) -> Table:
    """The table for a backbone's names, theirs or ours, whatever stands before them."""
    padded = [f".{name}" for name in names]
    if any(".patch_embed." in name or ".blocks." in name for name in padded):
        return SWIN
    deep = any(".stem.0." in name or ".stem.conv2." in name for name in padded)
    return DEEP_STEM_RESNET if deep else RESNET


def from_unfold_order(merging: torch.Tensor) -> torch.Tensor:
    """Input channels of Swin's patch merging: mmdet's and mmseg's order -> the original's.

    Channel c of the pixel (dy, dx) of a 2 x 2 patch stands at 4 c + 2 dy + dx in theirs and at
    (dy + 2 dx) C + c in the original and in Detectron2.

    Args:
        merging: (..., 4 C), the weight of the reduction or a parameter of its norm.
    """
    c, dy, dx = -3, -2, -1
    pixels = merging.unflatten(-1, (merging.shape[-1] // 4, 2, 2))
    return pixels.movedim((dx, dy, c), (-3, -2, -1)).flatten(-3)


def to_unfold_order(merging: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`from_unfold_order`."""
    dx, dy, c = -3, -2, -1
    pixels = merging.unflatten(-1, (2, 2, merging.shape[-1] // 4))
    return pixels.movedim((c, dy, dx), (-3, -2, -1)).flatten(-3)


def swap_patch_merging(state_dict: Dict[str, torch.Tensor], swap) -> Dict[str, torch.Tensor]:
    """Apply one of the two functions above to the patch mergings among Swin's tensors."""
    return {
        name: swap(tensor) if _is_patch_merging(name) else tensor
        for name, tensor in state_dict.items()
    }


def _is_patch_merging(name: str) -> bool:
    return ".downsample.norm." in name or ".downsample.reduction." in name
