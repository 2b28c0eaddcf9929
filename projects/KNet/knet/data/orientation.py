"""How a picture is to be turned to stand upright, as its EXIF orientation says."""

import logging
from typing import Dict, Sequence

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

__all__ = ["ORIENTATION", "orientation_of", "tell_of_turned", "turn", "turn_back", "why_turned"]

logger = logging.getLogger(__name__)

ORIENTATION = 0x0112  # the tag, in EXIF and in TIFF

_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
_BACK = {6: 8, 8: 6}  # all others undo themselves

MAX_HEADERS = 1000  # that are looked at before a training, evenly spread


def orientation_of(image: Image.Image) -> int:
    """1 (upright) to 8, as the file says; 1 where it says nothing that is known."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of a broken EXIF Pillow raises many kinds
        return 1
    return value if value in _UPRIGHT else 1


def turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as stored -> upright."""
    return _UPRIGHT[orientation](values) if orientation in _UPRIGHT else values


def turn_back(image: Image.Image, orientation: int) -> Image.Image:
    """An upright picture -> as stored."""
    exif = image.getexif()
    exif[ORIENTATION] = _BACK.get(orientation, orientation)
    return ImageOps.exif_transpose(image)


def why_turned(file_name: str) -> str:
    """For the end of a sentence about a picture whose size is not as expected; mostly ""."""
    orientation = _orientation_of_file(file_name)
    if orientation < 5:  # height and width stay what they are
        return ""
    return (
        f"; its EXIF orientation {orientation} exchanges width and height: INPUT.EXIF_ORIENTATION "
        "True needs annotations of the upright picture, False of the picture as stored"
    )


def tell_of_turned(dicts: Sequence[Dict], turned: bool) -> None:
    """Log how many images have an EXIF orientation, and what is done about it.

    Args:
        dicts: of a data set; of many some are looked at, evenly spread.
        turned: the images are turned upright (``INPUT.EXIF_ORIENTATION``).
    """
    step = max(1, -(-len(dicts) // MAX_HEADERS))
    names = [d["file_name"] for d in dicts[::step]]
    tagged = [name for name in names if _orientation_of_file(name) != 1]
    if tagged:
        logger.warning(
            "%d of %d images looked at have an EXIF orientation (%s%s) and are %s: annotations "
            "must be of the picture %s",
            len(tagged),
            len(names),
            tagged[0],
            ", ..." if tagged[1:] else "",
            "turned upright" if turned else "not turned (INPUT.EXIF_ORIENTATION False)",
            "as it stands then, as annotation tools and browsers show it"
            if turned
            else "as stored; True turns it",
        )


def _orientation_of_file(file_name: str) -> int:
    """By its header; 1 where it cannot be read, which is told elsewhere."""
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            return orientation_of(image)
    except Exception:
        return 1
