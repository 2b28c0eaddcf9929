"""Renaming the tensors of a state dict by pairs of templates."""

import re
from typing import Dict, List, Sequence, Tuple

import torch

__all__ = ["Table", "conv_norm", "prefixed", "rename", "reversed_table"]

# Pairs (theirs, ours) of templates: {p} stands for the last part of a name, other fields for
# numbers; both sides have the same fields.
Table = List[Tuple[str, str]]


def conv_norm(theirs: str, ours: str, norm: str) -> Table:
    """A convolution and its norm: the authors' block of two and Detectron2's ``Conv2d``.

    Args:
        norm: their name of the norm, ``bn`` or ``gn``.
    """
    return [
        (f"{theirs}.conv.{{p}}", f"{ours}.{{p}}"),
        (f"{theirs}.{norm}.{{p}}", f"{ours}.norm.{{p}}"),
    ]


def prefixed(table: Sequence[Tuple[str, str]], theirs: str, ours: str) -> Table:
    """The table with a prefix before the names of each side."""
    return [(theirs + their, ours + our) for their, our in table]


def reversed_table(table: Sequence[Tuple[str, str]]) -> Table:
    return [(ours, theirs) for theirs, ours in table]


def rename(
    state_dict: Dict[str, torch.Tensor], table: Sequence[Tuple[str, str]]
) -> Tuple[Dict[str, torch.Tensor], List[str]]:
    """From the names of the first templates to those of the second.

    Returns:
        the same tensors under their new names, and the names that no template fits.
    """
    rules = [(_pattern(source), re.sub(r"{(\w)}", r"\\g<\1>", target)) for source, target in table]
    renamed, unknown = {}, []
    for name, tensor in state_dict.items():
        for pattern, replacement in rules:
            match = pattern.fullmatch(name)
            if match:
                renamed[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(name)
    return renamed, unknown


def _pattern(template: str) -> "re.Pattern[str]":
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    pattern = pattern.replace("{p}", r"(?P<p>\w+)")
    return re.compile(re.sub(r"{(\w)}", r"(?P<\1>\\d+)", pattern))
