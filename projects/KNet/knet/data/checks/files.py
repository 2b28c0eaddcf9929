"""Which files do not exist: a folder is listed once, which is quicker than to ask for each file."""

import os
from typing import Dict, Iterable, List, Set

from ...errors import Tell

__all__ = ["FILE_KEYS", "files_of", "is_address", "missing_files", "tell_of_shared_files"]

FILE_KEYS = ("file_name", "pan_seg_file_name", "sem_seg_file_name")


def is_address(path: str) -> bool:
    """Is it to be opened by a handler of Detectron2's PathManager, as http:// and s3:// are?"""
    return "://" in path


def files_of(dicts: Iterable[Dict]) -> List[str]:
    """All the files that Detectron2 dicts name."""
    return [d[key] for d in dicts for key in FILE_KEYS if d.get(key)]


def missing_files(paths: Iterable[str]) -> List[str]:
    """Those of these files that are not there, in their order, each once.

    Addresses are left alone.
    """
    folders: Dict[str, Set[str]] = {}
    missing = {}
    for path in paths:
        if is_address(path):
            continue
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = _names(folder)
        # asked again: upper and lower case may be the same, or a folder hidden from listing
        if name not in folders[folder] and not os.path.isfile(path):
            missing[path] = None
    return list(missing)


def _names(folder: str) -> Set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def tell_of_shared_files(dicts: Iterable[Dict], tell: Tell) -> None:
    """Images that are one file, and panoptic PNGs or label maps that are."""
    first: Dict[str, Dict] = {}
    for d in dicts:
        for key in FILE_KEYS:
            if not d.get(key):
                continue
            path = d[key] if is_address(d[key]) else os.path.abspath(d[key])
            other = first.setdefault(path, d)
            if other is not d:
                ids = f"{other.get('image_id')!r} and {d.get('image_id')!r}"
                tell("one file", f"{d[key]} belongs to the images {ids}")
