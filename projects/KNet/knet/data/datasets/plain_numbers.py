"""Numbers of a json that tools write as text or as 7.0: ids and sizes become whole numbers."""

from typing import Any, Dict, Iterable, Sequence, Tuple

from ...errors import Tell, refuse

__all__ = ["number_ids", "plain_crowd", "plain_size", "whole"]


def number_ids(places: Sequence[Tuple[Iterable[Dict], str]]) -> bool:
    """Ids that are written otherwise become numbers, in place, if all of them can.

    Args:
        places: entries and the key of the id in them; all are of one kind.

    Returns:
        whether something was changed.
    """
    found = [(entry, key) for entries, key in places for entry in entries if key in entry]
    if all(type(entry[key]) is int for entry, key in found):
        return False
    try:
        numbers = [whole(entry[key]) for entry, key in found]
    except (TypeError, ValueError):
        return False
    for (entry, key), number in zip(found, numbers):
        entry[key] = number
    return True


def plain_size(image: Dict, json_file: str, tell: Tell = refuse) -> bool:
    """``height`` and ``width``, where they are there, become whole numbers of pixels, in place.

    One that is none is told, and taken out.

    Returns:
        whether something was changed.
    """
    changed = False
    for key in ("height", "width"):
        value = image.get(key)
        if (type(value) is int and value > 0) or key not in image:
            continue
        try:
            image[key], changed = whole(value), True
        except (TypeError, ValueError):
            image[key] = 0
        if image[key] < 1:
            tell(
                "entry",
                f"the image {image.get('file_name')} of {json_file} has the {key} {value!r}: it "
                "must be a number of pixels",
            )
            del image[key]
    return changed


def plain_crowd(entry: Dict, what: str, tell: Tell = refuse) -> bool:
    """``iscrowd`` of an annotation or a segment, where it is there, becomes 0 or 1, in place.

    One that is neither is told, and becomes 0.

    Returns:
        whether it was changed.
    """
    crowd = entry.get("iscrowd", 0)
    if type(crowd) is int and crowd in (0, 1):
        return False
    plain = _FLAGS.get(str(crowd).lower())
    if plain is None:
        tell("entry", f"{what} has the iscrowd {crowd!r}: it must be 0 or 1")
    entry["iscrowd"] = plain or 0
    return True


_FLAGS = {"none": 0, "0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def whole(value: Any) -> int:
    """A whole number, as one, as a float or as text.

    Raises:
        ValueError, TypeError: it is none.
    """
    if isinstance(value, bool):
        raise ValueError(value)
    number = float(value)
    if not number.is_integer():  # nor infinite, nor NaN
        raise ValueError(value)
    return value if isinstance(value, int) else int(number)
