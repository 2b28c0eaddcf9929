"""Text of users where the locale's encoding is not UTF-8: Windows' code pages, the C locale.

What this package opens itself, it opens as UTF-8. Detectron2 and COCO's tools open by the locale.
"""

import atexit
import codecs
import io
import json
import locale
import logging
import os
import sys
import tempfile
from typing import Callable

from detectron2.utils.logger import log_first_n

__all__ = ["json_for_locale", "text_for_locale", "write_any_text"]

LOGGERS = ("knet", "detectron2", "fvcore")


def write_any_text() -> None:
    """Let the log files be UTF-8, and the terminal show escapes for characters that it lacks.

    A program calls it first, and again when Detectron2 has opened a log file. It warns where Python
    itself takes the names of files to be in another encoding.
    """
    if not _is_utf8(sys.getfilesystemencoding()):
        log_first_n(
            logging.WARNING,
            f"this locale takes the names of files to be in {sys.getfilesystemencoding()}: set "
            "PYTHONUTF8=1 if files are not found, or their names look wrong",
            name=__name__,
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _is_utf8(stream.encoding):
            stream.reconfigure(errors="backslashreplace")
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            stream = getattr(handler, "stream", None)
            if not isinstance(stream, io.TextIOWrapper) or stream in (sys.stdout, sys.stderr):
                continue
            if stream.closed:
                continue
            # file names that are no UTF-8 have surrogates
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def json_for_locale(path: str) -> str:
    """A json with the same content that whoever opens by the locale reads rightly.

    Args:
        path: a json in UTF-8, local.

    Returns:
        the path itself, or that of a copy in ASCII, which is removed when the program ends.

    Raises:
        ValueError: it is no json, or not in UTF-8.
    """
    return _for_locale(path, lambda text: json.dumps(json.loads(text)))


def text_for_locale(path: str) -> str:
    """The same for any text to be shown: what is not ASCII is escaped in the copy.

    Raises:
        ValueError: it is not in UTF-8.
    """
    return _for_locale(path, lambda text: text.encode("ascii", "backslashreplace").decode("ascii"))


def _for_locale(path: str, to_ascii: Callable[[str], str]) -> str:
    if _is_utf8(locale.getpreferredencoding(False)):
        return path
    with open(path, encoding="utf-8-sig") as file:
        text = file.read()
    if text.isascii():
        return path
    handle, copy = tempfile.mkstemp(suffix=os.path.splitext(path)[1])
    atexit.register(os.remove, copy)
    with open(handle, "w", encoding="ascii") as file:
        file.write(to_ascii(text))
    return copy


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"
