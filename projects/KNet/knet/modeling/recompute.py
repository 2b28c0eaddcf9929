"""Gradient checkpointing: activations are computed again in the backward pass, not kept."""

from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Iterator, Type

import torch
from detectron2.modeling.backbone.resnet import ResNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..errors import UsageError
from .backbones.swin import Swin
from .backbones.timm_backbone import TimmBackbone

__all__ = ["recompute", "recompute_as_configured"]


def recompute_as_configured(model: nn.Module, cfg) -> None:
    """``MODEL.BACKBONE.CHECKPOINT`` and ``MODEL.KNET.CHECKPOINT_STAGES`` of a model just built.

    Raises:
        UsageError: of a backbone that it does not work for.
    """
    if cfg.MODEL.BACKBONE.CHECKPOINT:
        _recompute_backbone(getattr(model.backbone, "bottom_up", model.backbone))
    if cfg.MODEL.KNET.CHECKPOINT_STAGES:
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == "kernel_update_heads":
                for head in module:
                    recompute(head)


def recompute(module: nn.Module) -> None:
    """Keep only the module's inputs for the backward pass; results and gradients stay the same.

    In training alone. BatchNorm learns its statistics from the first pass only.
    """
    module.__class__ = _recomputed(type(module))


@cache
def _recomputed(kind: Type[nn.Module]) -> Type[nn.Module]:
    def forward(self, *args, **kwargs):
        if not (self.training and torch.is_grad_enabled()):
            return kind.forward(self, *args, **kwargs)

        def contexts():
            return nullcontext(), _statistics_kept(self)

        function = kind.forward.__get__(self)
        return checkpoint(function, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    # the name stays that of the kind: some is told to users
    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__})


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """What BatchNorm learns of a batch is learned by copies, and forgotten with them."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [(norm, dict(norm.named_buffers(recurse=False))) for norm in norms]
    for norm, buffers in kept:
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


def _recompute_backbone(backbone: nn.Module) -> None:
    if isinstance(backbone, Swin):
        return  # built so, see MODEL.SWIN.CHECKPOINT
    if isinstance(backbone, TimmBackbone):
        _recompute_timm(backbone)
        return
    if not isinstance(backbone, ResNet):
        raise UsageError(
            f"MODEL.BACKBONE.CHECKPOINT True works for ResNet, Swin and timm models, not for "
            f"{type(backbone).__name__}: set it to False"
        )
    for block in (block for stage in backbone.stages for block in stage):
        if any(p.requires_grad for p in block.parameters()):
            recompute(block)


def _recompute_timm(backbone: TimmBackbone) -> None:
    if any(isinstance(m, _BatchNorm) and m.training for m in backbone.modules()):
        raise UsageError(
            f"BatchNorm of the timm model {backbone.name} would count each batch twice with "
            "MODEL.BACKBONE.CHECKPOINT True: set MODEL.BACKBONE.NORM_EVAL to True, or CHECKPOINT "
            "to False"
        )
    try:
        backbone.model.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise UsageError(
            f"the timm model {backbone.name} does not know checkpointing: set "
            "MODEL.BACKBONE.CHECKPOINT to False"
        ) from error
