"""docs/training.md: its keys exist, off by default, and its commands are understood."""

import re
import shlex

from detectron2.engine import default_argument_parser

from knet.engine.main import load_config
from tests.conftest import REPO

PAGE = (REPO / "docs" / "training.md").read_text()
KEY = r"(?:SOLVER|MODEL|MODEL_EMA|TEST|DATALOADER|MODEL_FILE)(?:\.[A-Z_]+)+"
ON = ("True", "bfloat16")


def value(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def test_keys_exist():
    cfg = load_config("")
    keys = set(re.findall(KEY, PAGE))
    assert len(keys) > 10
    for key in keys:
        value(cfg, key)


def test_what_the_page_switches_on_is_off():
    cfg = load_config("")
    pairs = re.findall(rf"({KEY}) (True|bfloat16|\d+)", PAGE)
    switched = {key for key, word in pairs if word in ON and "NORM_EVAL" not in key}
    assert len(switched) >= 6
    assert not any(value(cfg, key) is True or value(cfg, key) == "bfloat16" for key in switched)
    assert cfg.SOLVER.ACCUMULATE == 1


def test_commands_are_understood(monkeypatch):
    monkeypatch.chdir(REPO)
    commands = re.findall(r"^    python train_net.py (.*)$", PAGE, re.M)
    assert len(commands) == 2
    for command in commands:
        args = default_argument_parser().parse_args(shlex.split(command))
        config = args.config_file if "configs/" in args.config_file else ""
        load_config(config, args.opts)
    for options in re.findall(r"^    ((?:SOLVER|MODEL_EMA)\..*)$", PAGE, re.M):
        load_config("", options.split())
