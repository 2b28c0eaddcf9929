"""What a run over many images leaves: pictures, COCO's formats, label maps, a table.

Each kind of file has a class. Its ``write`` saves an image's own files and returns what the files
about all images need of it; at the end ``assemble`` makes those from the journal of the run.
"""

import csv
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
from PIL import Image

from ..data.classes import ModelClass
from .coco import (
    images_and_categories,
    instance_annotations,
    label_map,
    panoptic_png_and_annotation,
)
from .json_files import write_list, write_object
from .run_folder import RunFolder, RunImage
from .table import COLUMNS, table_rows

__all__ = ["InstanceFiles", "LabelFiles", "PanopticFiles", "PictureFiles", "ResultFiles"]

FAST_PNG = {"compress_level": 1}  # twice the default's speed for some more bytes
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")


class ResultFiles:
    """One kind of file.

    Attributes:
        NAME: of this kind, for the journal.
        FOLDER: that the images' own files are in, below the run's.
        KIND: the result that it is made from, "panoptic", "instance" or "semantic"; None: the
            one that the run is about.
    """

    NAME: str
    FOLDER = ""
    KIND = None

    def __init__(self, folder: RunFolder, classes: Sequence[ModelClass]):
        """
        Args:
            folder: of the run.
            classes: the model's.
        """
        self.folder = folder
        self.classes = classes

    def write(self, image: RunImage, pixels: np.ndarray, result: Dict):
        """Save what belongs to one image.

        Args:
            image: of the run.
            pixels: (H, W, 3) uint8 RGB.
            result: of the model, at this size.

        Returns:
            what :meth:`assemble` needs, for json.
        """
        raise NotImplementedError

    def assemble(self) -> None:
        """Write the files about all images of the folder."""

    def _parts(self) -> Iterator[Tuple[RunImage, Dict, object]]:
        """Image, its record, and what ``write`` has returned of it."""
        for image, record in self.folder.records():
            yield image, record, record[self.NAME]

    def _header(self) -> Dict[str, Iterable[Dict]]:
        """The lists of a COCO json that say what ids are."""
        images = (
            (image.id, image.file_name, record["height"], record["width"])
            for image, record in self.folder.records()
        )
        return images_and_categories(images, self.classes)


class PictureFiles(ResultFiles):
    """``<image>.jpg`` of a JPEG, ``<image>.png`` of others: the result drawn over the image."""

    NAME = "picture"

    def __init__(self, folder: RunFolder, draw: Callable[[np.ndarray, Dict], np.ndarray]):
        """
        Args:
            folder: of the run.
            draw: ((H, W, 3) uint8 RGB, result) -> the same with the result.
        """
        super().__init__(folder, ())
        self.draw = draw

    def write(self, image: RunImage, pixels: np.ndarray, result: Dict) -> None:
        picture = Image.fromarray(self.draw(pixels, result))
        if image.source.lower().endswith(JPEG_SUFFIXES):
            suffix, options = ".jpg", {"quality": 90}
        else:
            suffix, options = ".png", FAST_PNG
        self.folder.write(image.stem + suffix, lambda path: picture.save(path, **options))


class PanopticFiles(ResultFiles):
    """COCO panoptic: ``panoptic/<image>.png`` and ``panoptic.json``."""

    NAME = FOLDER = KIND = "panoptic"

    def write(self, image: RunImage, pixels: np.ndarray, result: Dict) -> Dict:
        name = f"{image.stem}.png"
        png, annotation = panoptic_png_and_annotation(
            result, self.classes, file_name=name, image_id=image.id
        )
        png = Image.fromarray(png)
        self.folder.write(f"{self.FOLDER}/{name}", lambda path: png.save(path, **FAST_PNG))
        return annotation

    def assemble(self) -> None:
        annotations = (annotation for _, _, annotation in self._parts())
        lists = {**self._header(), "annotations": annotations}
        self.folder.write("panoptic.json", lambda path: write_object(path, lists))


class InstanceFiles(ResultFiles):
    """COCO instances: ``instances.json`` has them all, ``images.json`` which image is which."""

    NAME = "instances"
    KIND = "instance"

    def write(self, image: RunImage, pixels: np.ndarray, result: Dict) -> List[Dict]:
        return instance_annotations(result, self.classes, image_id=image.id)

    def assemble(self) -> None:
        self.folder.write("images.json", lambda path: write_object(path, self._header()))
        found = (one for _, _, annotations in self._parts() for one in annotations)
        self.folder.write("instances.json", lambda path: write_list(path, found))


class LabelFiles(ResultFiles):
    """``labels/<image>.png``: each pixel's class by the data set's ids; grey, 8 or 16 bit."""

    NAME = FOLDER = "labels"
    KIND = "semantic"

    def write(self, image: RunImage, pixels: np.ndarray, result: Dict) -> None:
        labels = Image.fromarray(label_map(result, self.classes))
        name = f"{self.FOLDER}/{image.stem}.png"
        self.folder.write(name, lambda path: labels.save(path, **FAST_PNG))


class TableFiles(ResultFiles):
    """``table.csv``: a row for each segment, instance or class, see :mod:`.table`."""

    NAME = "table"

    def __init__(
        self,
        folder: RunFolder,
        classes: Sequence[ModelClass],
        kind: str,
        score_threshold: float = 0.0,
    ):
        """
        Args:
            folder, classes: as the others'.
            kind: of the result, "panoptic", "instance" or "semantic".
            score_threshold: of instances.
        """
        super().__init__(folder, classes)
        self.kind = kind
        self.score_threshold = score_threshold

    def write(self, image: RunImage, pixels: np.ndarray, result: Dict) -> List[List]:
        return table_rows(result, self.classes, self.kind, self.score_threshold)

    def assemble(self) -> None:
        rows = (
            [image.file_name, image.id, *row] for image, _, rows in self._parts() for row in rows
        )
        header = ("file", "image_id", *COLUMNS)
        self.folder.write("table.csv", lambda path: write_csv(path, header, rows))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table. What a name has that is no text (from disks of other encodings) is escaped."""
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
