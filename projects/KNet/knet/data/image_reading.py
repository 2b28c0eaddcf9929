"""Pictures from anywhere -> arrays, as Detectron2 reads them; bounded, whatever the file holds."""

import functools
import io
import os
from typing import BinaryIO, List, Optional, Union

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from ..errors import DatasetError, UsageError
from .array_images import array_to_image, scale_16_bit

__all__ = ["FORMATS", "MAX_PIXELS", "ImageSource", "open_image", "read_image", "source_name"]

ImageSource = Union[str, os.PathLike, bytes, BinaryIO, Image.Image, np.ndarray, torch.Tensor]

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

# Modes of Pillow whose values have no plain meaning in 8 bits
_REFUSED = {
    "I": "32-bit integers, whose range it does not tell",
    "F": "32-bit floats, whose range it does not tell",
    "LAB": "CIE Lab colours",
}

_TIFF_TILE_SIZE = (322, 323)  # tags of width and height
_MAX_TILE_PIXELS = 2**22  # that any picture may have


def read_image(
    source: ImageSource, image_format: Optional[str] = "RGB", max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """A picture as an array: what Detectron2's ``read_image`` gives for files of 8 bits a channel.

    16 bits become 8: of grey files and uint16 arrays the full range, divided by 257 and rounded; of
    colour files Pillow keeps the upper byte, at most one off from that. A TIFF with an EXIF
    orientation is turned once (Pillow does it, and Detectron2 once more).

    Args:
        source: a path or address that Detectron2's PathManager opens, the content of a file as
            bytes, a file object (read from where it stands), a Pillow image, or an array or tensor
            (see :func:`knet.data.array_images.array_to_image`). Of several pictures in a file the
            first counts; an EXIF orientation is applied; transparency is left out.
        image_format: a mode of Pillow, "BGR" or "YUV-BT.601". None: the values as they are in the
            file, of whatever depth; of a palette image the indices (for label maps).
        max_pixels: width x height at most, known before a pixel is decoded.

    Returns:
        (H, W, channels), or (H, W) where ``image_format`` is None and there is one channel.

    Raises:
        DatasetError: it is missing, broken, too large, or of a kind whose meaning is not plain.
        UsageError: the source is none of these.
    """
    try:
        image = open_image(source, max_pixels, as_it_is=image_format is None)
        return utils.convert_PIL_to_numpy(image, image_format)
    except (DatasetError, UsageError):
        raise
    except Exception as error:
        raise DatasetError(
            f"cannot read the image {source_name(source)} as {image_format}: {_reason(error)}"
        ) from error


def open_image(
    source: ImageSource, max_pixels: int = MAX_PIXELS, as_it_is: bool = False
) -> Image.Image:
    """The same as a Pillow image: decoded, upright, of 8 bits a channel unless ``as_it_is``.

    Raises:
        DatasetError, UsageError: see :func:`read_image`.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return array_to_image(source, max_pixels)
    try:
        if isinstance(source, Image.Image):
            return _decode(source, max_pixels, as_it_is)
        with _open_file(source, max_pixels) as file:
            return _decode(Image.open(file, formats=_known_formats()), max_pixels, as_it_is)
    except UsageError:
        raise
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise DatasetError(
            f"cannot read the image {source_name(source)}: {_reason(error)}"
        ) from error


@functools.cache
def _known_formats() -> List[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # a Pillow may be built without some


def _open_file(source: ImageSource, max_pixels: int) -> BinaryIO:
    # 16-bit RGBA without compression, and metadata
    max_bytes = 8 * max_pixels + 2**26
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


def _decode(image: Image.Image, max_pixels: int, as_it_is: bool) -> Image.Image:
    # first what the header tells
    _check_size(image, max_pixels)
    mode = image.mode
    is_16_bit = mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM"))
    if mode in _REFUSED and not (is_16_bit or as_it_is):
        raise DatasetError(
            f"its pixels are {_REFUSED[mode]}: save it with 8 bits a channel, as RGB"
        )
    image.load()
    image = utils._apply_exif_orientation(image)
    if is_16_bit and not as_it_is:
        return Image.fromarray(scale_16_bit(np.asarray(image).astype(np.uint16)))
    return image


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DatasetError(
            f"it is {width} x {height}, more than {max_pixels} pixels (max_pixels): make it "
            "smaller or cut it into tiles"
        )
    if image.format == "TIFF":  # a tile takes its memory however small the picture is
        tile_width, tile_height = (image.tag_v2.get(tag, 0) for tag in _TIFF_TILE_SIZE)
        if tile_width * tile_height > max(width * height, _MAX_TILE_PIXELS):
            raise DatasetError(
                f"it is {width} x {height}, but has tiles of {tile_width} x {tile_height}"
            )


def source_name(source: ImageSource) -> str:
    """For a sentence about it: the path, or the type in brackets."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return str(name) if name else f"({type(source).__name__})"


def _reason(error: Exception) -> str:
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
