"""Swin Transformer: Detectron2's class, buildable from a config and for any image size."""

import warnings
from typing import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.swin import (
    BasicLayer,
    PatchEmbed,
    SwinTransformer,
    SwinTransformerBlock,
    window_partition,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from ...errors import UsageError
from .pyramid import build_pyramid, check_pyramid_features

__all__ = ["Swin", "build_swin_backbone", "build_swin_fpn_backbone"]

_FEATURES = ("p0", "p1", "p2", "p3")


class Swin(SwinTransformer):
    """Detectron2's Swin Transformer (Liu et al., ICCV 2021) with what its constructor leaves out.

    That is images of any number of channels, stages behind the last output left out, frozen parts
    that stay in eval mode, and drop path and checkpointing that need neither timm nor an old
    torch. Images of any size will do: patches and windows are padded inside.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        out_features: Sequence[str] = _FEATURES,
        freeze_at: int = 0,
        use_checkpoint: bool = False,
    ):
        """
        Args:
            in_channels: of the image.
            embed_dim: channels of p0; every further stage has twice as many.
            depths: blocks of each stage.
            num_heads: attention heads of each stage.
            window_size: side of the attention windows, in tokens of 4 x 4 pixels at p0.
            mlp_ratio: hidden channels of the feed-forward layers per channel.
            drop_path_rate: of the last block; it rises linearly from 0 in the first.
            out_features: outputs, some of p0 to p3 (stride 4 to 32); each has a LayerNorm.
            freeze_at: 0 for nothing, 1 for the patch embedding, 2 for the first stage too, ...
            use_checkpoint: recompute activations in the backward pass.
        """
        out_indices = sorted(_FEATURES.index(name) for name in out_features)
        num_stages = out_indices[-1] + 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
            super().__init__(
                embed_dim=embed_dim,
                depths=depths[:num_stages],
                num_heads=num_heads[:num_stages],
                window_size=window_size,
                mlp_ratio=mlp_ratio,
                drop_path_rate=0.0,  # else Detectron2 asks for a module that timm gives up
                out_indices=out_indices,
                # theirs counts the patch embedding as 0 and as 1
                frozen_stages=freeze_at if freeze_at > 1 else freeze_at - 1,
            )
        if in_channels != 3:
            proj = self.patch_embed.proj
            self.patch_embed.proj = nn.Conv2d(
                in_channels, embed_dim, kernel_size=proj.kernel_size, stride=proj.stride
            )
        self.patch_embed.__class__ = _PatchEmbed  # SwinTransformer lets nobody choose these
        for layer in self.layers:
            layer.__class__ = _Layer
        blocks = [block for layer in self.layers for block in layer.blocks]
        for block, rate in zip(blocks, torch.linspace(0, drop_path_rate, sum(depths)).tolist()):
            if rate > 0:
                block.drop_path = StochasticDepth(rate, mode="row")
            block.__class__ = _CheckpointedBlock if use_checkpoint else _Block
        self._freeze_stages()

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        return {
            "in_channels": input_shape.channels,
            "embed_dim": cfg.MODEL.SWIN.EMBED_DIM,
            "depths": cfg.MODEL.SWIN.DEPTHS,
            "num_heads": cfg.MODEL.SWIN.NUM_HEADS,
            "window_size": cfg.MODEL.SWIN.WINDOW_SIZE,
            "mlp_ratio": cfg.MODEL.SWIN.MLP_RATIO,
            "drop_path_rate": cfg.MODEL.SWIN.DROP_PATH_RATE,
            "out_features": cfg.MODEL.SWIN.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "use_checkpoint": cfg.MODEL.SWIN.CHECKPOINT or cfg.MODEL.BACKBONE.CHECKPOINT,
        }

    @property
    def size_divisibility(self) -> int:
        return 0

    def train(self, mode: bool = True):
        super().train(mode)
        self._freeze_stages()
        return self


class _PatchEmbed(PatchEmbed):
    """The same, without questions about the size of the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        below, right = (-length % side for length, side in zip(x.shape[-2:], self.patch_size))
        return super().forward(F.pad(x, (0, right, 0, below)))


class _Layer(BasicLayer):
    """The same; sizes are whole numbers throughout, so that an export takes images of any size."""

    def forward(self, x: torch.Tensor, H: int, W: int):
        """Detectron2's: (B, H W, C) -> x, H, W, and the three for the next stage."""
        mask = self._mask(H, W, x.device).to(x.dtype)
        for block in self.blocks:
            block.H, block.W = H, W
            x = block(x, mask)
        if self.downsample is None:
            return x, H, W, x, H, W
        return x, H, W, self.downsample(x, H, W), (H + 1) // 2, (W + 1) // 2

    def _mask(self, height: int, width: int, device: torch.device) -> torch.Tensor:
        """(windows, tokens, tokens): -100 between tokens that only the shift brings together."""
        rows, columns = (self._regions(length, device) for length in (height, width))
        region = window_partition((3 * rows[:, None] + columns)[None, :, :, None], self.window_size)
        region = region.flatten(1)
        return torch.where(region[:, None] == region[:, :, None], 0.0, -100.0)

    def _regions(self, length: int, device: torch.device) -> torch.Tensor:
        """0, 1 or 2 along a side that is padded to whole windows, from the last window on."""
        padded = (length + self.window_size - 1) // self.window_size * self.window_size
        place = torch.arange(padded, device=device)
        return (place >= padded - self.window_size).long() + (place >= padded - self.shift_size)


class _Block(SwinTransformerBlock):
    """The same, without questions about the size of the map."""

    def forward(self, x: torch.Tensor, mask_matrix: torch.Tensor) -> torch.Tensor:
        """(B, H W, C) -> the same shape; the mask is for blocks whose windows are shifted."""
        batch, _, channels = x.shape
        height, width, side, shift = self.H, self.W, self.window_size, self.shift_size
        right, below = -width % side, -height % side
        windows = F.pad(
            self.norm1(x).view(batch, height, width, channels), (0, 0, 0, right, 0, below)
        )
        rows, columns = (height + below) // side, (width + right) // side
        if shift > 0:
            windows = torch.roll(windows, shifts=(-shift, -shift), dims=(1, 2))
        windows = window_partition(windows, side).flatten(1, 2)
        windows = self.attn(windows, mask=mask_matrix if shift > 0 else None)
        windows = windows.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        attended = windows.reshape(batch, rows * side, columns * side, channels)
        if shift > 0:
            attended = torch.roll(attended, shifts=(shift, shift), dims=(1, 2))
        x = x + self.drop_path(attended[:, :height, :width].reshape(batch, -1, channels))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class _CheckpointedBlock(_Block):
    """Keeps only its input for the backward pass (Detectron2's own way fails on newer torch)."""

    def forward(self, x: torch.Tensor, mask_matrix: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, mask_matrix, use_reentrant=False)


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg, input_shape: ShapeSpec) -> Swin:
    """Swin Transformer of ``MODEL.SWIN``; images need no padding.

    Raises:
        UsageError: numbers that do not fit together.
    """
    _check(cfg)
    return Swin(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Swin Transformer with a feature pyramid (p2 to p5) on its ``MODEL.FPN.IN_FEATURES``.

    ``MODEL.SWIN.OUT_FEATURES`` plays no part: features that the pyramid does not use would only
    have norms that never learn.

    Raises:
        UsageError: numbers that do not fit together.
    """
    _check(cfg)
    check_pyramid_features(cfg.MODEL.FPN.IN_FEATURES, _FEATURES)
    return build_pyramid(cfg, Swin(cfg, input_shape, out_features=cfg.MODEL.FPN.IN_FEATURES))


def _check(cfg) -> None:
    swin = cfg.MODEL.SWIN
    if len(swin.DEPTHS) != len(_FEATURES) or len(swin.NUM_HEADS) != len(_FEATURES):
        raise UsageError(
            f"MODEL.SWIN.DEPTHS {list(swin.DEPTHS)} and NUM_HEADS {list(swin.NUM_HEADS)} need one "
            f"number for each of the {len(_FEATURES)} stages"
        )
    for stage, heads in enumerate(swin.NUM_HEADS):
        channels = swin.EMBED_DIM * 2**stage
        if channels % heads:
            raise UsageError(
                f"MODEL.SWIN.NUM_HEADS has {heads} heads for the {channels} channels of stage "
                f"{stage} (MODEL.SWIN.EMBED_DIM {swin.EMBED_DIM}): the heads must divide them"
            )
    if not swin.OUT_FEATURES or not set(swin.OUT_FEATURES) <= set(_FEATURES):
        raise UsageError(
            f"MODEL.SWIN.OUT_FEATURES is {list(swin.OUT_FEATURES)}: name some of "
            f"{', '.join(_FEATURES)}"
        )
    if not 0 <= swin.DROP_PATH_RATE < 1:
        raise UsageError(
            f"MODEL.SWIN.DROP_PATH_RATE is {swin.DROP_PATH_RATE}: set it to 0 or more and below 1"
        )
    if not 0 <= cfg.MODEL.BACKBONE.FREEZE_AT <= len(_FEATURES) + 1:
        raise UsageError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}: a Swin Transformer can "
            "freeze nothing (0), its patch embedding (1) or its first 1 to 4 stages too (2 to 5)"
        )
