"""The bytes of a request -> pixels, within limits."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import RequestError

# What Pillow decodes by itself; nothing that starts another program
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
DEEP = ("I", "F")  # modes of more than 8 bits a channel


def read_picture(content: bytes, max_pixels: int) -> np.ndarray:
    """
    Args:
        content: of the file.
        max_pixels: width times height at most, known before a pixel is decoded.

    Returns:
        (H, W, 3) uint8 RGB, upright by its EXIF orientation, transparency left out.

    Raises:
        RequestError: 400 it cannot be read, 413 it is too large.
    """
    if not content:
        raise RequestError(400, "empty", "The request has no picture: send one as its body.")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise RequestError(
                413,
                "too_many_pixels",
                f"The picture is {width} x {height}: at most {max_pixels} pixels are taken.",
            )
        if image.mode.startswith(DEEP):
            raise RequestError(
                400, "deep", "The picture has more than 8 bits a channel: send 8 bits."
            )
        image.load()
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except RequestError:
        raise
    except UnidentifiedImageError:
        text = f"The body is no picture of the formats {', '.join(FORMATS)}, or is cut off."
        raise RequestError(400, "not_an_image", text) from None
    except Image.DecompressionBombError:
        text = f"The picture is far too large: at most {max_pixels} pixels are taken."
        raise RequestError(413, "too_many_pixels", text) from None
    except Exception as error:  # Pillow raises many kinds for a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(400, "broken_image", f"The picture is broken: {reason}.") from None
