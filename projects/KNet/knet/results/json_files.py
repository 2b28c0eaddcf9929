"""Json files, written item by item: all of them may be more than the memory holds."""

import json
from pathlib import Path
from typing import Dict, Iterable, TextIO

__all__ = ["write_list", "write_object"]


def write_list(path: Path, items: Iterable[Dict]) -> None:
    """A list."""
    with open(path, "w") as file:
        _write_items(file, items)


def write_object(path: Path, lists: Dict[str, Iterable[Dict]]) -> None:
    """An object of lists."""
    with open(path, "w") as file:
        for i, (name, items) in enumerate(lists.items()):
            file.write(f'{", " if i else "{"}"{name}": ')
            _write_items(file, items)
        file.write("}\n")


def _write_items(file: TextIO, items: Iterable[Dict]) -> None:
    file.write("[")
    for i, item in enumerate(items):
        file.write(",\n" if i else "\n")
        file.write(json.dumps(item))
    file.write("\n]\n")
