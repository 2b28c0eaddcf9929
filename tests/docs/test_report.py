"""docs/report.md: its commands are understood, its kinds of failure are those of the code."""

import re
import shlex

from knet.report.failures import KINDS
from tests.conftest import REPO
from tests.tools.test_outputs_of_programs import program

PAGE = (REPO / "docs" / "report.md").read_text()


def test_commands_are_understood():
    commands = re.findall(
        r"^    python projects/KNet/tools/report\.py ((?:.*\\\n)*.+)$", PAGE, re.M
    )
    assert len(commands) == 3
    tool = program("report")
    for command in commands:
        tool.check_args(tool.parse_args(shlex.split(command.replace("\\\n", " "))))


def test_every_option_and_kind_is_there():
    options = set(re.findall(r"^\| `(--[\w-]+)` \|", PAGE, re.M))
    known = set(vars(program("report").parse_args(["x"]))) - {"runs", "weights", "output"}
    assert {o[2:].replace("-", "_") for o in options} == known - {"config_file"}
    kinds = re.findall(r"^\| ([a-z ]+) \|", PAGE.split("## Kinds of failure")[1], re.M)
    assert [kind for kind in kinds if kind != "kind"] == list(KINDS)
