"""Whether weights belong to a model, and what may be left out of them."""

import re
from typing import Dict, Iterable, List, Mapping

import torch

from ..errors import UsageError
from .architecture import describe, differences, published_config
from .official_names import is_of_network
from .recognize import Recognized

__all__ = [
    "OTHER_CLASSES",
    "is_computed",
    "leave_out_classes",
    "require_backbone",
    "require_fit",
]

_CLASS_DEPENDENT = re.compile(
    r"(kernel_head\.(semantic_kernels|point_proj)|(.*\.)?kernel_update_heads\.\d+\.class_proj"
    r"|sem_seg_head\..*predictor(\.\d+)?)\.(weight|bias)"
)
# the feature pyramid behind a backbone is no part of it; the group is the backbone's own name
_IN_BACKBONE = re.compile(r"backbone\.(?!fpn_)(?:bottom_up\.)?(?:model\.)?(.+)")
# what to do about other classes, by what the weights are loaded for
OTHER_CLASSES = {
    "start": (
        "set MODEL.KNET.WEIGHTS_SKIP_CLASSES to True to leave out what depends on the classes and "
        "learn it anew"
    ),
    "evaluate": "evaluate with the config it was trained with",
    "resume": "choose another OUTPUT_DIR, or leave out --resume",
}
_COMPUTED = ("num_batches_tracked", "relative_position_index", "attn_mask")


def is_computed(name: str) -> bool:
    """Whether a tensor needs no loading: a counter that nothing reads, or made from the sizes."""
    return name.split(".")[-1] in _COMPUTED


def require_fit(recognized: Recognized, model: Mapping[str, torch.Tensor], *, path: str) -> None:
    """Demand that an official checkpoint and a model have the same tensors, classes aside.

    Tensors of no module of the network may be left over.

    Args:
        model: its state dict.
        path: of the file, for the sentence.

    Raises:
        UsageError: says how the two differ and which config fits the file.
    """
    loaded = recognized.state_dict
    wrong = [name for name in _misfits(loaded, model) if not _CLASS_DEPENDENT.fullmatch(name)]
    wrong += [name for name in model if name not in loaded and not is_computed(name)]
    left_over = [name for name in loaded if name not in model and not is_computed(name)]
    wrong += [name for name in left_over if is_of_network(name)]
    if not wrong:
        return
    this = describe(model)
    if this is None or recognized.architecture is None:
        apart = ["an official K-Net, which this is not"]
    else:
        apart = differences(recognized.architecture, this) or [_difference(wrong[0], loaded, model)]
    raise UsageError(
        f"{path} holds the weights of another model ({', '.join(apart)}): "
        f"{_other_config(loaded)}set MODEL.WEIGHTS to a file of this model"
    )


def require_backbone(
    model: Mapping[str, torch.Tensor],
    *,
    wrong_shape: Iterable[str],
    missing: Iterable[str] = (),
    left_over: Iterable[str] = (),
    path: str,
) -> None:
    """Demand that every tensor that a file has for a model's backbone was taken.

    Only the first convolution may differ, if the model's images have other than 3 channels.

    Args:
        model: its state dict.
        wrong_shape: the model's names of tensors that the file has in another shape.
        missing, left_over: names that found no counterpart, where names were matched by Detectron2,
            which leaves out other shapes by itself.
        path: of the file, for the sentence.

    Raises:
        UsageError: the backbone is another one.
    """
    unmatched = {_own_name(name) for name in left_over}
    names = [*wrong_shape, *(name for name in missing if _own_name(name) in unmatched)]
    names = [name for name in names if _IN_BACKBONE.fullmatch(name)]
    first = first_convolution(model)
    wrong = [name for name in names if name != first or model[name].shape[1] == 3]
    if wrong:
        raise UsageError(
            f"{path} is another backbone, in which {wrong[0]} has not the shape "
            f"{tuple(model[wrong[0]].shape)}: set MODEL.WEIGHTS or MODEL.RESNETS.DEPTH / "
            "MODEL.BACKBONE.* to fit"
        )


def first_convolution(model: Mapping[str, torch.Tensor]) -> str:
    """The name of a backbone's weights that see the image; "" if there are none."""
    return next((n for n, t in model.items() if _IN_BACKBONE.fullmatch(n) and t.dim() == 4), "")


def leave_out_classes(
    state_dict: Dict[str, torch.Tensor],
    model: Mapping[str, torch.Tensor],
    *,
    path: str,
    skip: bool,
    purpose: str = "start",
) -> List[str]:
    """Take out of a state dict, with ``skip``, what depends on the classes and does not fit.

    Args:
        state_dict: under the model's names; changed in place.
        model, path: see :func:`require_fit`.
        purpose: "start" training, "evaluate" or "resume"; for the sentence.

    Returns:
        the names left out.

    Raises:
        UsageError: without ``skip``, if there are any.
    """
    names = [
        name
        for name in _misfits(state_dict, model)
        if _CLASS_DEPENDENT.fullmatch(name) and state_dict[name].shape[1:] == model[name].shape[1:]
    ]
    if names and not skip:
        name = min(names, key=_is_of_things)  # the first that counts all classes, if there is one
        theirs, ours = state_dict[name].shape[0], model[name].shape[0]
        kind = ("thing class" if _is_of_things(name) else "class") + ("es" if theirs != 1 else "")
        raise UsageError(
            f"{path} holds the weights of {theirs} {kind}, but this model has {ours} "
            f"({name}): {_other_config(state_dict)}{OTHER_CLASSES[purpose]}"
        )
    for name in names:
        del state_dict[name]
    return names


def _is_of_things(name: str) -> bool:
    """Whether a tensor that depends on the classes has rows for things alone."""
    return name.startswith("kernel_head.point_proj.")


def _own_name(name: str) -> str:
    """A tensor's name in the backbone itself."""
    match = _IN_BACKBONE.fullmatch(name)
    return match.group(1) if match else name


def _difference(name: str, loaded, model) -> str:
    if name not in loaded:
        return f"without {name}"
    if name not in model:
        return f"with {name}, which this one lacks"
    return f"{name} of shape {tuple(loaded[name].shape)} and not {tuple(model[name].shape)}"


def _misfits(state_dict: Mapping[str, torch.Tensor], model: Mapping[str, torch.Tensor]):
    return [
        name
        for name, tensor in state_dict.items()
        if name in model and tuple(tensor.shape) != tuple(model[name].shape)
    ]


def _other_config(state_dict: Mapping[str, torch.Tensor]) -> str:
    architecture = describe(state_dict)
    config = architecture and published_config(architecture)
    if not config:
        return ""
    stages = "" if architecture.stages == 3 else f" MODEL.KNET.NUM_STAGES {architecture.stages}"
    return f"use --config-file configs/{config}{stages}, or "
