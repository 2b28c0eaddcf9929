"""One image file: can it be read, is it as large as its json says, which way up, of what depth."""

import hashlib
import os
from typing import Dict, NamedTuple, Optional, Tuple

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from ...errors import DatasetError, Tell
from ..image_reading import ImageReader
from ..orientation import orientation_of, why_turned
from .files import is_address

__all__ = ["Header", "Picture", "check_image", "read_header"]

_UPRIGHT, _TURNS_SIDES = 1, (5, 6, 7, 8)  # orientations of EXIF
_TIFF_SIZE = (257, 256)  # tags of height and width


class Header(NamedTuple):
    """What a file tells before it is decoded.

    Attributes:
        format: of Pillow, as is ``mode``.
        size: (H, W) of the picture as it is stored.
        orientation: of EXIF; 1: upright.
    """

    format: str
    mode: str
    size: Tuple[int, int]
    orientation: int

    def size_as_read(self, reader: ImageReader) -> Tuple[int, int]:
        turns = reader.upright and self.orientation in _TURNS_SIDES
        return self.size[::-1] if turns else self.size


class Picture(NamedTuple):
    """An image that could be read.

    Attributes:
        size: (H, W), as it is read.
        stored_size: (H, W) without regard to its EXIF orientation.
        digest: of its pixels.
    """

    size: Tuple[int, int]
    stored_size: Tuple[int, int]
    digest: bytes


def read_header(path: str) -> Header:
    """
    Raises:
        OSError, SyntaxError, ValueError: it is no picture.
    """
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        size = image.size[::-1]
        if image.format == "TIFF":  # newer Pillows tell it as it will be turned
            size = tuple(int(image.tag_v2.get(tag, n)) for tag, n in zip(_TIFF_SIZE, size))
        return Header(image.format, image.mode, size, orientation_of(image))


def check_image(dataset_dict: Dict, reader: ImageReader, tell: Tell) -> Optional[Picture]:
    """
    Args:
        dataset_dict: with ``file_name``, perhaps ``height`` and ``width``.
        reader: as the model wants its images.
        tell: told of each fault.

    Returns:
        the picture; None if there is none.
    """
    path = dataset_dict["file_name"]
    if is_empty_file(path):
        tell("empty file", path)
        return None
    try:
        image = reader.read(path)
    except DatasetError as error:
        tell("unreadable", str(error))
        return None
    size = image.shape[:2]
    try:
        header = read_header(path)
    except (OSError, SyntaxError, ValueError):  # an array, or a TIFF that Pillow cannot read
        header = Header("", "", size, _UPRIGHT)
    if header.mode.startswith("I;16") or (header.mode == "I" and header.format in ("PNG", "PPM")):
        tell("16 bit", f"{path} ({header.mode})")
    if header.orientation != _UPRIGHT:
        turned = header.orientation in _TURNS_SIDES
        tell("exif" if turned else "exif flip", f"{path} (orientation {header.orientation})")
    if "height" in dataset_dict and "width" in dataset_dict:
        check_size((dataset_dict["height"], dataset_dict["width"]), size, path, tell)
    digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16)
    digest.update(str(image.shape).encode())
    return Picture(size, header.size, digest.digest())


def check_size(told: Tuple[int, int], size: Tuple[int, int], path: str, tell: Tell) -> None:
    """Is the size that a json tells that of the image, as it is read? Both are (H, W)."""
    if tuple(told) == tuple(size):
        return
    sentence = f"{path} is {size[1]} x {size[0]}, its json says {told[1]} x {told[0]}"
    exif = why_turned(path) if tuple(told) == tuple(size[::-1]) else ""
    tell("exif size" if exif else "image size", sentence + exif)


def is_empty_file(path: str) -> bool:
    return not is_address(path) and os.path.isfile(path) and os.path.getsize(path) == 0
