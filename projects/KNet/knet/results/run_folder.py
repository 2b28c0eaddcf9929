"""The output folder of a run over many images: which are done, and with which settings.

    <folder>/.knet/run.json        the settings: results of others are not mixed with them
    <folder>/.knet/images.json     every image ever given: its file, the name of its outputs, its id
    <folder>/.knet/journal.jsonl   a line for each finished image, with all that is known of it
    <folder>/.knet/complete        is there when the files about all images are up to date

An image's files come first, its line last. So a run that was stopped, however hard, goes on behind
the last whole line, and what it had begun is written again.
"""

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from ..data.image_files import image_ids
from ..errors import UsageError
from ..files import alone_in, distinct_names, relative_name, replacing

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
            folder: new, empty, or of a run of the same settings (any, if it has finished no image).
            settings: what the results depend on, by the name that a user knows; for json.
            reserved: folders in it that images' names must not lead to.

        Raises:
            UsageError: it holds other things; at the start of the block: or results of other
                settings, or it is in use.
        """
        self.path = Path(folder)
        self._state = self.path / STATE
        self._settings = json.loads(json.dumps(settings))
        self._reserved = {STATE, *reserved}
        self._refuse_other_things()
        self._open = contextlib.ExitStack()
        self._journal: Optional[BinaryIO] = None
        self._images: Dict[str, RunImage] = {}  # by source
        self._written: List[str] = []  # since the last finished image
        # by image id, of finished ones
        self._offsets: Dict[int, int] = {}  # of their lines in the journal
        self._stamps: Dict[int, List[int]] = {}
        self._seen: Dict[int, Optional[Tuple[int, int]]] = {}  # stamps when this run began
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
        stamp = self._stamp(image)
        return (
            stamp is not None
            and self._stamps.get(image.id) == list(stamp)
            and all((self.path / name).exists() for name in self._files[image.id])
        )

    def _stamp(self, image: RunImage) -> Optional[Tuple[int, int]]:
        """Of before the image was read: what changes behind that is done again."""
        if image.id not in self._seen:
            self._seen[image.id] = image.stamp()
        return self._seen[image.id]

    @property
    def is_complete(self) -> bool:
        """Are there the files about all images, made from all that are finished?"""
        path = self._state / COMPLETE
        return path.exists() and all(
            (self.path / name).exists() for name in json.loads(path.read_text())
        )

    def mark_complete(self) -> None:
        """Note that the files about all images are written."""
        files, self._written = self._written, []
        self._write_state(COMPLETE, json.dumps(files))

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
        entry = {"id": image.id, "stamp": list(self._stamp(image) or ()), "files": files, **record}
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
        self._state.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(alone_in(self.path, self._state / JOURNAL))
            # a run that was killed leaves the file that it was writing
            for part in self._state.glob(f"{PART}*"):
                part.unlink()
            self._journal = stack.enter_context(open(self._state / JOURNAL, "ab+"))
            if self._journal.seek(0, os.SEEK_END):
                self._check_settings()
                self._images = self._read_images()
                self._read_journal()
            else:  # a first start, or one that came to nothing
                self._write_state(SETTINGS, json.dumps(self._settings, indent=1))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._open.close()

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
        images = [RunImage(**entry) for entry in json.loads((self._state / IMAGES).read_text())]
        return {image.source: image for image in images}

    def _check_settings(self) -> None:
        before = json.loads((self._state / SETTINGS).read_text())
        names = sorted({*before, *self._settings})
        different = [name for name in names if before.get(name) != self._settings.get(name)]
        if different:
            raise UsageError(
                f"{self.path} holds results of other settings ({', '.join(different)}): give "
                "another --output, or remove it"
            )

    def _refuse_other_things(self) -> None:
        if self.path.is_file():
            raise UsageError(f"{self.path} is a file: give a folder as --output")
        if not self.path.is_dir() or self._state.is_dir():
            return
        if any(not name.startswith(".") for name in os.listdir(self.path)):
            raise UsageError(
                f"{self.path} holds files of something else: give an empty or a new folder as "
                "--output"
            )

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
