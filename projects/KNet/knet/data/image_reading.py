"""Pictures from anywhere -> arrays, as a model was trained on them; one way for all who read."""

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from PIL import Image

from ..errors import DatasetError
from .array_images import MODES, array_to_image, describe_array, scale_values
from .image_opening import (
    FORMATS,
    MAX_PIXELS,
    ImageSource,
    Opened,
    decode_source,
    source_name,
    why_not_read,
)

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "RAW",
    "SCALED",
    "ImageReader",
    "ImageSource",
    "Opened",
    "open_image",
    "read_image",
    "source_name",
    "to_rgb",
]

RAW = "RAW"  # INPUT.FORMAT: the channels of the file, in its order

# Key of a model's input: its values, though floats, are of 0..255 however small they are
SCALED = "values_are_scaled"

# Modes of Pillow whose values have no plain meaning in 8 bits
_UNKNOWN_RANGE = {"I": "32-bit integers", "F": "32-bit floats"}
_SET_RANGE = (
    "whose range it does not tell: set INPUT.VALUE_RANGE of the model's config to the values that "
    "are black and white, or save it with 8 bits a channel, as RGB"
)

_RAW_MODES = ("L", "LA", "RGB", "RGBA", "CMYK")  # whose channels are what the file holds
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Pillow's, of ITU-R 601-2


@dataclass(frozen=True)
class ImageReader:
    """How a model wants its pictures; the keys ``INPUT.*`` that say it.

    Attributes:
        image_format: a mode of Pillow, "BGR" or "YUV-BT.601"; "RAW": the channels of the file.
        value_range: the values that become 0 and 255 in pictures that are not of 8 bits a channel;
            (): 16 bits by their full range, others are refused.
        upright: turn pictures as their EXIF orientation says.
    """

    image_format: str = "RGB"
    value_range: Tuple[float, ...] = ()
    upright: bool = True

    @classmethod
    def from_config(cls, cfg) -> "ImageReader":
        keys = cfg.INPUT
        return cls(keys.FORMAT, tuple(keys.VALUE_RANGE), keys.EXIF_ORIENTATION)

    def read(self, source: ImageSource, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """A picture as an array: what Detectron2's ``read_image`` gives for 8 bits a channel.

        Without ``value_range`` 16 bits become 8: of grey files and uint16 arrays the full range,
        divided by 257 and rounded; of colour files Pillow keeps the upper byte (RAW: as of grey).
        A TIFF with an EXIF orientation is turned once (Pillow does it, and Detectron2 once more).

        Args:
            source: a path or address that Detectron2's PathManager opens, the content of a file as
                bytes, a file object (read from where it stands), a Pillow image, or an array or
                tensor (see :func:`knet.data.array_images.array_to_image`). Of several pictures in a
                file the first counts; transparency is left out, but of RAW.
            max_pixels: width x height at most, known before a pixel is decoded.

        Returns:
            (H, W, channels) uint8, or by a ``value_range`` float32 in 0..255, not rounded.

        Raises:
            DatasetError: it is missing, broken, too large, or of a kind whose meaning is not plain.
            UsageError: the source is none of these.
        """
        return self.pixels(self.open(source, max_pixels), source)

    def open(self, source: ImageSource, max_pixels: int = MAX_PIXELS) -> Opened:
        """Decoded, upright, in 0..255: a Pillow image of 8 bits, or an array (H, W, channels).

        Raises:
            DatasetError, UsageError: see :meth:`read`.
        """
        opened = decode_source(
            source,
            max_pixels,
            whole=bool(self.value_range) or self.image_format == RAW,
            any_channels=self.image_format == RAW,
            upright=self.upright,
            refuse=self._refuse,
        )
        if isinstance(source, (np.ndarray, torch.Tensor)):
            return self._scaled(opened, describe_array(source))
        what = f"the image {source_name(source)}"
        if isinstance(opened, Image.Image):
            if not _is_deep(opened):
                return opened
            # without a range an I is of 16 bits, as Pillow reads some files: others are refused
            opened = np.asarray(opened)[:, :, None]
            opened = opened if self.value_range else opened.astype(np.uint16)
        elif opened.dtype not in (np.uint8, np.uint16) and not self.value_range:
            raise DatasetError(f"{what} has {opened.dtype} values, {_SET_RANGE}")
        return self._scaled(opened, what)

    def pixels(self, opened: Opened, source: ImageSource) -> np.ndarray:
        """What :meth:`open` gave -> what :meth:`read` gives."""
        try:
            if isinstance(opened, np.ndarray):
                return _arranged(opened, self.image_format)
            if self.image_format != RAW:
                return utils.convert_PIL_to_numpy(opened, self.image_format)
            mode = "L" if opened.mode == "1" else "RGB"
            image = opened if opened.mode in _RAW_MODES else opened.convert(mode)
            return np.atleast_3d(np.asarray(image))
        except Exception as error:
            raise DatasetError(
                f"cannot read the image {source_name(source)} as {self.image_format}: "
                f"{why_not_read(error)}"
            ) from error

    def _scaled(self, values: np.ndarray, what: str) -> Opened:
        values = np.ascontiguousarray(scale_values(values, what, self.value_range))
        if values.dtype != np.uint8 or values.shape[2] not in MODES:
            return values
        return array_to_image(values, values.size)

    def _refuse(self, image: Image.Image) -> None:
        if image.mode == "LAB":
            raise DatasetError("its pixels are CIE Lab colours: save it as RGB")
        if image.mode in _UNKNOWN_RANGE and not (self.value_range or _is_16_bit(image)):
            raise DatasetError(f"its pixels are {_UNKNOWN_RANGE[image.mode]}, {_SET_RANGE}")


def read_image(
    source: ImageSource, image_format: Optional[str] = "RGB", max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """:meth:`ImageReader.read` of an image format.

    With None the values are as they are in the file, of whatever depth, of a palette image the
    indices (for label maps): (H, W), or (H, W, channels) of several.
    """
    if image_format is not None:
        return ImageReader(image_format).read(source, max_pixels)
    values = np.asarray(decode_source(source, max_pixels))
    return values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values


def open_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A Pillow image, upright, of 8 bits a channel.

    Raises:
        DatasetError, UsageError: see :meth:`ImageReader.read`.
    """
    opened = ImageReader().open(source, max_pixels)
    return opened if isinstance(opened, Image.Image) else Image.fromarray(to_rgb(opened))


def to_rgb(opened: Opened) -> np.ndarray:
    """(H, W, 3) uint8, to be looked at: of more channels the first three, of two the first."""
    if isinstance(opened, Image.Image):
        return np.array(opened.convert("RGB"))
    values = opened.round().astype(np.uint8)
    return values[:, :, :3] if values.shape[2] > 2 else values[:, :, :1].repeat(3, axis=2)


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _is_deep(image: Image.Image) -> bool:
    return image.mode in _UNKNOWN_RANGE or image.mode.startswith("I;16")


def _arranged(values: np.ndarray, image_format: str) -> np.ndarray:
    """(H, W, channels) uint8 or float32, in the file's order -> as a model's format has them."""
    if image_format == RAW:
        return values
    channels = values.shape[2]
    if channels not in MODES:
        raise DatasetError(
            f"it has {channels} channels: set INPUT.FORMAT RAW to take them all, and "
            f"MODEL.PIXEL_MEAN and MODEL.PIXEL_STD to {channels} numbers"
        )
    colour = values[:, :, :3]  # without transparency
    if image_format == "L":
        return (colour @ _LUMA)[:, :, None] if channels > 1 else colour
    if image_format not in ("RGB", "BGR"):
        raise DatasetError("images of more than 8 bits become RGB, BGR, L or RAW (INPUT.FORMAT)")
    colour = colour if channels > 1 else colour.repeat(3, axis=2)
    return colour if image_format == "RGB" else colour[:, :, ::-1]
