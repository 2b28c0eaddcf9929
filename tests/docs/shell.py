"""Is a command of the pages one that its program takes? By the program's own parser."""

import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path
from typing import List

from detectron2.engine import default_argument_parser

from knet.engine.main import load_config
from tests.conftest import REPO

TOOLS = "projects/KNet/tools/"
EXAMPLES = "projects/KNet/examples/extend"
SERVE = "projects/KNet/examples/serve"
# of the shell, and programs of others; what is installed as knet has a test of its own
NOT_CHECKED = {
    *("#", "#!/bin/bash", "#SBATCH", ".", "cd", "exit", "export", "if", "status=$?"),
    *("CC=clang", "curl", "docker", "git", "gh", "knet", "mkdocs", "npm", "ray", "ruff", "uvicorn"),
}


class NotChecked(Exception):
    """No command that this module knows."""


def check(line: str, own_files: str = "") -> None:
    """
    Args:
        line: of shell.
        own_files: text of the page, which may describe configs of the reader's own.

    Raises:
        NotChecked: its program is unknown.
        AssertionError, SystemExit, UsageError: its program does not take it.
    """
    words = shlex.split(expand(line), comments=True)
    while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):  # variables before a command
        words.pop(0)
    if not words or words[0].startswith("#"):
        return
    program, words = words[0], words[1:]
    if program in ("torchrun", "srun"):
        if "python" in words:
            words.remove("python")
        program, words = "python", words[words.index("train_net.py") :]
    if program == "python":
        python(words, own_files)
    elif program == "make":
        targets = set(re.findall(r"^(\w+):", (REPO / "Makefile").read_text(), re.M))
        assert {word for word in words if "=" not in word} <= targets
    elif program == "pip":
        pip(words)
    elif program not in NOT_CHECKED:
        raise NotChecked(f"{program}: {line}")


def expand(line: str) -> str:
    """``a{b,c}`` -> ``ab ac``, as the shell does."""
    group = re.search(r"(\S*)\{([^\s{}]+,[^\s{}]*)\}(\S*)", line)
    if not group:
        return line
    before, choices, after = group.groups()
    words = " ".join(before + choice + after for choice in choices.split(","))
    return expand(line[: group.start()] + words + line[group.end() :])


def python(words: List[str], own_files: str) -> None:
    program, words = words[0], words[1:]
    if program == "train_net.py":
        args = train_net_parser().parse_args(words)
        check_config(args.config_file, args.opts, own_files)
    elif program.startswith(TOOLS):
        args = tool(program).parse_args(words)
        if getattr(args, "config_file", None) and hasattr(args, "opts"):
            check_config(args.config_file, args.opts or [], own_files)
    elif program == f"{EXAMPLES}/train_net.py":
        python(["train_net.py", *words], own_files)
    elif program == "-m":
        found = importlib.util.find_spec(words[0]) or (REPO / SERVE / words[0]).is_dir()
        assert found, words[0]
        assert all((REPO / word).exists() for word in words[1:] if "/" in word)
    elif program != "-c":
        raise NotChecked(f"python {program}")


def train_net_parser():
    parser = default_argument_parser()
    parser.add_argument("--debug", action="store_true")
    return parser


@cache
def tool(path: str):
    """The module of a program of the checkout: the package's, where it is a command."""
    if importlib.util.find_spec(f"knet.commands.{Path(path).stem}"):
        return importlib.import_module(f"knet.commands.{Path(path).stem}")
    spec = importlib.util.spec_from_file_location(f"docs_{path[:-3].split('/')[-1]}", REPO / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_config(path: str, opts: List[str], own_files: str) -> None:
    """A config of the checkout is there; one of the reader's own is told on the page."""
    file = REPO / re.sub(r"^(\.\./)+", "", path)
    is_own = f"# {path}\n" in own_files or not path.split("/")[0].endswith(("configs", ".."))
    is_any = "NAME" in path
    assert file.is_file() or is_own or is_any, f"{path} does not exist"
    values = [word for word in opts if word != "..."]
    load_config(str(file) if file.is_file() else "", values)


def pip(words: List[str]) -> None:
    """The extras of this project are ones."""
    extras = set(re.findall(r'^ {8}"(\w+)": \[', (REPO / "setup.py").read_text(), re.M))
    for word in words:
        asked = re.fullmatch(r"(?:\.|knet-detectron2)\[([\w,]+)\]", word)
        if asked:
            assert set(asked.group(1).split(",")) <= extras, word
