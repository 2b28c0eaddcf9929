"""Files that are written: each in its folder, none over an input or another, each whole."""

import hashlib
import logging
import os
import re
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

import portalocker

from .errors import UsageError

__all__ = [
    "alone_in",
    "distinct_names",
    "file_name_of",
    "output_names",
    "refuse_overwriting",
    "relative_name",
    "replacing",
    "sha256_of",
]

logger = logging.getLogger(__name__)

# Part of no file's name on one system or another; "\\" is a folder's end on Windows
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\/:*?"<>|\ud800-\udc7f\udd00-\udfff]')
MAX_BYTES = 240  # of a file's name; 255 is the limit, and what is half-written has a longer one


def output_names(sources: Sequence[str], ending: str = "", root: Optional[str] = None) -> List[str]:
    """The path, below any folder, of an output for each source.

    Sources below ``root`` keep their folders: ``root/a/1.jpg`` gives ``a/1`` and the ending.
    Others, wherever they are (absolute, ``..``), give their name alone. The same sources in the
    same order give the same names, so that a program that was interrupted finds its work again.

    Args:
        sources: paths, of files that need not exist.
        ending: of the outputs, e.g. ".png"; "" leaves it to the caller to add one.
        root: folder of the sources; None: the deepest that has them all.

    Returns:
        a relative path for each source, all different (see :func:`distinct_names`).
    """
    if root is None:
        folders = [os.path.dirname(os.path.abspath(source)) for source in sources]
        root = os.path.commonpath(folders) if folders else ""
    return distinct_names([relative_name(source, root) for source in sources], ending)


def relative_name(source: str, root: Optional[str]) -> str:
    """A source's path below ``root`` without its ending; only its name if it is not below it.

    No part of it is "..", absolute, or has characters that are special to some system.

    Args:
        source: a path, absolute or relative to the working folder.
        root: a folder; None: of which nothing is known.
    """
    path = os.path.abspath(source)
    below = os.path.relpath(path, root) if root is not None else os.path.basename(path)
    if below.split(os.sep)[0] == os.pardir:
        below = os.path.basename(path)
    return os.path.join(*map(file_name_of, os.path.splitext(below)[0].split(os.sep)))


def file_name_of(text: str) -> str:
    """A text as the name of one file or folder: the text itself where that is possible.

    Characters that are special to some system become "_"; the end of a text that is too long
    becomes a number that is its own.
    """
    name = _UNSAFE.sub("_", text)
    if name.strip(". ") == "":  # "", ".", "..", and what Windows takes for them
        name = "_" * max(1, len(name))
    return _shortened(name, MAX_BYTES)


def _shortened(name: str, limit: int) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= limit:
        return name
    mark = "-" + hashlib.sha1(encoded).hexdigest()[:8]
    return encoded[: limit - len(mark)].decode("utf-8", "ignore") + mark


def distinct_names(names: Sequence[str], ending: str = "") -> List[str]:
    """Names with an ending, made different by a number where they are not: 1.png, 1-2.png.

    Upper and lower case count as equal, as they do on many disks.

    Args:
        names: relative paths without ending, as of :func:`relative_name`.
        ending: of all files.
    """
    files: Set[str] = set()
    folders: Set[str] = set()
    made = []
    for name in names:
        folder, base = os.path.split(name)
        if any(_key(parent) in files for parent in (folder, *_parents(folder))):
            folder = ""  # what would be its folder is a file
        number, path = 1, ""
        while not path or _key(path) in files or _key(path) in folders:
            mark = ("" if number == 1 else f"-{number}") + ending
            path = os.path.join(folder, _shortened(base, MAX_BYTES - len(mark)) + mark)
            number += 1
        files.add(_key(path))
        folders.update(map(_key, _parents(path)))
        made.append(path)
    return made


def _parents(path: str) -> List[str]:
    """The folders of a relative path: of a/b/1.png a/b and a."""
    parents = []
    while path := os.path.dirname(path):
        parents.append(path)
    return parents


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def refuse_overwriting(
    folder: str, outputs: Iterable[str], inputs: Iterable[str], *, change: str
) -> None:
    """Demand that files can be written without harm to what is read, or to another folder.

    Args:
        folder: where they are written.
        outputs: their paths below it.
        inputs: paths of the files that are read; looked at only where an output exists already.
        change: what names the folder, for the sentence, e.g. "OUTPUT_DIR".

    Raises:
        UsageError: an output is an input, under this or another name (a link), a link leads out of
            the folder, or there is a file in place of a folder, or the reverse.
    """
    _require_folder(folder, change)
    if not os.path.isdir(folder):
        return
    there = _existing(folder, outputs, change)
    for path in inputs if there else ():
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # not on this disk
            continue
        written = there.get((status.st_dev, status.st_ino))
        if written is not None:
            raise UsageError(
                f"{written} would be written over, but is read ({path}): choose another {change}"
            )


def _existing(folder: str, outputs: Iterable[str], change: str) -> Dict[Tuple[int, int], str]:
    """Those of the outputs that exist: {(disk, number on it): path}.

    Raises:
        UsageError: see :func:`refuse_overwriting`.
    """
    root = os.path.join(os.path.realpath(folder), "")
    folders: Dict[str, str] = {}  # without links
    there = {}
    for output in outputs:
        path = os.path.join(folder, output)
        parent, name = os.path.split(path)
        is_new = parent not in folders
        if is_new:
            folders[parent] = os.path.realpath(parent)
        real = os.path.join(folders[parent], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not real.startswith(root):
            raise UsageError(
                f"{path} is a link to {real}, out of the folder that is written into: remove it, "
                f"or choose another {change}"
            )
        if is_new:
            _require_folder(parent, change)
        if os.path.isdir(real):
            raise UsageError(
                f"{path} is a folder, and a file of this name is to be written: remove it, or "
                f"choose another {change}"
            )
        if os.path.exists(real):
            status = os.stat(real)
            there[status.st_dev, status.st_ino] = path
    return there


def _require_folder(path: str, change: str) -> None:
    """
    Raises:
        UsageError: it can be no folder, as a file has its name or that of a folder above.
    """
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise UsageError(
            f"{path} is no folder, and files are to be written below it: remove it, or choose "
            f"another {change}"
        )


@contextmanager
def replacing(path: Path, temporary: Optional[Path] = None) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when the block has ended without error.

    Args:
        path: of the finished file; its folder is made.
        temporary: on the same disk; beside ``path`` if left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # of this process alone: another may be writing the same file
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, lock: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder.

    Args:
        folder: for the sentence.
        lock: a file in it that stays there.

    Raises:
        UsageError: another process is in the folder.
    """
    with open(lock, "ab") as file:
        try:
            portalocker.lock(
                file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
            )
        except portalocker.AlreadyLocked as error:
            raise UsageError(
                f"another run is writing to {folder}: wait for it, or give another --output"
            ) from error
        except portalocker.LockException:
            logger.warning("the disk of %s has no locks: start no other run there", folder)
        yield


def sha256_of(path: str) -> str:
    """The hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
