"""README.md and docs/start.md: what a newcomer types works; README stays on one screen or two."""

import re

import pytest

from tests.conftest import REPO
from tests.docs.pages import blocks
from tests.tools.demo import load_program, make_model_file, write_picture

README = REPO / "README.md"


@pytest.fixture
def place(tmp_path, tiny_options, monkeypatch):
    """Where `make demo` has been, with a picture of the reader's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output/demo").mkdir(parents=True)
    make_model_file(tiny_options, "output/demo/model_final.pth")
    write_picture(tmp_path / "street.jpg", 0)
    write_picture(tmp_path / "photos" / "a.jpg", 1)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_python(place, page):
    (block,) = blocks(REPO / page, "python")
    namespace = {}
    exec(block.text, namespace)
    assert namespace["result"]["panoptic_seg"][0].shape == (50, 70)


def test_the_demo(place):
    words = re.search(r"knet predict (.*)", README.read_text()).group(1).split()
    assert load_program().main(words) == 0
    assert [path.name for path in (place / "results").rglob("a.*")]


def test_readme_is_short():
    assert len(README.read_text().splitlines()) < 110
    assert all(f"make {target}" in README.read_text() for target in ("demo", "test", "docs"))
