"""The published models by name, from a checkout or from an installed package."""

import difflib
from pathlib import Path
from typing import List, Optional, Sequence

import torch
from detectron2.config import CfgNode
from torch import nn

from .engine import KNetTrainer
from .engine.checkpointer import KNetCheckpointer
from .engine.main import load_config
from .errors import UsageError

__all__ = ["get_config", "load_model"]

# In the package, and beside its source
_FOLDERS = [Path(__file__).parent / "configs", Path(__file__).parents[3] / "configs"]


def get_config(name_or_path: str, opts: Optional[Sequence[str]] = None) -> CfgNode:
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
    name_or_path: str,
    weights: str,
    *,
    device: Optional[str] = None,
    opts: Optional[Sequence[str]] = None,
) -> nn.Module:
    """A model with its weights, ready to predict.

    Args:
        name_or_path, opts: see :func:`get_config`.
        weights: file or address: of this project's training, or official.
        device: e.g. ``cuda:1`` or ``cpu``; by default a GPU if there is one.

    Returns:
        the model in eval mode. It takes a list of dicts with ``image`` ((3, H, W), 0..255, channels
        in the order of the config's INPUT.FORMAT), resized as the config's INPUT.*_TEST say, and
        optionally ``height`` and ``width`` of the wanted result. Its parameters need no gradient,
        nor do its results; ``model.train().requires_grad_()`` makes it learn again.

    Raises:
        UsageError: no such config, or weights that are not the model's.
    """
    if not weights:
        raise UsageError("load_model needs weights: name a file")
    has_gpu = torch.cuda.is_available()
    if device and device.startswith("cuda") and not has_gpu:
        raise UsageError(f"device {device!r}: there is no GPU, use 'cpu'")
    cfg = get_config(name_or_path, opts)
    cfg.MODEL.DEVICE = device or ("cuda" if has_gpu else "cpu")
    cfg.MODEL.TIMM.PRETRAINED = False  # the weights hold all
    model = KNetTrainer.build_model(cfg).eval()
    checkpointer = KNetCheckpointer(model)
    checkpointer.complete = True
    checkpointer.load(weights)
    return model.requires_grad_(False)


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    for place in (path, *(folder / name_or_path for folder in _FOLDERS)):
        for file in (place, Path(f"{place}.yaml")):
            if file.is_file():
                return file
    known = _names()
    close = difflib.get_close_matches(name_or_path.removesuffix(".yaml"), known, n=3, cutoff=0.3)
    raise UsageError(
        f"there is no config {name_or_path!r}, neither as a file nor by name; "
        + (f"did you mean {' or '.join(close)}" if close else f"known are {', '.join(known)}")
    )


def _names() -> List[str]:
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    if folder is None:
        return []
    files = (f.relative_to(folder) for f in folder.rglob("*.yaml") if not f.name.startswith("Base"))
    return sorted(str(file.with_suffix("")) for file in files)
