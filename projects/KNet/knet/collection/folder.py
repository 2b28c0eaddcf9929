"""The output folder of a collection: which image is in which shard, and which shards are done."""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import ContextManager, Dict, List, Sequence, Tuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.classes import ModelClass, read_classes
from ..errors import UsageError
from ..files import alone_in, replacing
from .image_list import ID_COLUMN
from .rows import FAILURE_SCHEMA, row_schema

__all__ = ["CollectionFolder"]

_SETTINGS, _IMAGES = "collection.json", "images.parquet"
_SHARDS, _FAILURES, _UNFINISHED = "shards", "failures", "unfinished"


class CollectionFolder:
    """On storage that all workers see. Its files appear whole, and none is changed afterwards.

    Attributes:
        path: of the folder.
        settings: what the results depend on.
        classes: the model's.
        kinds: of results that a row has.
        num_shards: all of them, done or not.
        num_images: all of them.
    """

    def __init__(self, path: str):
        """Open one that :meth:`create` made.

        Raises:
            UsageError: it is none.
        """
        self.path = Path(path)
        try:
            self.settings: Dict = json.loads((self.path / _SETTINGS).read_text())
            metadata = pq.read_metadata(self.path / _IMAGES)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{path} holds no collection's results, or this machine does not see them: {error}"
            ) from error
        where = f"{self.path / _SETTINGS} (classes)"
        self.classes: Tuple[ModelClass, ...] = read_classes(self.settings["classes"], where)
        self.kinds: List[str] = self.settings["kinds"]
        self.num_shards, self.num_images = metadata.num_row_groups, metadata.num_rows

    @classmethod
    def create(
        cls, path: str, identity: Dict, images: pa.Table, shard_size: int
    ) -> "CollectionFolder":
        """Start a collection, or go on with one.

        Args:
            path: new, empty, or of the same images and settings.
            identity: what results depend on, by the name that a user knows; for json. It has
                "classes" and "kinds".
            images: of :func:`knet.collection.image_list.list_images`.
            shard_size: images a shard.

        Raises:
            UsageError: it holds other things, or results of other images or settings.
        """
        if shard_size < 1:
            raise UsageError(f"the shard size is {shard_size}: at least 1 image is needed")
        settings = {**identity, "images": _digest_of(images), "shard_size": shard_size}
        if os.path.isfile(os.path.join(path, _SETTINGS)):
            folder = cls(path)
            names = sorted({*folder.settings, *settings})
            different = [n for n in names if folder.settings.get(n) != settings.get(n)]
            if different:
                raise UsageError(
                    f"{path} holds results of other settings ({', '.join(different)}): give "
                    "another output folder, or remove it"
                )
            return folder
        if os.path.isfile(path):
            raise UsageError(f"{path} is a file: give a folder for the output")
        there = os.listdir(path) if os.path.isdir(path) else []
        if any(name != _IMAGES and not name.startswith(".") for name in there):
            raise UsageError(f"{path} holds other things: give a new or an empty output folder")
        with replacing(Path(path, _IMAGES)) as file:
            pq.write_table(images, file, row_group_size=shard_size)
        with replacing(Path(path, _SETTINGS)) as file:
            file.write_text(json.dumps(settings, indent=1))
        return cls(path)

    def alone(self) -> ContextManager:
        """A block in which no other run writes to the folder.

        Raises:
            UsageError: another one does.
        """
        return alone_in(self.path, self.path / _SETTINGS)

    def images(self, shard: int) -> List[Dict]:
        """{"image_id", "image"} of each image of a shard."""
        return pq.ParquetFile(self.path / _IMAGES).read_row_group(shard).to_pylist()

    def all_images(self) -> pa.Table:
        """The same of all shards."""
        return pq.read_table(self.path / _IMAGES)

    def unfinished(self) -> List[int]:
        """The shards that are not done."""
        return [i for i in range(self.num_shards) if not self.shard_file(i).exists()]

    def finish(self, shard: int, rows: Sequence[Dict], failures: Sequence[Dict]) -> None:
        """Write a shard. It is done once its file is there, so the failures come first.

        Args:
            shard: its number.
            rows: of :func:`knet.collection.rows.row_schema`.
            failures: {"image_id", "image", "reason"} each.
        """
        self.failures_file(shard).unlink(missing_ok=True)  # of a try that did not come to its end
        if failures:
            self._write(self.failures_file(shard), failures, FAILURE_SCHEMA)
        self._write(self.shard_file(shard), rows, row_schema(self.kinds))

    def _write(self, path: Path, rows: Sequence[Dict], schema: pa.Schema) -> None:
        # a name of its own: a worker that was given up may still be writing the same shard
        temporary = self.unfinished_file(f"{uuid.uuid4().hex}.parquet")
        temporary.parent.mkdir(exist_ok=True)
        with replacing(path, temporary) as file:
            pq.write_table(pa.Table.from_pylist(list(rows), schema), file, compression="zstd")

    def failures(self) -> pa.Table:
        """Of all shards that are done."""
        files = [self.failures_file(i) for i in range(self.num_shards)]
        tables = [pq.read_table(file) for file in files if file.exists()]
        return pa.concat_tables([FAILURE_SCHEMA.empty_table(), *tables])

    def tidy(self) -> None:
        """Remove what workers that were killed have left, once all shards are done."""
        shutil.rmtree(self.path / _UNFINISHED, ignore_errors=True)

    def shard_file(self, shard: int) -> Path:
        return self.path / _SHARDS / f"{shard:05d}.parquet"

    def failures_file(self, shard: int) -> Path:
        return self.path / _FAILURES / f"{shard:05d}.parquet"

    def unfinished_file(self, name: str) -> Path:
        """In a folder that is gone when all shards are done."""
        return self.path / _UNFINISHED / name


def _digest_of(images: pa.Table) -> str:
    digest = hashlib.sha256()
    for image_id, path in zip(images[ID_COLUMN].to_pylist(), images["image"].to_pylist()):
        digest.update(f"{image_id}\t{path}\n".encode())
    return digest.hexdigest()
