"""Text of users in pictures: names of classes and files, in any script, drawn as they are."""

import re
import unicodedata
from functools import cache, lru_cache
from itertools import groupby
from typing import FrozenSet, List, Tuple

import matplotlib
from detectron2.utils.visualizer import Visualizer
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

__all__ = ["PlainTextVisualizer", "drawable"]

FAMILY = "sans-serif"
# Whether a character is read leftwards, by Unicode's bidirectional class
DIRECTIONS = {"R": True, "AL": True, "L": False}
BRACKETS = "()[]{}<>"
MIRRORED = str.maketrans(BRACKETS, ")(][}{><")
NUMBER = re.compile(r"%?\d+(?:[.,:]\d+)*%?")
BOX = "\u25a1"  # for a character that no font of the machine has
REPLACEMENT = "\ufffd"  # for one that is none: bytes of file names that are no UTF-8, control codes


class PlainTextVisualizer(Visualizer):
    """Detectron2's, whose texts are no formulas and have the fonts that their characters need."""

    def draw_text(self, text, position, **kwargs):
        output = super().draw_text("", position, **kwargs)
        set_text(output.ax.texts[-1], text)
        return output


def set_text(artist: Text, text: str) -> None:
    """Let a text of matplotlib say this, whatever it is."""
    text, families = drawable(text)
    if matplotlib.__version_info__ < (3, 11):  # newer ones do it themselves
        text = "\n".join(map(_in_visual_order, text.split("\n")))
    artist.set_parse_math(False)  # or "$" would start a formula
    artist.set_family(families)
    artist.set_text(text)


def drawable(text: str) -> Tuple[str, List[str]]:
    """What can be drawn of a text, and the families of fonts that it takes.

    Returns:
        the text, with a box for a character that no font has; the families in order of preference.
    """
    known = _characters(findfont(FontProperties(family=[FAMILY])))
    text = "".join(c if c == "\n" or _is_text(c) else REPLACEMENT for c in text)
    missing = frozenset(c for c in text if c != "\n" and ord(c) not in known)
    families, lost = _families(missing)
    if lost:
        # marks that only change their neighbour, such as an emoji's, leave nothing behind
        marks = ("Cf", "Mn", "Sk")
        boxes = {ord(c): "" if unicodedata.category(c) in marks else BOX for c in lost}
        text = text.translate(boxes)
    return text, [FAMILY, *families]


def _is_text(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs")


def _in_visual_order(line: str) -> str:
    """A line with words that are read from right to left, as it is seen from left to right.

    Unicode's algorithm for what names consist of: words, numbers and brackets, without nesting.
    Arabic letters stay unjoined.
    """
    kinds = [DIRECTIONS.get(unicodedata.bidirectional(c)) for c in line]
    if True not in kinds:
        return line
    base = next(kind for kind in kinds if kind is not None)  # of the first word
    kinds = [base if c in BRACKETS else kind for c, kind in zip(line, kinds)]
    numbers = {i for number in NUMBER.finditer(line) for i in range(*number.span())}
    before = base
    for i, kind in enumerate(kinds):  # a number goes with the word before it
        kinds[i] = before if i in numbers else kind
        before = before if kinds[i] is None else kinds[i]
    leftwards = list(kinds)
    for i in (i for i, kind in enumerate(kinds) if kind is None):
        # what stands between two words goes with them if they agree, else with the line
        first, last = (
            next((kind for kind in part if kind is not None), base)
            for part in (kinds[i::-1], kinds[i:])
        )
        leftwards[i] = first if first == last else base
    runs = []
    for is_leftward, run in groupby(range(len(line)), key=leftwards.__getitem__):
        text = "".join(line[i] for i in run)
        runs.append(_reversed(text) if is_leftward else text)
    return "".join(reversed(runs) if base else runs)


def _reversed(text: str) -> str:
    """Written from the right; numbers in it stay."""
    return NUMBER.sub(lambda match: match[0][::-1], text[::-1].translate(MIRRORED))


@lru_cache(maxsize=64)
def _families(characters: FrozenSet[str]) -> Tuple[Tuple[str, ...], FrozenSet[str]]:
    """Families of the machine's fonts that have these characters, and the characters left."""
    families, left = [], set(characters)
    for name, path in sorted({(font.name, font.fname) for font in fontManager.ttflist}):
        if not left:
            break
        if "Last Resort" in name:  # has a box for everything
            continue
        found = {c for c in left if ord(c) in _characters(path)}
        if found:
            families.append(name)
            left -= found
    return tuple(families), frozenset(left)


@cache
def _characters(path: str) -> FrozenSet[int]:
    """The code points of a font; none of one that cannot be scaled, as colour emoji, or read."""
    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
