"""The commands of docs/many_devices.md are understood."""

import re
import shlex

from detectron2.engine import default_argument_parser

from knet.engine.main import load_config
from tests.conftest import REPO

PAGE = (REPO / "docs/many_devices.md").read_text()
BLOCKS = "".join(re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)).replace("\\\n", "")


def test_the_commands_are_understood(monkeypatch):
    monkeypatch.chdir(REPO)
    commands = re.findall(r"train_net\.py (.+)$", BLOCKS, re.M)
    assert len(commands) == 2
    for words in commands:
        args = default_argument_parser().parse_args(shlex.split(words))
        load_config(args.config_file, args.opts)
    for words in re.findall(r"train_net\.py (--[^`]+) \.\.\.`", PAGE):
        args = default_argument_parser().parse_args(shlex.split(words))
        assert not args.opts, words
