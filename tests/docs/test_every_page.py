"""Of every page: commands are taken, snippets load, keys exist, files that links name are there."""

import ast
import importlib
import json
import re

import pytest
import yaml

from knet.engine.main import load_config
from tests.conftest import REPO
from tests.docs.pages import KEY, all_blocks, blocks, commands, name_of, pages
from tests.docs.shell import NotChecked, check

PAGES = pages()
# said to be other models' keys, or to be none
FOREIGN = re.compile(r"MODEL\.MASK_FORMER|INPUT\.DATASET_MAPPER_NAME|MODEL\.KNET\.NUM_QUERIES")


@pytest.fixture(scope="module")
def config():
    return load_config("")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands(page):
    text = page.read_text()
    for line, all_is_shell in commands(page):
        try:
            check(line, own_files=text)
        except (NotChecked, ValueError):  # ValueError: quotes of a line that is no shell
            assert not all_is_shell, f"no test knows the command: {line}"
        except SystemExit as end:  # 0: --help
            assert end.code == 0, f"the program does not take: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text(page):
    """Those in `...`: with an ellipsis for the rest, or whole."""
    for line in re.findall(r"`((?:python|torchrun|make|pip) [^`]+)`", page.read_text()):
        try:
            check(" ".join(line.replace("...", "").split()))
        except NotChecked:
            pass
        except SystemExit as end:
            assert end.code == 0, f"the program does not take: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_keys(page, config):
    for key in sorted(set(KEY.findall(page.read_text()))):
        if FOREIGN.match(key):
            continue
        node = config
        for name in key.split("."):
            assert name in node, f"{key} is no key"
            node = node[name]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links(page):
    for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


def names(found):
    return [f"{block.page}-{i}" for i, block in enumerate(found)]


YAML = list(all_blocks("yaml"))


@pytest.mark.parametrize("block", YAML, ids=names(YAML))
def test_yaml(block, tmp_path):
    content = yaml.safe_load(block.text)
    if "_BASE_" in content:
        base = content["_BASE_"]
        content["_BASE_"] = str(REPO / "configs" / base)
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
        load_config(str(tmp_path / "own.yaml"))


JSON = list(all_blocks("json"))


@pytest.mark.parametrize("block", JSON, ids=names(JSON))
def test_json(block):
    json.loads(block.text)


PYTHON = list(all_blocks("python"))


@pytest.mark.parametrize("block", PYTHON, ids=names(PYTHON))
def test_python(block, monkeypatch):
    """It is Python, what it imports is there, and so is what it takes from ``knet``."""
    monkeypatch.syspath_prepend(str(REPO / "projects/KNet/examples/extend"))
    monkeypatch.syspath_prepend(str(REPO / "projects/KNet/knet/export"))  # knet_runtime
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = imported(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), node.module
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("knet."):
            value = importlib.import_module("knet")
            for name in ast.unparse(node).split(".")[1:]:
                if not name.isidentifier():
                    break
                value = getattr(value, name)


def imported(name: str):
    """A module; skips where another's package is not installed."""
    is_ours = name.startswith(("knet", "own_"))
    return importlib.import_module(name) if is_ours else pytest.importorskip(name)


def test_no_page_is_without_checks():
    """The patterns above find something."""
    assert len(PAGES) > 20 and len(YAML) > 6 and len(PYTHON) > 20
    assert sum(len(commands(page)) for page in PAGES) > 80
    assert blocks(REPO / "docs" / "train.md", "bash")
