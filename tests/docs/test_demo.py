"""The commands of docs/demo.md, as they stand there, on a tiny model."""

import re
import shlex

import pytest

from knet.video import write_video
from tests.conftest import REPO
from tests.tools.demo import Shown, camera, load_program, make_model_file, write_picture

PAGE = (REPO / "docs" / "demo.md").read_text()


def commands():
    """The words of each command that starts the program."""
    blocks = re.sub(r"\\\n *", "", PAGE)
    return [
        shlex.split(line)[2:]
        for line in blocks.splitlines()
        if line.startswith("    python projects/KNet/tools/demo.py")
    ]


@pytest.fixture
def place(tmp_path, tiny_options, monkeypatch):
    """A folder with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    make_model_file(tiny_options, "model_final.pth")
    for name in ("street.jpg", "photos/a.jpg", "photos/b.png", "more/c.png"):
        write_picture(tmp_path / name, len(name))
    return tmp_path


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_page_works(place, monkeypatch, words):
    if "drive.mp4" in words or "camera.mp4" in words:
        pytest.importorskip("av", reason="PyAV is not installed")
        write_video("drive.mp4", camera())
    program = load_program()
    monkeypatch.setattr(program, "Window", Shown)
    monkeypatch.setattr(program, "camera_frames", camera)
    assert program.main(words) == 0
    if "--output" in words:
        assert (place / words[words.index("--output") + 1]).exists()


def test_the_page_shows_every_option(capsys):
    with pytest.raises(SystemExit):
        load_program().parse_args(["--help"])
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert len(flags) > 15 and {flag for flag in flags if flag not in PAGE} == set()
