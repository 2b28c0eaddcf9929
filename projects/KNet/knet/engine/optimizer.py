"""AdamW as K-Net was trained with, or another; the backbone slower, the gradient clipped whole."""

from fnmatch import fnmatchcase
from typing import Dict, Iterator, List, Sequence, Tuple, Type

import torch
from detectron2.solver.build import get_default_optimizer_params, reduce_param_groups
from torch import nn

from ..errors import UsageError
from .muon import Muon

__all__ = ["build_optimizer", "is_fused"]

_KINDS: Dict[str, Type[torch.optim.Optimizer]] = {
    "ADAMW": torch.optim.AdamW,
    "MUON": Muon,
    "SGD": torch.optim.SGD,
}


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, Muon or SGD (``SOLVER.OPTIMIZER``) over the trained parameters.

    Backbone parameters, without the feature pyramid, learn at ``SOLVER.BACKBONE_MULTIPLIER`` of
    the rate. With ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` "full_model" the norm of all gradients
    together is clipped at ``CLIP_VALUE`` before each step. Parameters whose name fits a pattern of
    ``SOLVER.NO_DECAY`` have no weight decay. ``SOLVER.FUSED`` makes the step one kernel (of Muon,
    AdamW's share of it); None: on a CPU, where this torch has that.

    Muon has the weights of convolutions and linear layers outside the backbone, but those whose
    name fits a pattern of ``SOLVER.NO_MUON``; AdamW has the rest.
    """
    prefix = "backbone.bottom_up." if hasattr(model.backbone, "bottom_up") else "backbone."
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        lr_factor_func=lambda name: (
            cfg.SOLVER.BACKBONE_MULTIPLIER if name.startswith(prefix) else 1.0
        ),
    )
    params = _without_decay(params, model, cfg.SOLVER.NO_DECAY)
    name = cfg.SOLVER.OPTIMIZER.upper()
    if name not in _KINDS:
        raise UsageError(f"SOLVER.OPTIMIZER is '{cfg.SOLVER.OPTIMIZER}': use ADAMW, MUON or SGD")
    cls, kwargs = _KINDS[name], {}
    if name == "MUON":
        params = _with_matrices_apart(params, model, [f"{prefix}*", *cfg.SOLVER.NO_MUON])
    elif name == "SGD":
        kwargs = {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}
    device = next(model.parameters()).device.type
    if cfg.SOLVER.FUSED and not _has_fused(cls, device):
        raise UsageError(
            f"SOLVER.FUSED is True, but torch {torch.__version__} has no fused {name} for a "
            f"{device}: set it to False"
        )
    if is_fused(cfg, device):
        kwargs["fused"] = True
    kwargs.update(lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
    optimizer = _with_clipping(cfg, cls)(params, **kwargs)
    optimizer.register_load_state_dict_pre_hook(_with_own_kernels)
    return optimizer


def is_fused(cfg, device: str) -> bool:
    """What ``SOLVER.FUSED`` means for parameters there.

    Args:
        device: its kind, "cpu" or "cuda".
    """
    if cfg.SOLVER.FUSED is not None:
        return cfg.SOLVER.FUSED
    # elsewhere torch's own choice is as fast
    return device == "cpu" and _has_fused(_KINDS[cfg.SOLVER.OPTIMIZER.upper()], device)


def _has_fused(kind: Type[torch.optim.Optimizer], device: str) -> bool:
    parameter = nn.Parameter(torch.zeros(1, device=device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        kind([parameter], lr=0.0, fused=True).step()  # torch 2.3 builds a fused SGD for a CPU too
    except RuntimeError:
        return False
    return True


def _with_own_kernels(optimizer: torch.optim.Optimizer, state: Dict) -> Dict:
    """A state to load, for the kernels in use: by them torch chooses where counts of steps are."""
    groups = state["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        return state  # which is told
    kernels = [group.get("fused") for group in optimizer.param_groups]
    groups = [{**group, "fused": fused} for group, fused in zip(groups, kernels)]
    return {**state, "param_groups": groups}


def _without_decay(groups: List[Dict], model: nn.Module, patterns: Sequence[str]) -> List[Dict]:
    """Parameter groups, those of the named parameters with a weight decay of 0."""
    if not patterns:
        return groups
    single = list(_one_each(groups, model))
    for name, group in single:
        if _fits(name, patterns):
            group["weight_decay"] = 0.0
    return reduce_param_groups([group for _, group in single])


def _with_matrices_apart(
    groups: List[Dict], model: nn.Module, patterns: Sequence[str]
) -> List[Dict]:
    """Parameter groups with ``muon``: True for matrices but those of the named parameters."""
    single = list(_one_each(groups, model))
    for name, group in single:
        is_matrix = group["params"][0].dim() > 1
        group["muon"] = is_matrix and not _fits(name, patterns)
    return reduce_param_groups([group for _, group in single])


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _one_each(groups: List[Dict], model: nn.Module) -> Iterator[Tuple[str, Dict]]:
    """A group of its own for each parameter, with the parameter's name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            yield names[parameter], {**group, "params": [parameter]}


def _with_clipping(cfg, optimizer: Type[torch.optim.Optimizer]) -> Type[torch.optim.Optimizer]:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE != "full_model":
        raise UsageError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clip.CLIP_TYPE}': K-Net clips the norm of all "
            "gradients together, use full_model (or ENABLED False)"
        )
    if clip.CLIP_VALUE <= 0:  # a negative one would turn the gradient around
        raise UsageError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE}: it must be above 0 (or "
            "ENABLED False)"
        )
    max_norm, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE

    class ClippedOptimizer(optimizer):
        """Clips the global gradient norm, then steps."""

        def step(self, closure=None):
            params = [p for group in self.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(params, max_norm, norm_type)
            return super().step(closure)

    return ClippedOptimizer
