#!/usr/bin/env python
"""Writes docs/configuration.md: every key that K-Net adds, as knet/config.py explains it.

python projects/KNet/tools/document_config.py            after a change of knet/config.py
python projects/KNet/tools/document_config.py --check    status 1 if the page is out of date
"""

import argparse
import ast
import html
import itertools
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

import knet.config
from knet.config import add_knet_config

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"

# of the keys whose default, None, does not tell it
TYPES_BESIDE_NONE = {"SOLVER.FUSED": "bool or None"}

INTRODUCTION = """\
# Configuration, key by key

Every key that K-Net adds to Detectron2's config: its type, its default and its
meaning. The defaults are those of the published models. Detectron2's own keys (`MODEL.RESNETS`,
`MODEL.FPN`, `INPUT`, `SOLVER`, `DATALOADER`, `TEST`) mean what
[its reference](https://detectron2.readthedocs.io/en/latest/modules/config.html) says. Those of its
DeepLab project come along, for semantic models: `MODEL.SEM_SEG_HEAD.ASPP_CHANNELS`,
`MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS`, `MODEL.RESNETS.RES4_DILATION` and others.

A key is set in a yaml file, whose `_BASE_` is the file that it starts from, or at the end of a
command line:

```yaml
_BASE_: "knet_panoptic.yaml"
MODEL:
  KNET:
    NUM_KERNELS: 150
```

```bash
python train_net.py --config-file configs/knet_panoptic.yaml \\
    MODEL.KNET.NUM_KERNELS 150 INPUT.SCALE_RANGE "(0.5, 2.0)"
```

A key that does not exist, or a value of another type, is told before anything starts.
`config.yaml` in `OUTPUT_DIR` has all keys of a run, Detectron2's too. In Python,
`knet.get_config("knet_panoptic")` gives a config.

*`projects/KNet/tools/document_config.py` writes this page from the comments in
`projects/KNet/knet/config.py`.*
"""


class Key(NamedTuple):
    """An assignment in knet/config.py."""

    name: str
    is_section: bool
    meaning: str  # "" for none
    is_inherited: bool  # the meaning is that of the line above


def keys_in_source(source: str) -> Iterator[Key]:
    """The keys that the functions of knet/config.py set, in their order, with their comments."""
    lines = source.splitlines()
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef) and function.name.startswith("_add_"):
            yield from _keys_of_function(function, lines)


def _keys_of_function(function: ast.FunctionDef, lines: List[str]) -> Iterator[Key]:
    names = {"cfg": ""}  # local name -> the section that it stands for
    above, meaning = 0, ""  # of the assignment above: its last line, and what was said of it
    for statement in function.body:
        if not isinstance(statement, ast.Assign):
            continue
        paths = [_path(target, names) for target in statement.targets]
        name = next((path for path in paths if path), None)
        if name is None:  # a local name, of a section or of something else
            section = _path(statement.value, names)
            names.update({t.id: section for t in statement.targets if isinstance(t, ast.Name)})
            continue
        comment = _comment_above(lines, statement.lineno)
        is_inherited = not comment and above == statement.lineno - 1
        meaning = comment or (meaning if is_inherited else "")
        above = statement.end_lineno
        is_section = isinstance(statement.value, ast.Call)
        for target in statement.targets:
            if isinstance(target, ast.Name):
                names[target.id] = name
        yield Key(name, is_section, meaning, is_inherited)


def _path(node: ast.expr, names: Dict[str, str]) -> Optional[str]:
    """``knet.NECK.NAME`` -> "MODEL.KNET.NECK.NAME"; None for what is no key."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not parts or not isinstance(node, ast.Name) or names.get(node.id) is None:
        return None
    return ".".join(filter(None, (names[node.id], *parts)))


def _comment_above(lines: List[str], line: int) -> str:
    """The comment that ends right above a line, which counts from 1."""
    words = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("#"):
            break
        words.insert(0, text.strip().lstrip("# "))
    return " ".join(words)


def own_defaults() -> Dict[str, object]:
    """Each key that K-Net adds, with its default."""
    before, after = get_cfg(), get_cfg()
    add_deeplab_config(before)
    add_knet_config(after)
    theirs = leaves(before)
    return {key: value for key, value in leaves(after).items() if key not in theirs}


def leaves(node: CfgNode, prefix: str = "") -> Dict[str, object]:
    found = {}
    for key, value in node.items():
        name = prefix + key
        found.update(leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name: value})
    return found


def markdown(text: str) -> str:
    """A comment as a cell of a table: what is typed is set as code."""
    typed = r'"[^"]*"|\b[A-Z][A-Z_]+(?:\.[A-Z_*]+)+|\b(?:True|False|None)\b'
    pieces = re.split(f"({typed})", text)
    said = [f"`{p}`" if i % 2 else html.escape(p, quote=False) for i, p in enumerate(pieces)]
    return "".join(said).replace("|", "\\|").replace("*.", "\\*.")


def page() -> str:
    """
    Raises:
        ValueError: a key has no comment or no type, or is not set where this program looks.
    """
    keys = list(keys_in_source(Path(knet.config.__file__).read_text(encoding="utf-8")))
    defaults = own_defaults()
    silent = [key.name for key in keys if not key.is_section and not key.meaning]
    unseen = sorted(set(defaults) - {key.name for key in keys})
    untyped = sorted(k for k, v in defaults.items() if v is None and k not in TYPES_BESIDE_NONE)
    if untyped:
        raise ValueError(f"of default None, not in TYPES_BESIDE_NONE: {', '.join(untyped)}")
    if silent or unseen:
        raise ValueError(f"without a comment in knet/config.py: {', '.join(silent + unseen)}")
    sections: Dict[str, List[str]] = {}
    for key in keys:
        if key.is_section:
            continue
        rows = sections.setdefault(key.name.rpartition(".")[0], [])
        value = defaults[key.name]
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        kind = type(value).__name__ if value is not None else TYPES_BESIDE_NONE[key.name]
        rows.append(f"| `{key.name}` | {kind} | `{shown}` | {markdown(key.meaning)} |")
    blocks = [INTRODUCTION]
    for section, rows in sections.items():
        blocks.append(f"## {section}\n\n{_said_of_section(section, keys)}")
        blocks.append("| key | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows))
    return "\n".join(block.rstrip() + "\n" for block in blocks)


def _said_of_section(section: str, keys: List[Key]) -> str:
    """The comment of a section, unless it is that of its first key."""
    for key, following in itertools.pairwise(keys):
        if key.name == section and key.is_section and not following.is_inherited:
            return markdown(key.meaning) + ".\n" if key.meaning else ""
    return ""


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        text = page()
    except ValueError as error:
        print(f"document_config.py: {error}", file=sys.stderr)
        return 1
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(
        f"document_config.py: {PAGE.name} is not what knet/config.py says: write it anew by "
        "python projects/KNet/tools/document_config.py",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
