"""docs/commands.md: every command, its file, and the config of the page."""

import re
import shlex

import knet_cli
from knet.engine.main import load_config
from tests.conftest import REPO

PAGE = (REPO / "docs" / "commands.md").read_text(encoding="utf-8")


def test_the_table_has_every_command_and_its_file():
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| `(\S+\.py)[^`]*` \| (.*)\|$", PAGE, re.MULTILINE)
    assert [name for name, *_ in rows] == list(knet_cli.COMMANDS)
    for name, file, page in rows:
        module = knet_cli.COMMANDS[name].module
        assert f"from {module} import main" in (REPO / file).read_text(encoding="utf-8")
        for link in re.findall(r"\((.*)\)", page):
            assert (REPO / "docs" / link).is_file()


def test_the_config_and_the_lines_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    lines = [shlex.split(line) for line in re.findall(r"^    (knet .*)$", PAGE, re.MULTILINE)]
    assert len(lines) > 5
    for _, command, *words in lines:
        assert command == "--help" or command in knet_cli.COMMANDS
        if "--config-file" in words:
            cfg = load_config(words[words.index("--config-file") + 1])
            assert cfg.MODEL.KNET.KERNEL_HEAD.NAME == "PointKernelHead"
