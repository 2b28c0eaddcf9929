"""Files of official weights -> files of this project's, and back."""

import os
import pickle
from pathlib import Path
from typing import Dict, Iterable, Mapping, Optional, Tuple

import torch

from ..errors import UsageError
from ..files import replacing
from .architecture import describe, published_config
from .description import residual_of
from .fit import leave_out_classes, require_fit
from .official_names import from_official, is_of_network, to_official
from .recognize import Recognized, content_of, is_official, recognize
from .safe_load import INFO_KEY, load_file

__all__ = ["FORMS", "convert_file", "to_knet", "to_official_file"]

StateDict = Dict[str, torch.Tensor]
FORMS = ("knet", "official")


def convert_file(
    source: str,
    target: str,
    form: str,
    *,
    model: Optional[Mapping[str, torch.Tensor]] = None,
    residual: bool = False,
    force: bool = False,
) -> str:
    """Write a file of weights under other names.

    Args:
        source: local file, of any kind that :func:`knet.checkpoint.safe_load.load_file` reads.
        target: file to write: ``{"model": ...}`` for ``knet``, for ``official``
            ``{"state_dict": ..., "meta": {}}``. Only weights are converted, no optimizer state.
        form: one of ``FORMS``.
        model: state dict of the model that the weights are for; they must fit it. Without it only
            whole K-Nets can be converted: how a backbone's tensors are named depends on the model.
        residual: has that model stages that add to the one before (KERNEL_UPDATE.RESIDUAL)? A file
            that describes its model tells by itself.
        force: overwrite ``target``, unless it is the source.

    Returns:
        what was done, in one sentence.

    Raises:
        UsageError: the source cannot be read or converted, or the target exists.
    """
    if os.path.exists(target) and not force:
        raise UsageError(f"{target} exists already: choose another file, or add --force")
    if os.path.realpath(source) == os.path.realpath(target):
        raise UsageError(f"{target} is the file that is converted: choose another")
    try:
        loaded = load_file(source)
        state_dict = {k: torch.as_tensor(v) for k, v in content_of(loaded, model).items()}
    except (OSError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise UsageError(f"cannot read {source}: {' '.join(str(error).split())}") from error
    if form == "knet":
        converted, what = to_knet(state_dict, source, model)
        content = {"model": converted}
    else:
        description = loaded.get(INFO_KEY) if isinstance(loaded, Mapping) else None
        if residual or residual_of(description):
            raise UsageError(
                f"the update stages of {source} add to the masks of the stage before "
                "(MODEL.KNET.KERNEL_UPDATE.RESIDUAL True): the official code has no such stages"
            )
        converted, what = to_official_file(state_dict, source, model)
        content = {"state_dict": converted, "meta": {}}
    with replacing(Path(target)) as part, open(part, "wb") as file:
        torch.save(content, file)
    return f"{source} is {what}: {len(converted)} tensors in {target}"


def to_knet(
    state_dict: StateDict, path: str, model: Optional[Mapping[str, torch.Tensor]] = None
) -> Tuple[StateDict, str]:
    """Weights of another origin under this project's names, and what they are in words.

    Args:
        path: of the file, for the sentences.
        model: as in :func:`convert_file`.

    Raises:
        UsageError: they are not recognised, or of another model.
    """
    if model is not None:
        recognized = recognize(state_dict, model)
    elif is_official(state_dict):
        recognized = recognize(state_dict, {})
    else:
        raise UsageError(
            f"{path} holds no official K-Net: add --config-file, of the model that it is for"
        )
    converted, what = recognized.state_dict, recognized.what
    if recognized.architecture is not None:
        others = [name for name in converted if not is_of_network(name)]
        converted = {name: tensor for name, tensor in converted.items() if is_of_network(name)}
        if others:
            what += f", but for {len(others)} tensors of none of its modules ({others[0]}, ...)"
    if model is None:
        _require_known(filter(is_of_network, from_official(state_dict)[1]), path)
    elif recognized.architecture is not None:
        require_fit(recognized, model, path=path)
        leave_out_classes(converted, model, path=path, skip=False)
    else:
        converted = {name: tensor for name, tensor in converted.items() if name in model}
        if not converted:
            raise UsageError(f"{path} holds no weight of the model of --config-file")
    return converted, what + _config_of(converted)


def to_official_file(
    state_dict: StateDict, path: str, model: Optional[Mapping[str, torch.Tensor]] = None
) -> Tuple[StateDict, str]:
    """This project's weights under the official names, with all of BatchNorm's counters.

    Args, raises: see :func:`to_knet`.
    """
    architecture = describe(state_dict)
    if architecture is None:
        raise UsageError(f"{path} holds no K-Net of this project, so nothing to convert")
    what = f"a model of this project ({architecture})"
    if model is not None:
        recognized = Recognized(what, dict(state_dict), architecture)
        require_fit(recognized, model, path=path)
        leave_out_classes(recognized.state_dict, model, path=path, skip=False)
    converted, unknown = to_official(state_dict)
    _require_known(unknown, path)
    for name in list(converted):
        if name.endswith(".running_mean"):  # a frozen BatchNorm here does not count
            counter = name.replace(".running_mean", ".num_batches_tracked")
            converted.setdefault(counter, torch.tensor(0))
    return converted, what + _config_of(state_dict)


def _require_known(unknown: Iterable[str], path: str) -> None:
    unknown = list(unknown)
    if unknown:
        raise UsageError(
            f"{path} has {len(unknown)} tensors without a counterpart, {unknown[0]} first: only "
            "the published architectures can be converted"
        )


def _config_of(state_dict: Mapping[str, torch.Tensor]) -> str:
    architecture = describe(state_dict)
    config = architecture and published_config(architecture)
    return f", as configs/{config} builds it" if config else ""
