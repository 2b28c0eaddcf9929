"""Data sets checked as a whole: every fault told at once, by the code that training uses."""

from .kinds import KINDS
from .report import Fault, Report
from .run import check_data

__all__ = ["KINDS", "Fault", "Report", "check_data"]
