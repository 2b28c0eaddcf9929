"""docs/kernels.md, and views and servers of docs/evaluation.md: commands, options, keys."""

import re
import shlex
import textwrap

import pytest

from knet.commands import draw_kernels
from knet.submission import SERVERS
from tests.conftest import REPO
from tests.tools.demo import make_model_file, write_picture
from tests.visualization.test_kernels import POINTS

PAGE = (REPO / "docs" / "kernels.md").read_text()
EVALUATION = (REPO / "docs" / "evaluation.md").read_text()


@pytest.fixture
def place(tmp_path, tiny_options, monkeypatch):
    """A folder with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    make_model_file({**tiny_options, **POINTS}, "model_final.pth")
    write_picture(tmp_path / "photos" / "street.jpg", 1)
    return tmp_path


def test_the_command_gives_the_files_of_the_page(place):
    (words,) = (
        shlex.split(line)[2:]
        for line in PAGE.splitlines()
        if line.endswith("--output kernels")
        if "photos" in line
    )
    assert draw_kernels.main([*words, "--confidence-threshold", "0"]) == 0
    named = set(re.findall(r"^\| `(\S+\.png)`", PAGE, re.M))
    found = {path.name.replace("street", "<picture>") for path in (place / "kernels").iterdir()}
    assert found == named


def test_the_snippet_runs(place):
    (block,) = re.findall(r"\n\n((?:    .*\n|\n)+)\nThe model is not", PAGE)
    names = {}
    exec(compile(textwrap.dedent(block), "docs/kernels.md", "exec"), names)
    assert names["record"].masks(-1, (200, 300)).shape[1:] == (200, 300)


def test_the_page_shows_every_option(capsys):
    with pytest.raises(SystemExit):
        draw_kernels.parse_args(["--help"])
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert len(flags) > 7 and {flag for flag in flags if flag not in PAGE} == set()


def test_the_page_names_every_server():
    assert set(re.findall(r"^\| `([a-z][a-z0-9-]+)` \|", EVALUATION, re.M)) == set(SERVERS)


def test_the_defaults_of_views_are_those_of_the_page(tiny_config):
    aug = tiny_config.TEST.AUG
    told = dict(re.findall(r"^\| `TEST\.AUG\.([A-Z_]+)` \| `(.+?)` \|", EVALUATION, re.M))
    assert told.pop("MIN_SIZES") == "(400, 500, ..., 1200)"
    assert list(aug.MIN_SIZES) == [400, 500, 600, 700, 800, 900, 1000, 1100, 1200]
    assert told == {key: str(aug[key]) for key in ("ENABLED", "MAX_SIZE", "FLIP")}
