"""What a state dict is, and its tensors under the names of the model that they are for."""

from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Mapping, Optional, Tuple

import torch

from . import wrappers
from .architecture import Architecture, describe
from .backbone_names import (
    DEEP_STEM_RESNET,
    RESNET,
    SWIN,
    from_unfold_order,
    swap_patch_merging,
)
from .official_names import from_official
from .renaming import Table, rename

__all__ = ["Recognized", "content_of", "find_weights", "is_official", "recognize"]

StateDict = Dict[str, torch.Tensor]


@dataclass(frozen=True)
class Recognized:
    """A state dict under the names of a model.

    Attributes:
        what: what it was taken for, in words.
        state_dict: the tensors; those without a counterpart keep the name they had.
        architecture: of the authors' models only; such a file must fit the model as a whole.
    """

    what: str
    state_dict: StateDict
    architecture: Optional[Architecture] = None


def content_of(loaded: object, model: Optional[Mapping[str, torch.Tensor]] = None) -> StateDict:
    """The state dict in what was read from a file; see :func:`find_weights`."""
    return find_weights(loaded, model).state_dict


def find_weights(
    loaded: object, model: Optional[Mapping[str, torch.Tensor]] = None
) -> wrappers.Found:
    """The state dict in what was read from a file, whatever framework wrote it.

    Args:
        loaded: as :func:`.safe_load.load_file` gives it.
        model: the state dict of the model that it is for, if that is known.

    Raises:
        ValueError: there is none.
    """
    model = model or {}

    def rate(state_dict: StateDict) -> Tuple[int, bool]:
        recognized = recognize(state_dict, model)
        is_knet = recognized.architecture is not None or describe(state_dict) is not None
        return _num_fitting(recognized.state_dict, model), is_knet

    return wrappers.find_state_dict(loaded, model, rate)


def is_official(names: Iterable[str]) -> bool:
    """Whether names are those of the authors' or of MMSegmentation's models."""
    marks = ("decode_head.", "rpn_head.init_kernels.", "roi_head.mask_head.0.kernel_update_conv.")
    return any(name.startswith(marks) for name in names)


def recognize(state_dict: StateDict, model: Mapping[str, torch.Tensor]) -> Recognized:
    """Find out what a state dict is and give its tensors the model's names.

    Args:
        state_dict: of the authors' models, of this project or of Detectron2, or a backbone's:
            torchvision's or mmseg's ResNet, Swin's (the original, mmdet's, timm's), or any model
            of timm.
        model: the model's own state dict.

    Of all that a file might be, what gives most tensors a place in the model is taken.
    """
    best = Recognized("a model of this project or of Detectron2", state_dict)
    if is_official(state_dict):
        converted, unknown = from_official(state_dict)
        converted.update((name, state_dict[name]) for name in unknown)
        architecture = describe(converted)
        if architecture is not None:
            return Recognized(f"an official model ({architecture})", converted, architecture)
        best = Recognized("a part of an official model", converted)
    names = _backbone_names(model)
    most = _num_fitting(best.state_dict, model)
    bare = _bare_backbone(state_dict)
    for what, convert in _BACKBONES.items():
        converted = {names.get(name, name): tensor for name, tensor in convert(bare).items()}
        count = _num_fitting(converted, model)
        if count > most:
            best, most = Recognized(f"a backbone ({what})", converted), count
    return best


def _num_fitting(state_dict: StateDict, model: Mapping[str, torch.Tensor]) -> int:
    return sum(n in model and t.shape == model[n].shape for n, t in state_dict.items())


def _bare_backbone(state_dict: StateDict) -> StateDict:
    """Without the ``backbone.`` of a larger model."""
    prefix = "backbone."
    return {n[len(prefix) :] if n.startswith(prefix) else n: t for n, t in state_dict.items()}


def _backbone_names(model: Iterable[str]) -> Dict[str, str]:
    """A backbone's own names -> the model's."""
    names = {}
    for name in model:
        for prefix in ("backbone.bottom_up.model.", "backbone.bottom_up.", "backbone.model."):
            if name.startswith(prefix):
                break
        else:
            prefix = "backbone."
        if name.startswith(prefix):
            names[name[len(prefix) :]] = name
    return names


def _renamed(table: Table) -> Callable[[StateDict], StateDict]:
    def convert(state_dict: StateDict) -> StateDict:
        converted, unknown = rename(state_dict, table)
        return {**converted, **{name: state_dict[name] for name in unknown}}

    return convert


def _mm_swin(state_dict: StateDict) -> StateDict:
    if not any(".attn.w_msa." in name for name in state_dict):
        return {}
    return swap_patch_merging(_renamed(SWIN)(state_dict), from_unfold_order)


# timm merges patches at the start of a stage, all others at the end of the one before
_TIMM_MERGING: Table = [
    (f"layers.{i + 1}.downsample.{part}.{{p}}", f"layers.{i}.downsample.{part}.{{p}}")
    for i in range(3)
    for part in ("norm", "reduction")
]


def _timm_swin(state_dict: StateDict) -> StateDict:
    if any(name.startswith("layers.0.downsample.") for name in state_dict):
        return {}
    return _renamed(_TIMM_MERGING)(state_dict)


# timm's "c" ResNets: the stem's parts are counted through but for the last norm
_TIMM_DEEP_STEM: Table = [
    *((f"conv1.{i}.{{p}}", f"stem.{i}.{{p}}") for i in (0, 1, 3, 4, 6)),
    ("bn1.{p}", "stem.7.{p}"),
]


def _timm_deep_stem(state_dict: StateDict) -> StateDict:
    return _renamed(DEEP_STEM_RESNET)(_renamed(_TIMM_DEEP_STEM)(state_dict))


# What a backbone may be, and how it comes to Detectron2's names. Of equals the first is taken.
_BACKBONES: Dict[str, Callable[[StateDict], StateDict]] = {
    "under the model's names": dict,
    "ResNet, torchvision's names": _renamed(RESNET),
    "deep-stem ResNet, mmseg's names": _renamed(DEEP_STEM_RESNET),
    "deep-stem ResNet, timm's names": _timm_deep_stem,
    "Swin Transformer, mmdet's and mmseg's names": _mm_swin,
    "Swin Transformer, timm's names": _timm_swin,
}
