"""The output folder of a run over many images: which are done, and with which settings.

    <folder>/.knet/run.json        the settings: results of others are not mixed with them
    <folder>/.knet/images.json     every image ever given: its file, the name of its outputs, its id
    <folder>/.knet/journal.jsonl   a line for each finished image, with all that is known of it
    <folder>/.knet/complete        is there when the files about all images are up to date

An image's files come first, its line last. So a run that was stopped, however hard, goes on behind
the last whole line, and what it had begun is written again.
"""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import portalocker

from ..data.image_files import image_ids
from ..errors import UsageError
from ..files import distinct_names, relative_name
from .whole_files import replacing

__all__ = ["STATE", "RunFolder", "RunImage"]

logger = logging.getLogger(__name__)

STATE = ".knet"
SETTINGS, IMAGES, JOURNAL, COMPLETE = "run.json", "images.json", "journal.jsonl", "complete"
PART = "part"  # a file that is being written
PICTURE_SUFFIXES = (".jpg", ".png")  # of the files of an image


@dataclass(frozen=True)
class RunImage:
    """An image of a run.

    Attributes:
        source: absolute path.
        file_name: its path below the folder that the run's images share.
        stem: of its outputs, relative, no other image's.
        id: no other image's.
    """

    source: str
    file_name: str
    stem: str
    id: int

    def stamp(self) -> Optional[Tuple[int, int]]:
        """Changes when the file does; None where it is gone."""
        try:
            status = os.stat(self.source)
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns


class RunFolder:
    """Results of a run in a folder that nothing else writes to.

    Use it in a ``with`` block.
    """

    def __init__(self, folder: str, settings: Dict, reserved: Sequence[str] = ()):
        """
        Args:
            folder: new, empty, or of a run of the same settings.
            settings: what the results depend on, by the name that a user knows; for json.
            reserved: folders in it that images' names must not lead to.

        Raises:
            UsageError: it holds other things, or results of other settings, or is in use.
        """
        self.path = Path(folder)
        self._state = self.path / STATE
        self._reserved = {STATE, *reserved}
        self._check_and_mark(settings)
        self._journal: Optional[BinaryIO] = None
        self._images: Dict[str, RunImage] = {}  # by source
        self._written: List[str] = []  # since the last finished image
        # by image id, of finished ones
        self._offsets: Dict[int, int] = {}  # of their lines in the journal
        self._stamps: Dict[int, List[int]] = {}
        self._files: Dict[int, List[str]] = {}

    # ------------------------------------------------------------------------------ the images

    def add(self, sources: Sequence[str]) -> List[RunImage]:
        """Name and number the images of these files; those known keep theirs.

        Ids are those of :func:`knet.data.image_files.image_ids`, or the next ones where some are
        another image's already.
        """
        sources = list(dict.fromkeys(os.path.abspath(source) for source in sources))
        new = [source for source in sources if source not in self._images]
        if new:
            self._add(new, os.path.commonpath([os.path.dirname(source) for source in sources]))
            content = json.dumps([asdict(image) for image in self._images.values()])
            self._write_state(IMAGES, content)
        return [self._images[source] for source in sources]

    def is_done(self, image: RunImage) -> bool:
        """Are there the results of the file as it is now?"""
        stamp = image.stamp()
        return (
            stamp is not None
            and self._stamps.get(image.id) == list(stamp)
            and all((self.path / name).exists() for name in self._files[image.id])
        )

    @property
    def is_complete(self) -> bool:
        """Are the files about all images made from all that are finished?"""
        return (self._state / COMPLETE).exists()

    def mark_complete(self) -> None:
        (self._state / COMPLETE).touch()

    # ----------------------------------------------------------------------------- the results

    def write(self, name: str, save: Callable[[Path], object]) -> None:
        """Write a file of the folder, whole or not at all.

        Args:
            name: relative.
            save: writes to the path that it is given, whose suffix is that of ``name``.
        """
        with replacing(self.path / name, self._state / f"{PART}{Path(name).suffix}") as path:
            save(path)
        self._written.append(name)

    def finish(self, image: RunImage, record: Dict) -> None:
        """Note that all files of an image are written.

        Args:
            image: of :meth:`add`.
            record: what the files about all images need of it; for json.
        """
        (self._state / COMPLETE).unlink(missing_ok=True)
        files, self._written = self._written, []
        entry = {"id": image.id, "stamp": list(image.stamp() or ()), "files": files, **record}
        line = json.dumps(entry)
        self._enter(entry, self._journal.seek(0, os.SEEK_END))
        self._journal.write(line.encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def records(self) -> Iterator[Tuple[RunImage, Dict]]:
        """The images done, in the order of their ids, and what :meth:`finish` was given."""
        images = {image.id: image for image in self._images.values()}
        for image_id in sorted(self._offsets):
            self._journal.seek(self._offsets[image_id])
            yield images[image_id], json.loads(self._journal.readline())

    # --------------------------------------------------------------------------------- opening

    def __enter__(self) -> "RunFolder":
        self._journal = open(self._state / JOURNAL, "ab+")
        try:
            portalocker.lock(
                self._journal, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
            )
        except portalocker.LockException as error:
            self._journal.close()
            raise UsageError(
                f"another run is writing to {self.path}: wait for it, or give another --output"
            ) from error
        # a run that was killed leaves the file that it was writing
        for part in self._state.glob(f"{PART}*"):
            part.unlink()
        self._images = self._read_images()
        self._read_journal()
        return self

    def __exit__(self, *_) -> None:
        self._journal.close()

    def _read_journal(self) -> None:
        self._journal.seek(0)
        end, ids = 0, {image.id for image in self._images.values()}
        for line in self._journal:
            try:
                record = json.loads(line)
            except ValueError:
                record = {}
            if not line.endswith(b"\n") or record.get("id") not in ids:
                logger.warning("%s: its end, from byte %d on, is not whole", JOURNAL, end)
                self._journal.truncate(end)
                break
            self._enter(record, end)
            end += len(line)

    def _enter(self, entry: Dict, offset: int) -> None:
        self._offsets[entry["id"]] = offset
        self._stamps[entry["id"]] = entry["stamp"]
        self._files[entry["id"]] = entry["files"]

    def _write_state(self, name: str, text: str) -> None:
        with replacing(self._state / name) as path:
            path.write_text(text)

    def _read_images(self) -> Dict[str, RunImage]:
        path = self._state / IMAGES
        if not path.exists():
            return {}
        images = [RunImage(**entry) for entry in json.loads(path.read_text())]
        return {image.source: image for image in images}

    def _check_and_mark(self, settings: Dict) -> None:
        path = self._state / SETTINGS
        settings = json.loads(json.dumps(settings))
        if path.exists():
            before = json.loads(path.read_text())
            names = sorted({*before, *settings})
            different = [name for name in names if before.get(name) != settings.get(name)]
            if different:
                raise UsageError(
                    f"{self.path} holds results of other settings ({', '.join(different)}): give "
                    "another --output, or remove it"
                )
            return
        if self.path.is_file():
            raise UsageError(f"{self.path} is a file: give a folder as --output")
        if self.path.is_dir() and any(not name.startswith(".") for name in os.listdir(self.path)):
            raise UsageError(
                f"{self.path} holds files of something else: give an empty or a new folder as "
                "--output"
            )
        self._write_state(SETTINGS, json.dumps(settings, indent=1))

    # -------------------------------------------------------------------------- names and ids

    def _add(self, sources: Sequence[str], shared: str) -> None:
        """Enter new images, whose names are those below the folder ``shared``."""
        stems = [image.stem for image in self._images.values()]
        names = [self._without_reserved(relative_name(source, shared)) for source in sources]
        files = distinct_names([*stems, *names], ".png")[len(stems) :]
        file_names = {image.file_name for image in self._images.values()}
        for source, file, image_id in zip(sources, files, self._new_ids(sources)):
            name = os.path.relpath(source, shared).replace(os.sep, "/")
            name = source if name in file_names else name
            self._images[source] = RunImage(source, name, file.removesuffix(".png"), image_id)

    def _without_reserved(self, name: str) -> str:
        """A name whose folders are not the run's own, nor what files of images may be called."""
        *folders, base = name.split(os.sep)
        for i, folder in enumerate(folders):
            reserved = i == 0 and folder.lower() in self._reserved
            if reserved or folder.lower().endswith(PICTURE_SUFFIXES):
                folders[i] = f"{folder}_"
        return os.path.join(*folders, base)

    def _new_ids(self, sources: Sequence[str]) -> List[int]:
        used = {image.id for image in self._images.values()}
        ids = image_ids(sources)
        if used.isdisjoint(ids):
            return ids
        return list(range(max(used) + 1, max(used) + 1 + len(ids)))
