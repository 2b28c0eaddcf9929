"""The cheap part, before each training and evaluation: are all files there, and the entries sound?

No file is read but a few images of each data set, for their size.
"""

import logging
from collections import Counter
from typing import Collection, Dict, List, Sequence

import numpy as np

from ...errors import DatasetError, refuse
from ..image_reading import ImageReader
from .files import files_of, is_address, missing_files
from .images import check_size, read_header

__all__ = ["check_before_training"]

logger = logging.getLogger(__name__)

_SHOWN = 5
_SIZES_READ = 20  # images of a data set, evenly spread
PROGRAM = "knet check-data"


def check_before_training(
    sets: Dict[str, Sequence[Dict]], reader: ImageReader, tolerated: Collection[str] = ()
) -> None:
    """
    Args:
        sets: name -> images of the data sets of ``DATASETS.TRAIN`` and ``TEST``.
        reader: as the model wants its images.
        tolerated: those of ``sets`` in which an image may be unreadable
            (``DATALOADER.MAX_UNREADABLE``): what is wrong there is found when it is read.

    Raises:
        DatasetError: files do not exist, of whichever set; an image has another size than the data
            set says.
    """
    _check_files({name: dicts for name, dicts in sets.items() if name not in tolerated})
    for name, dicts in sets.items():
        _warn_of_ids(name, dicts)
        if name not in tolerated:
            _check_sizes(dicts, reader)


def _check_files(sets: Dict[str, Sequence[Dict]]) -> None:
    missing = {name: missing_files(files_of(dicts)) for name, dicts in sets.items()}
    paths = list(dict.fromkeys(path for found in missing.values() for path in found))
    if not paths:
        return
    where = " and ".join(f"{len(found)} of '{name}'" for name, found in missing.items() if found)
    more = ", ..." if len(paths) > _SHOWN else ""
    one = len(paths) == 1
    raise DatasetError(
        f"{len(paths)} {'file does' if one else 'files do'} not exist ({where}): "
        f"{', '.join(paths[:_SHOWN])}{more}; mend the paths, or take "
        f"{'its image' if one else 'their images'} out of the data ({PROGRAM} lists all)"
    )


def _warn_of_ids(name: str, dicts: Sequence[Dict]) -> None:
    """By its id an image finds its ground truth; evaluation, which needs them, refuses it."""
    counts = Counter(d["image_id"] for d in dicts if "image_id" in d)
    doubled = [image_id for image_id, count in counts.items() if count > 1]
    if doubled:
        logger.warning(
            "%d image ids of '%s' stand for several images (%r, ...): number them anew",
            len(doubled),
            name,
            doubled[0],
        )


def _check_sizes(dicts: Sequence[Dict], reader: ImageReader) -> None:
    """What cannot be read is told when it is trained on."""
    told = [d for d in dicts if {"height", "width"} <= d.keys() and not is_address(d["file_name"])]
    for d in _evenly_spread(told, _SIZES_READ):
        path = d["file_name"]
        try:
            header = read_header(path)
        except Exception as error:  # Pillow raises many kinds for a broken file
            logger.debug("%s: %r", path, error)
            continue
        check_size((d["height"], d["width"]), header.size_as_read(reader), path, refuse)


def _evenly_spread(dicts: Sequence[Dict], number: int) -> List[Dict]:
    places = np.linspace(0, len(dicts) - 1, min(number, len(dicts))).round().astype(int)
    return [dicts[i] for i in places]
