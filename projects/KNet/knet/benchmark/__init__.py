"""Time, memory and operations of K-Net by its parts, beside other models on the same machine."""

from .jobs import ALTERNATIVES, DTYPES, KINDS, Settings
from .made_up import SCENES
from .plot import plot
from .report import describe_machine, table
from .run import measure

__all__ = [
    "ALTERNATIVES",
    "DTYPES",
    "KINDS",
    "SCENES",
    "Settings",
    "describe_machine",
    "measure",
    "plot",
    "table",
]
