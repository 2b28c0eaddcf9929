"""Is what ``--weights`` names a file? Told before anything is built."""

import os
from pathlib import Path

from ..errors import UsageError

__all__ = ["need_weights"]


def need_weights(path: str) -> None:
    """
    Args:
        path: of a file, or an address, which is left to the loading.

    Raises:
        UsageError: it is neither.
    """
    if "://" in path or os.path.isfile(path):
        return
    if not os.path.isdir(path):
        raise UsageError(f"{path} does not exist: correct --weights")
    found = sorted(Path(path).glob("*.pth"), key=lambda file: (file.stem == "model_final", file))
    example = f", such as {found[-1]}" if found else ""
    raise UsageError(f"{path} is a folder: name a file in it as --weights{example}")
