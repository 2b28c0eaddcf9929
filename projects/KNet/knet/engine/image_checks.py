"""Do the images of a data set fit the keys that say how they are read? Found before training."""

import logging
import math
from typing import Dict, List, Sequence, Tuple

from PIL import Image

from ..data.image_reading import RAW, ImageReader
from ..data.orientation import tell_of_turned
from ..errors import DatasetError, UsageError

__all__ = ["check_image", "check_image_keys", "look_at_images"]

logger = logging.getLogger(__name__)

_CHANNELS = {"BGR": 3, "YUV-BT.601": 3}  # of formats that are no modes of Pillow
_DEEP_FORMATS = ("RGB", "BGR", "L", RAW)  # that values of more than 8 bits become


def check_image_keys(cfg) -> None:
    """
    Raises:
        UsageError: a key that cannot be, or two that contradict each other.
    """
    keys, model = cfg.INPUT, cfg.MODEL
    _check_range(keys)
    if len(model.PIXEL_STD) != len(model.PIXEL_MEAN):
        raise UsageError(
            f"MODEL.PIXEL_STD has {len(model.PIXEL_STD)} numbers, MODEL.PIXEL_MEAN has "
            f"{len(model.PIXEL_MEAN)}: give both one for each channel"
        )
    if keys.FORMAT != RAW:
        channels = _channels(keys.FORMAT)
        if channels != len(model.PIXEL_MEAN):
            raise UsageError(
                f"INPUT.FORMAT {keys.FORMAT} gives images of {channels} channels, MODEL.PIXEL_MEAN "
                f"has {len(model.PIXEL_MEAN)} numbers: set MODEL.PIXEL_MEAN and MODEL.PIXEL_STD to "
                f"{channels}, or INPUT.FORMAT {RAW} to take the channels that the files have"
            )
    if keys.RESIZE_ANTIALIAS and (keys.FORMAT == RAW or keys.VALUE_RANGE):
        which = f"INPUT.FORMAT {RAW}" if keys.FORMAT == RAW else "INPUT.VALUE_RANGE"
        raise UsageError(
            f"INPUT.RESIZE_ANTIALIAS True is for colour images of 8 bits, not for {which}: set it "
            "to False"
        )


def _check_range(keys) -> None:
    values = tuple(keys.VALUE_RANGE)
    if not values:
        return
    if len(values) != 2 or not all(map(math.isfinite, values)) or values[0] >= values[1]:
        raise UsageError(
            f"INPUT.VALUE_RANGE is {values}: it must be () or the values that are black and white, "
            "such as (0, 4095)"
        )
    if keys.FORMAT not in _DEEP_FORMATS:
        raise UsageError(
            f"INPUT.VALUE_RANGE needs INPUT.FORMAT {', '.join(_DEEP_FORMATS[:-1])} or "
            f"{_DEEP_FORMATS[-1]}, not {keys.FORMAT}"
        )
    if keys.COLOR_AUG_SSD:
        raise UsageError(
            "INPUT.COLOR_AUG_SSD True is for colours of 8 bits, not for INPUT.VALUE_RANGE: set it "
            "to False"
        )


def _channels(image_format: str) -> int:
    try:
        return _CHANNELS.get(image_format) or Image.getmodebands(image_format)
    except KeyError:
        raise UsageError(
            f"INPUT.FORMAT is '{image_format}': it is RGB, BGR, L, YUV-BT.601, another mode of "
            f"Pillow, or {RAW} for the channels that the files have"
        ) from None


def look_at_images(cfg, sets: Sequence[Tuple[str, List[Dict]]]) -> None:
    """Read one image of each training set, and tell which have an EXIF orientation.

    Args:
        cfg: the config.
        sets: the data sets' names and images.

    Raises:
        DatasetError: it cannot be read, or has another number of channels than the model.
    """
    for _, dicts in sets:
        if dicts:
            check_image(cfg, dicts)
    tell_of_turned([d for _, dicts in sets for d in dicts], cfg.INPUT.EXIF_ORIENTATION)


def check_image(cfg, dicts: Sequence[Dict]) -> None:
    """Read the first image of a data set.

    Raises:
        DatasetError: it cannot be read, or has another number of channels than the model.
    """
    name, expected = dicts[0]["file_name"], len(cfg.MODEL.PIXEL_MEAN)
    try:
        channels = ImageReader.from_config(cfg).read(name).shape[2]
    except DatasetError:
        if cfg.DATALOADER.MAX_UNREADABLE:  # it is counted when its turn comes
            return
        raise
    if channels != expected:
        raise DatasetError(
            f"the image {name} has {channels} channels, MODEL.PIXEL_MEAN has {expected}: set "
            f"MODEL.PIXEL_MEAN and MODEL.PIXEL_STD to {channels} numbers"
        )
