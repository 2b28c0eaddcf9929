"""One file is a model: weights with the config and the classes that they need to be used.

A checkpoint of training has, beside ``model``, the entry ``knet``: plain containers that
``torch.load(weights_only=True)`` reads. A model file has these two alone; as ``.safetensors`` the
second stands in the file's metadata.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data.catalog import Metadata
from torch import nn
from yaml import YAMLError

from ..checkpoint.safe_load import INFO_KEY
from ..config import config_from_text
from ..data.class_layout import resolve_model_classes
from ..data.classes import ModelClass, classes_metadata, plain_classes, read_classes
from ..errors import UsageError
from ..files import replacing

__all__ = ["FORMATS", "ModelInfo", "read_info", "save_model"]

FORMATS = ("pth", "safetensors")
_VERSION = 1


@dataclass(frozen=True)
class ModelInfo:
    """What a model's weights do not tell.

    Attributes:
        cfg: the config that builds it.
        classes: by contiguous id.
    """

    cfg: CfgNode
    classes: Tuple[ModelClass, ...]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ModelInfo":
        """Of the model that a config builds.

        Raises:
            UsageError, DatasetError: neither the config nor its data sets tell the classes.
        """
        return cls(cfg.clone(), resolve_model_classes(cfg))

    @cached_property
    def metadata(self) -> Metadata:
        """For Detectron2's ``Visualizer``; see :func:`knet.data.classes.classes_metadata`."""
        return classes_metadata(self.classes)

    def to_plain(self) -> Dict[str, Any]:
        """As containers of strings and numbers, without what is true of one machine alone."""
        cfg = self.cfg.clone()
        cfg.defrost()
        # paths of files that are not needed
        cfg.DATASETS.CUSTOM, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = [], "", get_cfg().OUTPUT_DIR
        cfg.MODEL.KNET.CLASSES = []
        return {
            "version": _VERSION,
            "config": cfg.dump(),
            "classes": plain_classes(self.classes),
        }

    @classmethod
    def from_plain(cls, plain: Any, path: str) -> "ModelInfo":
        """The reverse; the config lists the classes itself and names no data set.

        Args:
            plain: what a file has under ``INFO_KEY``.
            path: of the file, for the sentence.

        Raises:
            UsageError: it was written by a later version of the project, or is damaged.
        """
        version = plain.get("version") if isinstance(plain, dict) else None
        if not isinstance(version, int) or version > _VERSION:
            raise UsageError(
                f"{path} holds a model description of version {version}, this K-Net reads up to "
                f"{_VERSION}: install a newer one"
            )
        try:
            cfg = config_from_text(plain["config"])
            classes = read_classes(plain["classes"], f"{path} (its classes)")
        except (AssertionError, KeyError, TypeError, ValueError, YAMLError) as error:
            raise UsageError(
                f"the config in {path} is not of this version of K-Net: "
                f"{' '.join(str(error).split())}; give a config beside the weights"
            ) from error
        return cls(cfg, classes).standing_alone()

    def standing_alone(self) -> "ModelInfo":
        """The same with a config that lists the classes itself and names no data set."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATASETS.CUSTOM, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], (), ()
        cfg.MODEL.KNET.CLASSES = plain_classes(self.classes)
        return ModelInfo(cfg, self.classes)


def read_info(content: Any, path: str) -> Optional[ModelInfo]:
    """What a file of weights tells of its model, None if nothing.

    Args:
        content: as :func:`knet.checkpoint.load_file` gives it.
        path: of the file, for the sentence.

    Raises:
        UsageError: see :meth:`ModelInfo.from_plain`.
    """
    plain = content.get(INFO_KEY) if isinstance(content, dict) else None
    return None if plain is None else ModelInfo.from_plain(plain, path)


def save_model(
    model: nn.Module,
    path: Union[str, os.PathLike],
    *,
    half: bool = False,
    more: Optional[Mapping[str, Any]] = None,
) -> None:
    """Write a model file: weights, config and classes, nothing of the training.

    The file appears whole or not at all.

    Args:
        model: of ``load_model``, or of the trainer; it knows its config and classes (``info``).
        path: ending in ``.pth`` or ``.safetensors`` (needs the package safetensors).
        half: matrices and convolutions in float16, half the size; they are float32 again when
            loaded, with three decimal digits. Norms and biases stay as they are.
        more: plain entries to tell of the model beside config and classes.

    Raises:
        UsageError: a model without ``info``, another ending, no safetensors, or a path that cannot
            be written.
    """
    path = os.fspath(path)
    info: Optional[ModelInfo] = getattr(model, "info", None)
    if info is None:
        raise UsageError("this model does not know its classes: take one of knet.load_model")
    plain = {**info.to_plain(), **(more or {})}
    weights = {
        # contiguous copies: safetensors takes no views
        name: _halved(tensor, half).detach().to("cpu", copy=True).contiguous()
        for name, tensor in model.state_dict().items()
    }
    if path.endswith(".safetensors"):
        content = _safetensors(weights, {INFO_KEY: json.dumps(plain)})
    elif path.endswith(".pth"):
        content = {"model": weights, INFO_KEY: plain}
    else:
        raise UsageError(f"the model file {path} must end in .pth or .safetensors")
    try:
        _write(content, path)
    except OSError as error:
        raise UsageError(f"the model file {path} cannot be written: {error}") from error


def _halved(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    # statistics and scales of norms may lie outside of float16's range, and are few
    return tensor.half() if half and tensor.is_floating_point() and tensor.dim() > 1 else tensor


def _safetensors(weights: Mapping[str, torch.Tensor], metadata: Dict[str, str]) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UsageError(
            "a .safetensors file needs the package safetensors: pip install safetensors, or write "
            "a .pth file"
        ) from error
    return save(dict(weights), metadata)


def _write(content: Any, path: str) -> None:
    with replacing(Path(path)) as part, open(part, "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            torch.save(content, file)
