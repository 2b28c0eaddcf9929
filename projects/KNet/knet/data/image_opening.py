"""Files, bytes, arrays, Pillow images -> decoded pictures; bounded, whatever the file holds."""

import functools
import io
import os
from importlib.util import find_spec
from typing import BinaryIO, List, Union

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from ..errors import DatasetError, UsageError
from .array_images import check_array
from .orientation import orientation_of, turn, turn_back
from .stored_values import (
    NEEDS_TIFFFILE,
    check_size,
    is_deep_colour,
    is_lessened,
    read_deep_colour,
    read_npy,
    read_tiff,
    stored_kind,
)

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "ImageSource",
    "Opened",
    "decode_source",
    "source_name",
    "why_not_read",
]

ImageSource = Union[str, os.PathLike, bytes, BinaryIO, Image.Image, np.ndarray, torch.Tensor]
Opened = Union[Image.Image, np.ndarray]

# What Pillow decodes itself: nothing that starts another program (EPS) or is a container of other
# images (ICO). TGA has no mark of its own, so it comes last.
FORMATS = (
    "PNG",
    "JPEG",
    "TIFF",
    "WEBP",
    "BMP",
    "DIB",
    "GIF",
    "PPM",
    "JPEG2000",
    "AVIF",
    "PCX",
    "SGI",
    "TGA",
)

# Beyond this Pillow refuses (twice PIL.Image.MAX_IMAGE_PIXELS); to read so many takes 2.3 GB.
MAX_PIXELS = 178_956_970

_TIFF_TILE_SIZE = (322, 323)  # tags of width and height


def decode_source(
    source: ImageSource,
    max_pixels: int = MAX_PIXELS,
    *,
    whole: bool = False,
    any_channels: bool = False,
    upright: bool = True,
    refuse=None,
) -> Opened:
    """A picture with its values as they are stored.

    Args:
        source: see :meth:`knet.data.image_reading.ImageReader.read`.
        max_pixels: width x height at most, known before a pixel is decoded.
        whole: also what Pillow leaves out: the lower byte of 16-bit colour, channels of a TIFF
            beyond those of a colour image.
        any_channels: of an array; a TIFF's pages may be channels.
        upright: turn it as its EXIF orientation says.
        refuse: called with a Pillow image of which the header alone is read; raises DatasetError.

    Returns:
        a Pillow image of any mode, loaded, where Pillow holds the picture; else (an array, a
        tensor, an .npy, what ``whole`` is about) an array (H, W, channels).

    Raises:
        DatasetError: it is missing, broken, or too large.
        UsageError: the source is no picture, or a package is missing that reads it.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return check_array(source, max_pixels, any_channels)
    how = {"whole": whole, "any_channels": any_channels, "upright": upright, "refuse": refuse}
    try:
        if isinstance(source, Image.Image):
            return _decode(source, max_pixels, upright, refuse)
        with _open_file(source, max_pixels) as file:
            return _decode_file(file, max_pixels, **how)
    except UsageError as error:
        if isinstance(source, (str, os.PathLike)):
            raise UsageError(f"cannot read the image {source_name(source)}: {error}") from error
        raise
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise DatasetError(
            f"cannot read the image {source_name(source)}: {why_not_read(error)}"
        ) from error


def _decode_file(
    file: BinaryIO, max_pixels: int, whole: bool, any_channels: bool, upright: bool, refuse
) -> Opened:
    kind = stored_kind(file)
    if kind == "npy":
        return check_array(read_npy(file, _max_bytes(max_pixels)), max_pixels, any_channels)
    start = file.tell()
    try:
        image = Image.open(file, formats=_known_formats())
    except UnidentifiedImageError:
        if kind != "tiff":
            raise
        if find_spec("tifffile") is None:
            raise DatasetError(f"it is empty, cut off, or {NEEDS_TIFFFILE}") from None
        image = None  # Pillow has no mode for it
    else:
        is_less = kind == "png" or (kind == "tiff" and is_lessened(image, any_channels))
        if not (whole and is_less):
            return _decode(image, max_pixels, upright, refuse)
        _check_size(image, max_pixels)
    orientation = 1 if image is None else orientation_of(image)
    by_opencv = kind == "png" or (image is not None and is_deep_colour(image))
    file.seek(start)  # Pillow has read in it
    if by_opencv:
        values = read_deep_colour(file)
    else:
        values, orientation = read_tiff(file, max_pixels, _max_bytes(max_pixels))
    return turn(values, orientation) if upright else values


@functools.cache
def _known_formats() -> List[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # a Pillow may be built without some


def _max_bytes(max_pixels: int) -> int:
    """16-bit RGBA without compression, and metadata."""
    return 8 * max_pixels + 2**26


def _open_file(source: ImageSource, max_pixels: int) -> BinaryIO:
    max_bytes = _max_bytes(max_pixels)
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        if os.path.exists(path):
            if not os.path.isfile(path):  # opening a pipe would wait
                raise DatasetError("it is no file" if not os.path.isdir(path) else "it is a folder")
            if os.path.getsize(path) > max_bytes:
                raise DatasetError(f"the file is larger than {max_bytes} bytes")
        return PathManager.open(path, "rb")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if not hasattr(source, "read"):
        raise UsageError(
            f"an object of type {type(source).__name__} is no image: give a path, bytes, a file "
            "opened with 'rb', an array, a tensor or a Pillow image"
        )
    content = source.read(max_bytes + 1)
    if not isinstance(content, bytes):
        raise UsageError(f"{source_name(source)} gives {type(content).__name__}: open it with 'rb'")
    if len(content) > max_bytes:
        raise DatasetError(f"the file is larger than {max_bytes} bytes")
    return io.BytesIO(content)


def _decode(image: Image.Image, max_pixels: int, upright: bool, refuse) -> Image.Image:
    # first what the header tells
    _check_size(image, max_pixels)
    if refuse is not None:
        refuse(image)
    orientation = orientation_of(image)
    image.load()
    if upright:
        return utils._apply_exif_orientation(image)
    # Pillow has turned a TIFF while loading it, and forgotten that it has
    was_turned = orientation != 1 and orientation_of(image) == 1
    return turn_back(image, orientation) if was_turned else image


def _check_size(image: Image.Image, max_pixels: int) -> None:
    tile = (0, 0)
    if image.format == "TIFF":
        tile = tuple(image.tag_v2.get(tag, 0) for tag in _TIFF_TILE_SIZE)
    check_size(image.size, tile, max_pixels)


def source_name(source: ImageSource) -> str:
    """For a sentence about it: the path, or the type in brackets."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return str(name) if name else f"({type(source).__name__})"


def why_not_read(error: Exception) -> str:
    """Why a picture cannot be read, for the end of a sentence."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is empty, cut off, or none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"it has more than {2 * Image.MAX_IMAGE_PIXELS} pixels, which Pillow does not open "
            "(PIL.Image.MAX_IMAGE_PIXELS): make it smaller or cut it into tiles"
        )
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    text = " ".join(str(error).split()) or type(error).__name__
    return f"it is broken ({text})" if isinstance(error, (OSError, SyntaxError)) else text
