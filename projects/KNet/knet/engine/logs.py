"""The loggers of a run: plain text in files, and no traceback above a sentence for the user."""

import logging
import os
import re
import sys

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..errors import DatasetError, UsageError

__all__ = ["setup_loggers", "tidy_loggers"]

_NAMES = ("knet", "detectron2", "fvcore")
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def setup_loggers(output_dir: str) -> None:
    """Detectron2's loggers, as its ``default_setup`` sets them up (again, which is harmless)."""
    rank = comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    tidy_loggers()


def tidy_loggers() -> None:
    """Make what handlers write fit for where they write it; a second call is harmless.

    Files, and a stdout that is no terminal or has ``NO_COLOR`` set, get no colour codes. The
    terminal gets no record of an error that the user can mend: what it says is printed when the
    program ends; the files have its traceback.
    """
    for logger in map(logging.getLogger, _NAMES):
        streams = set()
        for handler in list(logger.handlers):
            if not isinstance(handler, logging.StreamHandler):
                continue
            # set up twice: each line would be there twice; or by a run whose output is closed
            if id(handler.stream) in streams or getattr(handler.stream, "closed", False):
                logger.removeHandler(handler)
                continue
            streams.add(id(handler.stream))
            in_color = handler.stream.isatty() and "NO_COLOR" not in os.environ
            if not in_color and not isinstance(handler.formatter, _Plain):
                handler.setFormatter(_Plain(handler.formatter))
            if handler.stream in (sys.stdout, sys.stderr):
                handler.addFilter(_is_no_user_error)  # one function: added once


class _Plain(logging.Formatter):
    """Another formatter's lines without colour codes."""

    def __init__(self, formatter: logging.Formatter):
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        return _COLOR.sub("", self._formatter.format(record))


def _is_no_user_error(record: logging.LogRecord) -> bool:
    if not record.exc_info:
        return True
    # what stands behind such an error is logged for debugging
    is_of_user = isinstance(record.exc_info[1], (UsageError, DatasetError))
    return not is_of_user and record.levelno > logging.DEBUG
