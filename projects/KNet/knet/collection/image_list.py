"""The images of a collection: from files, folders, globs and lists."""

import os
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ..data.image_files import find_images, image_ids
from ..errors import UsageError

__all__ = ["ID_COLUMN", "list_images"]

ID_COLUMN = "image_id"
LIST_SUFFIXES = (".txt", ".csv", ".parquet")

# Path of an image, and the id that a list gives it
Entry = Tuple[str, Optional[int]]


def list_images(inputs: Sequence[str], column: str, output: str) -> pa.Table:
    """Find the images, once each, in the order given.

    Args:
        inputs: images, folders and patterns (see :func:`knet.data.image_files.find_images`), and
            lists: ``.txt`` with a path a line, ``.csv`` and ``.parquet`` with a column of paths
            and, if wanted, a column "image_id". Paths in a list start at its folder; whether they
            exist is not looked at.
        column: of the paths.
        output: folder of the results, where no image is looked for.

    Returns:
        table of ``image_id`` (int64) and ``image`` (absolute path). Where no list gives ids they
        are those of :func:`knet.data.image_files.image_ids`.

    Raises:
        UsageError: an input that does not exist or holds no image, a list that cannot be read or
            lacks the column, ids that are missing or of two images, a path that is no text.
    """
    found: Dict[str, Optional[int]] = {}
    for each in inputs:
        for path, image_id in _entries(os.path.expanduser(each), column, output):
            if found.setdefault(path, image_id) != image_id:
                raise UsageError(f"{path} is listed as {found[path]} and as {image_id}: keep one")
    try:
        paths = pa.array(list(found), pa.string())
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {error.object!r} is not in UTF-8: rename that file") from error
    return pa.table({ID_COLUMN: pa.array(_ids(found), pa.int64()), "image": paths})


def _entries(path: str, column: str, output: str) -> Iterator[Entry]:
    if os.path.isfile(path) and path.lower().endswith(LIST_SUFFIXES):
        yield from _listed(path, column)
        return
    results = os.path.realpath(output)  # may be below a folder of images
    for file in find_images([path], lambda folder: os.path.realpath(folder) == results):
        yield os.path.abspath(file), None


def _listed(path: str, column: str) -> Iterator[Entry]:
    try:
        table = _read_list(path, column)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise UsageError(f"cannot read the list {path}: {_one_line(error)}") from error
    if column not in table.column_names:
        raise UsageError(
            f"{path} has no column '{column}' but {', '.join(table.column_names) or 'none'}: name "
            "the one with the images' paths (--column)"
        )
    images = table[column].to_pylist()
    ids = table[ID_COLUMN].to_pylist() if ID_COLUMN in table.column_names else [None] * len(images)
    if not images:
        raise UsageError(f"the list {path} is empty: give one with images")
    folder = os.path.dirname(os.path.abspath(path))
    for row, (image, image_id) in enumerate(zip(images, ids), 1):
        if not isinstance(image, str) or not image:
            raise UsageError(f"{path} has {image!r} as '{column}' in row {row}: paths are texts")
        if ID_COLUMN in table.column_names and type(image_id) is not int:
            raise UsageError(
                f"{path} has {image_id!r} as '{ID_COLUMN}' in row {row}: ids are whole numbers"
            )
        yield os.path.normpath(os.path.join(folder, image)), image_id


def _read_list(path: str, column: str) -> pa.Table:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".parquet":
        file = pq.ParquetFile(path)
        wanted = [name for name in (column, ID_COLUMN) if name in file.schema_arrow.names]
        return file.read(wanted) if column in wanted else file.schema_arrow.empty_table()
    if suffix == ".csv":
        as_text = pa.csv.ConvertOptions(column_types={column: pa.string()})
        return pa.csv.read_csv(path, convert_options=as_text)
    with open(path, encoding="utf-8-sig") as file:
        lines = [line.rstrip("\r\n") for line in file]
    return pa.table({column: pa.array([line for line in lines if line.strip()], pa.string())})


def _ids(found: Dict[str, Optional[int]]) -> List[int]:
    ids = list(found.values())
    given = [image_id for image_id in ids if image_id is not None]
    if not given:
        return image_ids(list(found))
    if len(given) < len(ids):
        raise UsageError(
            f"{len(given)} of {len(ids)} images have an {ID_COLUMN}: give one to all or to none"
        )
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UsageError(f"the {ID_COLUMN} {twice} is that of several images: make them different")
    return ids


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
