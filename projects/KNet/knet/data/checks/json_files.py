"""The jsons of data sets as they stand: what is not plain in them is told, before it is made so."""

import math
from typing import Any, Dict, List, Optional

from detectron2.utils.file_io import PathManager

from ...errors import DatasetError, Tell
from ..datasets.coco_panoptic import read_json

__all__ = ["read_json_telling"]

_BOM = b"\xef\xbb\xbf"
_SHOWN = 5


def read_json_telling(path: str, what: str, tell: Tell) -> Optional[Dict]:
    """The content of a panoptic or instance json; None if there is none to be used.

    Args:
        path: or address.
        what: see :func:`read_json`.
        tell: told of byte order marks, NaN, keys that occur twice, ids in other notations.
    """
    hooks = _Hooks()
    try:
        content = read_json(
            path,
            what,
            ("images", "categories"),
            parse_constant=hooks.constant,
            object_pairs_hook=hooks.mapping,
        )
    except (DatasetError, OSError, RecursionError, UnicodeError) as error:
        tell("json", str(error))
        return None
    with PathManager.open(path, "rb") as file:
        if file.read(len(_BOM)) == _BOM:
            tell("bom", path)
    for key in hooks.doubled[:_SHOWN]:
        tell("duplicate key", f"{path} has {key!r} twice in one mapping")
    if hooks.constants:
        tell("nan", f"{path} has {len(hooks.constants)} times {hooks.constants[0]}")
    for key in ("images", "categories", "annotations"):
        if not isinstance(content.get(key) or [], list):
            tell("json", f"the '{key}' of {path} are no list")
            return None
    _tell_of_ids(content, path, tell)
    return content


class _Hooks:
    """Of ``json.load``: they keep what a dict loses."""

    def __init__(self):
        self.doubled: List[str] = []
        self.constants: List[str] = []

    def constant(self, text: str) -> float:
        self.constants.append(text)
        return math.nan if text == "NaN" else float(text)

    def mapping(self, pairs: List) -> Dict:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            self.doubled += [key for key in content if keys.count(key) > 1]
        return content


def _tell_of_ids(content: Dict, path: str, tell: Tell) -> None:
    annotations = content.get("annotations") or []
    segments = []
    for annotation in annotations:
        if isinstance(annotation, dict) and isinstance(annotation.get("segments_info"), list):
            segments += annotation["segments_info"]
    for entries, key, what in (
        (content["images"], "id", "images"),
        (content["categories"], "id", "categories"),
        (annotations, "id", "annotations"),
        (annotations, "image_id", "annotations"),
        (annotations, "category_id", "annotations"),
        (segments, "id", "segments_info"),
        (segments, "category_id", "segments_info"),
    ):
        ids = [entry[key] for entry in entries if isinstance(entry, dict) and key in entry]
        if other := [each for each in ids if type(each) is not int]:
            tell("id notation", f"{path} has {_ids(other[0], key, what)}")
        if key == "id" and what in ("categories", "annotations") and _is_zero(ids):
            tell("ids from 0", f"{path} has {_ids(0, key, what)}")


def _ids(value: Any, key: str, what: str) -> str:
    return f"the {key} {value!r} in its {what}"


def _is_zero(ids: List) -> bool:
    return any(str(each) in ("0", "0.0") for each in ids)
