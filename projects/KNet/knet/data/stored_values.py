"""Files whose values or channels Pillow cannot hold, read as they are stored.

16-bit colour by OpenCV, TIFF of any other depth and number of channels by tifffile (an optional
package), NumPy's .npy.
"""

from typing import BinaryIO, Tuple

import cv2
import numpy as np
from PIL import Image

from ..errors import DatasetError, UsageError
from .orientation import ORIENTATION, orientation_of

__all__ = [
    "NEEDS_TIFFFILE",
    "check_size",
    "is_deep_colour",
    "is_lessened",
    "read_deep_colour",
    "read_npy",
    "read_tiff",
    "stored_kind",
]

_NPY = b"\x93NUMPY"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_CHANNELS = {2: (0, 1, 2), 4: (0, 3), 6: (0, 1, 2, 3)}  # by the header's type of colour

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _SAMPLE_FORMAT = 258, 262, 277, 284, 339  # tags of TIFF
_MAX_TILE_PIXELS = 2**22  # that any picture may have
NEEDS_TIFFFILE = (
    "a TIFF of a depth, number of channels or compression that the package tifffile reads: "
    "pip install tifffile imagecodecs"
)


def stored_kind(file: BinaryIO) -> str:
    """ "npy", "png" (of 16-bit colour alone), "tiff", or "" for all others, by the first bytes."""
    start = file.tell()
    head = file.read(26)
    file.seek(start)
    if head.startswith(_NPY):
        return "npy"
    if head.startswith(_TIFF):
        return "tiff"
    deep_png = head.startswith(_PNG) and len(head) == 26 and head[24] == 16
    return "png" if deep_png and head[25] in _PNG_CHANNELS else ""


def is_lessened(image: Image.Image, all_pages: bool) -> bool:
    """Does Pillow leave out channels or bits of this TIFF (or, with ``all_pages``, pictures)?"""
    samples, bits = image.tag_v2.get(_SAMPLES, 1), image.tag_v2.get(_BITS, (1,))
    unsigned = image.tag_v2.get(_SAMPLE_FORMAT, (1,)) == (1,)
    if image.mode == "I" and unsigned and bits == (32,):  # Pillow's I has a sign
        return True
    if samples != len(image.getbands()) or (all_pages and getattr(image, "n_frames", 1) > 1):
        return True
    return max(bits) > 8 and not image.mode.startswith(("I", "F"))


def is_deep_colour(image: Image.Image) -> bool:
    """Is this TIFF of 16-bit colour as OpenCV reads rightly? It would turn it, too."""
    tags = image.tag_v2
    return (
        tags.get(_BITS) in ((16,) * 3, (16,) * 4)
        and (tags.get(_PHOTOMETRIC), tags.get(_PLANES, 1)) == (2, 1)
        and orientation_of(image) == 1
    )


def read_deep_colour(file: BinaryIO) -> np.ndarray:
    """(H, W, channels) uint16 of a PNG of :func:`stored_kind`, not turned, or such a TIFF."""
    content = file.read()
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or values.dtype != np.uint16:
        raise DatasetError("it is broken")
    values[:, :, :3] = values[:, :, 2::-1].copy()  # from OpenCV's order
    is_png = content.startswith(_PNG)
    return values[:, :, _PNG_CHANNELS[content[25]]] if is_png else values


def read_npy(file: BinaryIO, max_bytes: int) -> np.ndarray:
    """The array, whose header is looked at first.

    Raises:
        DatasetError: it is larger than ``max_bytes``, or cut off.
    """
    start = file.tell()
    version = np.lib.format.read_magic(file)
    of_version = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in of_version:
        raise DatasetError(f"it is an .npy of version {version}, which holds no plain numbers")
    shape, _, dtype = of_version[version](file)
    size = _check_bytes(shape, dtype, max_bytes)
    header_end = file.tell()
    if file.seek(0, 2) - header_end < size:
        raise DatasetError("it is cut off")
    file.seek(start)
    return np.load(file, allow_pickle=False)


def read_tiff(file: BinaryIO, max_pixels: int, max_bytes: int) -> Tuple[np.ndarray, int]:
    """The first picture of a TIFF, not turned; channels that are pages of their own belong to it.

    Returns:
        (H, W, channels) as stored, and the orientation that the file asks for.

    Raises:
        UsageError: tifffile, or what it needs for the compression, is not installed.
        DatasetError: it is too large, or broken.
    """
    try:
        from tifffile import TiffFile
    except ImportError:
        raise UsageError(f"it is {NEEDS_TIFFFILE}") from None
    try:
        return _first_picture(TiffFile, file, max_pixels, max_bytes)
    except DatasetError:
        raise
    except Exception as error:  # tifffile raises many kinds for a broken file
        if "imagecodecs" in str(error):
            raise UsageError(f"it is {NEEDS_TIFFFILE}") from error
        raise DatasetError(f"it is broken ({' '.join(str(error).split())})") from error


def _first_picture(
    TiffFile, file: BinaryIO, max_pixels: int, max_bytes: int
) -> Tuple[np.ndarray, int]:
    with TiffFile(file) as tiff:
        page, picture = tiff.pages[0], tiff.series[0]
        if not set(picture.axes) <= set("YXSC"):  # several pictures
            picture = page
        sizes = dict(zip(picture.axes, picture.shape))
        height, width = sizes.get("Y", 1), sizes.get("X", 1)
        tile = (page.tilewidth, page.tilelength) if page.is_tiled else (0, 0)
        check_size((width, height), tile, max_pixels)
        _check_bytes(picture.shape, picture.dtype, max_bytes)
        values, axes = picture.asarray(), list(picture.axes)
        tag = page.tags.get(ORIENTATION)
    for axis in "YX":  # to the front, in this order
        if axis not in axes:
            raise DatasetError(f"its axes are {''.join(axes)}: it is no picture")
    channels = [i for i, axis in enumerate(axes) if axis not in "YX"]
    values = values.transpose(axes.index("Y"), axes.index("X"), *channels)
    return values.reshape(height, width, -1), int(tag.value) if tag else 1


def check_size(size: Tuple[int, int], tile: Tuple[int, int], max_pixels: int) -> None:
    """
    Args:
        size, tile: width and height of a picture and of its tiles.
        max_pixels: width x height at most.

    Raises:
        DatasetError: it is larger, or would take the memory of more, as tiles do.
    """
    width, height = size
    if width * height > max_pixels:
        raise DatasetError(
            f"it is {width} x {height}, more than {max_pixels} pixels (max_pixels): make it "
            "smaller or cut it into tiles"
        )
    if tile[0] * tile[1] > max(width * height, _MAX_TILE_PIXELS):
        raise DatasetError(f"it is {width} x {height}, but has tiles of {tile[0]} x {tile[1]}")


def _check_bytes(shape: Tuple[int, ...], dtype: np.dtype, max_bytes: int) -> int:
    size = int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
    if size > max_bytes:
        sides = " x ".join(map(str, shape))
        raise DatasetError(f"its {sides} values take more than {max_bytes} bytes")
    return size
