"""What is wrong with a config, in words: yacs speaks of Python's classes."""

import ast
import difflib
import os
import re
from contextlib import suppress
from typing import Iterator, Optional

from detectron2.config import CfgNode

from ..config_files import close_names

__all__ = ["close_key", "dotted_keys", "plainly"]

_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?:\w+\.)*(\w+)'> vs\. <class '(?:\w+\.)*(\w+)'>\) with values "
    r"\(.* vs\. (.*)\) for config key: (\S+)",
    re.DOTALL,
)
_UNKNOWN = re.compile(r"'?Non-existent config key: ([^\s']+)'?")
_FORMS = {
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number with a point, such as 1.0",
    "str": "a text",
    "CfgNode": "keys of its own",
}
# lists of what has keys of its own
_LISTS_OF_MAPPINGS = ("DATASETS.CUSTOM", "MODEL.KNET.CLASSES")
# of what is no yaml of keys: a list, nothing, an image, a file of weights
_NO_CONFIG = (AttributeError, TypeError, UnicodeDecodeError)


def plainly(error: Exception, cfg: CfgNode, of_key: bool = False) -> str:
    """An error of a ``CfgNode`` in a line; what it does not know stays as it is.

    Args:
        cfg: what was merged into.
        of_key: of a value whose key is told already.
    """
    said = " ".join(str(error).split())
    mismatch, unknown = _MISMATCH.fullmatch(said), _UNKNOWN.fullmatch(said)
    if mismatch:
        kind, its_kind, value, key = mismatch.groups()
        is_mapping = its_kind in ("CfgNode", "dict")
        takes = f"takes {_FORMS.get(kind) or _list_like(key, '' if is_mapping else value)}"
        if of_key:
            return f"it {takes}"
        return f"{key} {'has keys' if is_mapping else f'is {_shown(value)}'}, but {takes}"
    if unknown:
        key = unknown.group(1)
        near = close_key(key, cfg)
        return f"{key} is no key of the config{f': did you mean {near}?' if near else ''}"
    if isinstance(error, RecursionError):
        return "its _BASE_ leads back to it"
    if isinstance(error, IsADirectoryError):
        return f"its _BASE_ is the folder {error.filename}: name a file in it"
    if "'startswith'" in said or (isinstance(error, FileNotFoundError) and not error.filename):
        return "its _BASE_ names no file: give it one, or leave it out"
    if isinstance(error, FileNotFoundError):
        near = close_names(os.path.basename(error.filename))
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        return f"its _BASE_ {error.filename} does not exist{hint}"
    if isinstance(error, _NO_CONFIG):
        return f"it is no yaml file of keys and values ({said})"
    return said


def close_key(key: str, cfg: CfgNode) -> Optional[str]:
    """The key that may be meant by one that is none."""
    near = difflib.get_close_matches(key.upper(), list(dotted_keys(cfg)), n=1)
    return near[0] if near else None


def dotted_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """All keys, with their sections'."""
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from dotted_keys(value, f"{prefix}{key}.")


def _shown(value: str) -> str:
    return value if value and len(value) < 60 else "something else"


def _list_like(key: str, value: str) -> str:
    """How a single value is written where a list of them is wanted."""
    if key in _LISTS_OF_MAPPINGS:
        return "a list of parts with keys: write '- ' before the first key of each, or [{...}]"
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(value)
    if not isinstance(value, (str, int, float)) or str(value)[:1] in ("", "(", "[", "{"):
        return 'a list, such as "(1, 2)"'
    return f'a list: "({value!r},)"'
