"""Config files by their path, or by the name of a published one, away from a checkout too."""

import difflib
import os
from pathlib import Path
from typing import List, Optional, Union

__all__ = ["close_names", "config_names", "find_base", "find_config"]

# In the package, and beside its source
_FOLDERS = [Path(__file__).parent / "configs", Path(__file__).parents[3] / "configs"]


def find_config(name_or_path: Union[str, os.PathLike]) -> Optional[Path]:
    """The file of a config, None if there is none.

    Args:
        name_or_path: of any file; or its name below ``configs``, with or without ``.yaml`` and
            ``configs/``, e.g. ``coco/panoptic/knet_r50_1x``.
    """
    name = os.fspath(name_or_path)
    below = name.removeprefix("configs/")
    for place in (Path(name), *(folder / below for folder in _FOLDERS)):
        for file in (place, Path(f"{place}.yaml")):
            if file.is_file():
                return file
    return None


def find_base(path: str) -> str:
    """The file that a config names as its ``_BASE_``: beside it, else a published one.

    Args:
        path: the folder of the config and what it names, e.g. ``mine/knet_instance_fast.yaml``.
    """
    if os.path.isfile(path):
        return path
    parts = Path(os.path.normpath(path)).parts
    for start in range(len(parts)):
        for folder in _FOLDERS:
            file = folder.joinpath(*parts[start:])
            if file.is_file():
                return str(file)
    return path


def config_names() -> List[str]:
    """Of the published configs, without ``.yaml``; those that only others build on left out."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    if folder is None:
        return []
    files = (f.relative_to(folder) for f in folder.rglob("*.yaml") if not f.name.startswith("Base"))
    return sorted(str(file.with_suffix("")) for file in files)


def close_names(name: str) -> List[str]:
    """Published configs that may be meant by a name that is none."""
    return difflib.get_close_matches(name.removesuffix(".yaml"), config_names(), n=3, cutoff=0.6)
