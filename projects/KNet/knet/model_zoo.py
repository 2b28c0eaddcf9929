"""The published models by name, from a checkout or from an installed package."""

import difflib
import logging
import os
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence, Union

import torch
from detectron2.config import CfgNode
from torch import nn

from .checkpoint.architecture import published_config
from .checkpoint.recognize import content_of, is_official, recognize
from .checkpoint.safe_load import INFO_KEY
from .config_files import config_names, find_config
from .engine import KNetTrainer
from .engine.checkpointer import KNetCheckpointer
from .engine.main import load_config, merge_options
from .engine.model_file import ModelInfo, read_info
from .errors import UsageError

__all__ = ["get_config", "load_model"]

logger = logging.getLogger(__name__)


def get_config(
    name_or_path: Union[str, os.PathLike], opts: Optional[Sequence[str]] = None
) -> CfgNode:
    """The config of a published model, or any other.

    Args:
        name_or_path: below ``configs``, with or without ``.yaml``, e.g.
            ``coco/panoptic/knet_r50_1x``; or of any file.
        opts: changes as on the command line: key, value, key, value, ...

    Raises:
        UsageError: there is none, or it does not fit.
    """
    return load_config(str(_find(name_or_path)), [str(word) for word in opts or ()])


def load_model(
    name_or_path: Union[str, os.PathLike],
    weights: Union[str, os.PathLike, None] = None,
    *,
    device: Union[str, torch.device, None] = None,
    opts: Optional[Sequence[str]] = None,
) -> nn.Module:
    """A model with its weights, ready to predict.

        load_model("output/model_final.pth")
        load_model("coco/panoptic/knet_r50_1x", "knet_s3_r50_fpn_1x_coco-panoptic.pth")

    Args:
        name_or_path: a file of weights that this project's training wrote, which has config and
            classes inside, or a published one of the authors'; no data set is needed. With
            ``weights``: a config, see :func:`get_config`.
        weights: file or address: of this project's training, or official. Its classes, where it
            tells them, are the model's.
        device: e.g. ``cuda:1`` or ``cpu``; by default a GPU if there is one.
        opts: changes of the config, as on the command line: key, value, key, value, ...

    Returns:
        the model in eval mode; ``model.info`` is its :class:`knet.engine.model_file.ModelInfo`. It
        takes a list of dicts with ``image`` ((3, H, W), 0..255, channels in the order of the
        config's INPUT.FORMAT), resized as the config's INPUT.*_TEST say, and optionally ``height``
        and ``width`` of the wanted result; :class:`knet.Predictor` does all of that. Parameters
        require a gradient as the trainer has it (not those of MODEL.BACKBONE.FREEZE_AT), so that
        ``model.train()`` goes on from here; predict under ``torch.inference_mode()``.

    Raises:
        UsageError: no such config or device, or weights that are not the model's.
    """
    if weights is None:
        name_or_path, weights = "", name_or_path
    if not weights:
        raise UsageError("load_model needs weights: name a file")
    name_or_path, weights = os.fspath(name_or_path), os.fspath(weights)
    device = _device(device)

    def build(content: Dict) -> nn.Module:
        cfg = _config_of(content, weights, name_or_path, opts)
        cfg.MODEL.DEVICE = device
        cfg.MODEL.TIMM.PRETRAINED = False  # the weights hold all
        return KNetTrainer.build_model(cfg)

    loader = _Loader(build)
    loader.load(weights)
    model = loader.model.eval()
    model.info = model.info.standing_alone()
    return model


class _Loader(KNetCheckpointer):
    """Builds the model that a file is of before its weights are loaded."""

    complete = True
    advice = "name a file of weights"

    def __init__(self, build: Callable[[Dict], nn.Module]):
        super().__init__(nn.Module())
        self._build = build

    def _load_model(self, checkpoint: Dict):
        self.model = self._build(checkpoint)
        checkpoint.pop(INFO_KEY, None)  # the classes are the file's, or as the caller calls them
        return super()._load_model(checkpoint)


def _device(device: Union[str, torch.device, None]) -> str:
    """The name of a device.

    Raises:
        UsageError: there is none of this name.
    """
    has_gpu = torch.cuda.is_available()
    if not device:
        return "cuda" if has_gpu else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UsageError(f"device {device!r} is unknown: use 'cuda' or 'cpu'") from error
    if kind == "cuda" and not has_gpu:
        raise UsageError(f"device {str(device)!r}: there is no GPU, use 'cpu'")
    return str(device)


def _config_of(
    content: Dict, path: str, name_or_path: str, opts: Optional[Sequence[str]]
) -> CfgNode:
    """The config of the model that a file is of: as named, or as the file tells.

    Raises:
        UsageError: neither names one.
    """
    info = read_info(content, path)
    if info is not None and not name_or_path:
        merge_options(info.cfg, [str(word) for word in opts or ()])
        return info.cfg
    if not name_or_path:
        return _published_config(content, path, opts)
    cfg = get_config(name_or_path, opts)
    if info is not None and not cfg.MODEL.KNET.CLASSES:
        # what the rows of the weights mean does not depend on what data lies here
        cfg = ModelInfo(cfg, info.classes).standing_alone().cfg
    return cfg


def _published_config(content: Dict, path: str, opts: Optional[Sequence[str]]) -> CfgNode:
    """The config of an official file.

    Raises:
        UsageError: the file is none of the published models.
    """
    state_dict = content_of(content)
    architecture = recognize(state_dict, {}).architecture if is_official(state_dict) else None
    config = architecture and published_config(architecture)
    if not config:
        raise UsageError(
            f"{path} does not tell its config, and is none of the published models: name the "
            "config too (--config-file), as in load_model('output/config.yaml', weights)"
        )
    logger.info("%s: the config is taken to be %s", path, config)
    # a published head without kernel update has no config of its own
    return get_config(config, ["MODEL.KNET.NUM_STAGES", architecture.stages, *(opts or ())])


def _find(name_or_path: Union[str, os.PathLike]) -> Path:
    name_or_path = os.fspath(name_or_path)
    file = find_config(name_or_path)
    if file is not None:
        return file
    known = config_names()
    close = difflib.get_close_matches(name_or_path.removesuffix(".yaml"), known, n=3, cutoff=0.3)
    raise UsageError(
        f"there is no config {name_or_path!r}, neither as a file nor by name; "
        + (f"did you mean {' or '.join(close)}" if close else f"known are {', '.join(known)}")
    )
