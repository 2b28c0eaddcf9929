"""docs/watching.md and docs/weights.md: their commands, the files and numbers that they name."""

import json
import re
import shlex

import pytest

from knet.engine.main import main
from tests.conftest import REPO, pairs
from tests.visualization.test_programs import load

PAGES = {name: (REPO / "docs" / f"{name}.md").read_text() for name in ("watching", "weights")}


def test_the_first_commands(tiny_options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    block = PAGES["watching"].split("\n\n")[1].replace("\\\n", " ")
    train, draw = (shlex.split(line) for line in block.strip().splitlines())
    assert train[:2] == ["python", "train_net.py"]
    # as small as a test can be
    assert main([*train[2:], *pairs({**tiny_options, "TEST.EVAL_PERIOD": 1})]) == 0
    capsys.readouterr()
    output = tmp_path / "output"
    assert draw[1] == "projects/KNet/tools/draw_run.py" and draw[2] == "output/demo"
    assert load("draw_run").main([str(output)]) == 0
    names = {path.name for path in output.iterdir()}
    assert {"log.txt", "metrics.json", "pictures", "inference", "run.png"} <= names
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert {key for record in records for key in record} >= {"val_total_loss", "total_loss", "lr"}
    assert len(list((output / "pictures").glob("iter_*.jpg"))) == 2


@pytest.mark.parametrize("name", PAGES)
def test_the_keys_are_keys(name, tiny_config):
    keys = set(re.findall(r"`([A-Z]+(?:\.[A-Z_]+)+)", PAGES[name]))
    assert keys
    for key in keys:
        node = tiny_config
        for word in key.split("."):
            assert word in node, key
            node = node[word]
