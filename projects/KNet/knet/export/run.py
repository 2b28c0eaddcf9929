"""From a loaded model to a checked file."""

import os
import shutil
from pathlib import Path
from typing import List, Union

from torch import nn

from ..files import replacing
from . import knet_runtime
from .check import Comparison, compare
from .description import describe
from .formats import read, write
from .network import Network

__all__ = ["export_model"]


def export_model(
    model: nn.Module, path: Union[str, os.PathLike], kind: str = "onnx"
) -> List[Comparison]:
    """Write the network with its description, read it again and compare it with the model.

    Beside an ONNX file ``knet_runtime.py`` is put, which makes results of what it gives.

    Args:
        model: of :func:`knet.load_model`, on the CPU.
        path: of the file.
        kind: one of :data:`knet.export.FORMATS`.

    Returns:
        see :func:`knet.export.compare`; the file is there whatever they say.

    Raises:
        UsageError: the format cannot have this model, or a package is missing.
    """
    path = Path(path)
    network = Network(model)
    settings = describe(network)
    # its suffix tells torch what it is
    with replacing(path, path.with_name(f".{os.getpid()}.{path.name}")) as temporary:
        write(network, temporary, kind, settings)
        comparisons = compare(network, read(temporary, kind), settings["input"]["dtype"])
    if kind == "onnx":
        shutil.copyfile(knet_runtime.__file__, path.parent / "knet_runtime.py")
    return comparisons
