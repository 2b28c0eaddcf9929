"""Colours of classes, in the notations that files and people have for them."""

import colorsys
import re
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import ImageColor

from ..errors import DatasetError, UsageError

__all__ = ["fixed_color", "metadata_colors", "read_colors"]

Color = Tuple[int, int, int]  # RGB, 0..255

_HEX = re.compile(r"(0x)?([0-9a-f]{6}([0-9a-f]{2})?)", re.IGNORECASE)
_REMEDY = "write [r, g, b] of 0 to 255, '#rrggbb', or leave it out"


def fixed_color(index: int) -> Color:
    """The colour of a class that has none of its own, by its position.

    The hues of two positions that follow each other are a golden angle apart.
    """
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def metadata_colors(metadata, key: str) -> List[Color]:
    """The colours in Detectron2 metadata; a class without one gets that of its position.

    Args:
        metadata: of a data set.
        key: "thing_colors" or "stuff_colors".

    Returns:
        a colour for each entry, [] where there are no entries.

    Raises:
        UsageError: an entry is no colour.
    """
    values = metadata.get(key)
    try:
        colors = read_colors([] if values is None else list(values), lambda i: f"{key}[{i}]")
    except (DatasetError, TypeError) as error:
        raise UsageError(f"the metadata of '{metadata.get('name', '?')}': {error}") from error
    return [fixed_color(i) if color is None else color for i, color in enumerate(colors)]


def read_colors(values: Sequence[Any], name: Callable[[int], str]) -> List[Optional[Color]]:
    """Colours as RGB of 0..255.

    A colour is three numbers (a fourth, of transparency, is left away) in a list, tuple, array or
    text; "#rrggbb", also without "#", or "#rgb"; what CSS has ("rgb(18, 171, 159)", "teal");
    or {"r":, "g":, "b":}. Numbers count to 255; to 1 where none is larger and one is no integer.

    Args:
        values: one a class, None or "" for no colour.
        name: of the entry with an index, for the sentence.

    Raises:
        DatasetError: an entry is no colour.
    """
    read = []
    for i, value in enumerate(values):
        try:
            read.append(None if _is_none(value) else _numbers(value))
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{name(i)} is {value!r}, which is no colour: {_REMEDY}") from error
    # of those whose notation does not tell what they count to
    flat = [number for color in read if color and not color.to_255 for number in color.numbers]
    to_1 = max(flat, default=0) <= 1 and any(isinstance(number, float) for number in flat)
    return [None if color is None else color.rgb(to_1) for color in read]


class _Numbers(NamedTuple):
    """Three numbers, and whether the notation says that they count to 255."""

    numbers: List[Union[int, float]]
    to_255: bool

    def rgb(self, to_1: bool) -> Color:
        scale = 255 if to_1 and not self.to_255 else 1
        red, green, blue = (round(scale * number) for number in self.numbers)
        return red, green, blue


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _numbers(value: Any) -> _Numbers:
    """
    Raises:
        TypeError, ValueError: it is no colour.
    """
    to_255 = False
    if isinstance(value, str):
        value = _read_text(value.strip())
        to_255 = isinstance(value, tuple)
    elif isinstance(value, dict):
        value = {str(key).lower(): number for key, number in value.items()}
        value = [value.get(key) for key in "rgb"]
    numbers = [_number(number) for number in np.asarray(value, dtype=object).ravel()]
    if len(numbers) not in (3, 4) or not all(0 <= number <= 255 for number in numbers[:3]):
        raise ValueError(value)
    return _Numbers(numbers[:3], to_255)


def _read_text(text: str) -> Union[List[str], Tuple[int, ...]]:
    """A tuple of 0..255, or a list of numbers as texts.

    Raises:
        ValueError: it is no colour.
    """
    parts = re.split(r"[\s,;]+", text.strip("[]() "))
    if len(parts) >= 3 and not text[0].isalpha():
        return parts
    if text.lower().startswith("rgba") and "%" not in text:  # Pillow takes no transparency of 0.5
        text = f"rgb({','.join(re.split('[(,)]', text)[1:4])})"
    match = _HEX.fullmatch(text)
    return ImageColor.getrgb(f"#{match.group(2)}" if match else text.lower())[:3]


def _number(value: Any) -> Union[int, float]:
    """An int, or a float where it was written as one.

    Raises:
        TypeError, ValueError: it is no number.
    """
    if isinstance(value, (bool, np.bool_)) or value is None:
        raise TypeError(value)
    if isinstance(value, str):
        return float(value) if "." in value or "e" in value.lower() else int(value)
    return int(value) if isinstance(value, (int, np.integer)) else float(value)
