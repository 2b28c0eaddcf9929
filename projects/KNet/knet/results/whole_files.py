"""Files that appear whole or not at all, and what tells two apart."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

__all__ = ["replacing", "sha256_of"]


@contextmanager
def replacing(path: Path, temporary: Optional[Path] = None) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when the block has ended without error.

    Args:
        path: of the finished file; its folder is made.
        temporary: on the same disk; beside ``path`` if left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: str) -> str:
    """The hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
