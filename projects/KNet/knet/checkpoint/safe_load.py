"""Reading files of weights without running what stands in them.

A pickle may name any function of any module and have it called. Here only what tensors, arrays and
plain containers are made of is called. An object of another class (a log, a version, a config that
a framework has put beside its weights) becomes None; a file that wants anything else to be called
is refused.
"""

import json
import os
import pickle
import tarfile
from typing import Any, Dict

import torch

from . import unpickler

__all__ = ["INFO_KEY", "load_file"]

# what pickle itself says
_PICKLES_OWN = (
    *("invalid load key", "pickle data was truncated", "pickle exhausted", "Memo value not found"),
    *("unpickling stack underflow", "unsupported pickle protocol", "could not find MARK"),
)
# by the ending of a file that holds none
_NO_WEIGHTS = {
    ".onnx": "it is an exported model: its weights are in the file that it was made of",
    ".yaml": "it is a config, which tells of no weights",
}
INFO_KEY = "knet"  # of this project's files: the config and the classes, beside the weights


def load_file(path: str) -> Any:
    """The content of a local file of weights, its tensors on the CPU.

    Args:
        path: of a file by ``torch.save`` (of any version), of a pickle (``.pkl``) of arrays, or of
            ``.safetensors``.

    Raises:
        OSError: it cannot be opened.
        pickle.UnpicklingError: it is none of these, is damaged, or wants code to be run.
    """
    try:
        return _load(path)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file brings about
        said, reason = str(error).rstrip("."), _NO_WEIGHTS.get(os.path.splitext(path)[1].lower())
        if reason is None:
            is_pickles = isinstance(error, pickle.UnpicklingError)
            if is_pickles and not said.startswith(_PICKLES_OWN):
                raise
            kind = "" if is_pickles else f"{type(error).__name__}: "
            reason = f"it is damaged or no file of weights ({kind}{said})"
        raise pickle.UnpicklingError(reason) from error


def _load(path: str) -> Any:
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if path.endswith(".safetensors"):
        return _load_safetensors(path)
    if path.endswith(".pkl") and not is_zip:
        with open(path, "rb") as file:
            return unpickler.plain(unpickler.load(file, encoding="latin1"), {})
    # what torch.load would unpack or start, whatever else it is told; asked as it asks itself
    if tarfile.is_tarfile(path):
        raise pickle.UnpicklingError("it is a tar archive, not a file of weights")
    if is_zip and "constants.pkl" in torch._C.PyTorchFileReader(path).get_all_records():
        raise pickle.UnpicklingError("it is a TorchScript program, not a file of weights")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # something else beside the weights; or a file that cannot be read at all
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=unpickler)
        return unpickler.plain(content, {})


def _load_safetensors(path: str) -> Dict[str, Any]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise pickle.UnpicklingError(
            "it needs the package safetensors, which is not installed"
        ) from error
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        metadata = file.metadata() or {}
    if INFO_KEY not in metadata:
        return weights
    return {"model": weights, INFO_KEY: json.loads(metadata[INFO_KEY])}
