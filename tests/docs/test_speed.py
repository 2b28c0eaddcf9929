"""docs/speed.md: its commands are ones that the program takes."""

import re
import shlex

from knet.commands import benchmark
from tests.conftest import REPO

PAGE = (REPO / "docs" / "speed.md").read_text()
PROGRAM = "projects/KNet/tools/benchmark.py"


def test_commands_and_options():
    parse = benchmark.parse_args
    commands = re.findall(rf"^    python {PROGRAM}((?:.*\\\n)*.*)", PAGE, flags=re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        args = parse(shlex.split(command.replace("\\\n", " ")))
        assert all((REPO / file).is_file() for file in args.config_files)
    smaller = parse(shlex.split(commands[1].replace("\\\n", " ")))
    assert smaller.alternatives == [] and smaller.output_size == (480, 640)

    options = re.findall(r"`(--\w[^`]*)`", PAGE)
    assert len(options) > 10
    for option in options:
        words = shlex.split(option)
        if len(words) > 1:
            parse(words)
        assert hasattr(args, words[0][2:].replace("-", "_"))
