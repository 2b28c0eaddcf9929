"""The image files that a user names: files, folders, patterns."""

import glob
import os
from typing import Callable, Iterator, List, Sequence

from ..errors import UsageError

__all__ = ["SUFFIXES", "find_images", "image_ids"]

# Of the formats that are read (knet.data.image_reading.FORMATS)
SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".bmp", ".dib"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".pcx", ".sgi"),
    *(".tga",),
)


def find_images(
    inputs: Sequence[str],
    skip_folder: Callable[[str], bool] = lambda folder: False,
    option: str = "--input",
) -> List[str]:
    """Files of images, in the order of ``inputs``, those of a folder by name, each once.

    A folder gives the files in and below it whose names end as images' do; what is hidden (its name
    starts with a dot) is left out. A file or a pattern is taken at its word.

    Args:
        inputs: files, folders, and patterns as the shell's, with ``**`` for any folders.
        skip_folder: of which folders below the given ones to leave out.
        option: that names them, for the sentence.

    Raises:
        UsageError: one does not exist, a pattern matches nothing, a folder holds no image.
    """
    files: List[str] = []
    for given in map(os.path.expanduser, inputs):
        # a name may look like a pattern
        found = [given] if os.path.exists(given) else sorted(glob.glob(given, recursive=True))
        if not found:
            raise UsageError(
                f"no file matches {given}: correct the pattern of {option}"
                if glob.has_magic(given)
                else f"{given} is an address: download it, and give the file as {option}"
                if "://" in given
                else f"{given} does not exist: correct {option}"
            )
        before = len(files)
        for path in found:
            files += _images_below(path, skip_folder) if os.path.isdir(path) else [path]
        if len(files) == before:
            raise UsageError(
                f"{given} holds no file that ends as an image's does (.jpg, .png, .tif, ...): "
                f"correct {option}, or give such files themselves"
            )
    first = {}
    for file in files:
        first.setdefault(os.path.abspath(file), file)
    return list(first.values())


def _images_below(folder: str, skip_folder: Callable[[str], bool]) -> Iterator[str]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not skip_folder(os.path.join(where, name))
        )
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield os.path.join(where, name)


def image_ids(files: Sequence[str]) -> List[int]:
    """A number for each image, for COCO's files.

    The number that its name is, as COCO's are ("000000000139.jpg"), if the names of all are
    different numbers; else 1, 2, ... in the order given.
    """
    stems = [os.path.splitext(os.path.basename(file))[0] for file in files]
    if all(stem.isascii() and stem.isdigit() and len(stem) < 19 for stem in stems):
        ids = [int(stem) for stem in stems]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(files) + 1))
