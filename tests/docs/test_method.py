"""docs/method.md: the code beside the equations is the code, and the stage runs."""

import re
import textwrap

import pytest

from tests.conftest import REPO
from tests.docs.pages import blocks

PAGE = REPO / "docs" / "method.md"
CODE = REPO / "projects" / "KNet"
FILES = re.findall(r"^(?:`(knet/\S+\.py)`|```python\n(.*?)^```)$", PAGE.read_text(), re.M | re.S)


def excerpts():
    """(file, text) of the excerpts: each is of the last file that was named before it."""
    file = None
    for named, text in FILES:
        file = named or file
        if text and not text.startswith("import"):
            yield file, text


@pytest.mark.parametrize("file, text", excerpts())
def test_an_excerpt_is_in_its_file(file, text):
    source = (CODE / file).read_text()
    indented = (textwrap.indent(text, " " * 4 * depth) for depth in range(5))
    assert any(each.rstrip() + "\n" in source for each in indented)


def test_the_stage_runs(capsys):
    (block,) = (b for b in blocks(PAGE, "python") if b.text.startswith("import"))
    exec(block.text, {})
    assert "[1, 153, 256]" in capsys.readouterr().out


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`(knet/[\w/]+\.py)`", PAGE.read_text()))
    assert len(named) > 6 and len(list(excerpts())) > 9
    assert all((CODE / name).is_file() for name in named)
