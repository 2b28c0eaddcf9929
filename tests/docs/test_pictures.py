"""docs/pictures.md: its commands are ones that the programs take, its pictures are there."""

import ast
import importlib
import re
import shlex

import knet_cli
from knet.engine.main import load_config
from tests.conftest import REPO

DOCS = REPO / "docs"
PAGE = (DOCS / "pictures.md").read_text(encoding="utf-8")


def commands():
    """(name, arguments as its program reads them) of each."""
    for block in re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE):
        for text in re.findall(r"^    knet (.*(?:\n     .*)*)", block, re.MULTILINE):
            name, *words = shlex.split(text.replace("\\\n", " "))
            program = importlib.import_module(knet_cli.COMMANDS[name].module)
            yield name, program.parse_args(words)


def test_commands_and_options():
    found = list(commands())
    assert [name for name, _ in found] == ["draw"] * 7 + ["model-file", "predict"]
    for option in re.findall(r"`--([\w-]+)", PAGE.partition("**Of a photograph**")[0]):
        assert hasattr(found[0][1], option.replace("-", "_"))


def test_the_classes_with_colours_are_those_of_the_config():
    ((_, args),) = (found for found in commands() if found[0] == "model-file")
    key, classes = args.opts
    cfg = load_config("compare/camvid_knet_semantic_fpn_fast", [key, classes])
    names = cfg.DATASETS.CUSTOM[0]["CLASSES"]
    assert [each["name"] for each in ast.literal_eval(classes)] == names


def test_pictures_are_there():
    pictures = re.findall(r"^`docs/(\w+\.jpg)`", PAGE, re.MULTILINE)
    assert len(pictures) == 4 and all((DOCS / name).is_file() for name in pictures)
