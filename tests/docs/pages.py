"""What stands in the pages: blocks of code, commands, keys."""

import re
import textwrap
from pathlib import Path
from typing import Iterator, List, NamedTuple, Tuple

from tests.conftest import REPO

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n)+)")
# the sections of Detectron2's config that a page may name keys of
KEY = re.compile(
    r"\b(?:MODEL|MODEL_EMA|MODEL_FILE|SOLVER|INPUT|DATALOADER|DATASETS|TEST|LOGGING)"
    r"(?:\.[A-Z][A-Z0-9_]*[A-Z0-9])+\b"
)


class Block(NamedTuple):
    """A block of a page."""

    page: str  # its path in the checkout
    language: str
    text: str
    above: str  # the line of text before it


def pages() -> List[Path]:
    """Every page that a reader may meet."""
    found = [*REPO.glob("*.md"), *(REPO / "docs").glob("*.md")]
    return sorted(found + list((REPO / "projects").rglob("*.md")))


def name_of(page: Path) -> str:
    return page.relative_to(REPO).as_posix()


def blocks(page: Path, *languages: str) -> List[Block]:
    """The fenced blocks of a page in some languages; of all without any named."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        above = text[: match.start()].rstrip().rpartition("\n")[2]
        found.append(Block(name_of(page), match.group(1), match.group(2), above))
    return [block for block in found if not languages or block.language in languages]


def all_blocks(*languages: str) -> Iterator[Block]:
    for page in pages():
        yield from blocks(page, *languages)


def commands(page: Path) -> List[Tuple[str, bool]]:
    """The lines of shell of a page, continued ones joined; and whether all of the block is shell.

    Those of ``bash`` blocks, and lines of indented and nameless blocks, of which some are no shell.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for block in blocks(page, "bash", ""):
        found += [(line, block.language == "bash") for line in lines_of(block.text)]
    for match in INDENTED.finditer(FENCE.sub("", text)):
        found += [(line, False) for line in lines_of(textwrap.dedent(match.group()))]
    return found


def lines_of(script: str) -> List[str]:
    lines = re.sub(r"\\\n\s*", " ", script).splitlines()
    return [line.strip() for line in lines if line.strip()]
