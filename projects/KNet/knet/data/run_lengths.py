"""COCO's run-length encoding: checked before pycocotools reads it, which trusts it."""

from typing import Any, Dict, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from pycocotools import mask as mask_util

from .id_map import runs

__all__ = ["check_rle", "decode_rle", "encode_labels", "encode_mask", "rle_area"]


def decode_rle(rle: Dict) -> np.ndarray:
    """Compressed or not -> (H, W) uint8, 0 or 1, of the size that it names.

    Raises:
        ValueError, KeyError, TypeError: it is no RLE.
    """
    return np.ascontiguousarray(mask_util.decode(_compressed(rle)))


def encode_mask(mask: np.ndarray) -> Dict:
    """(H, W) bool -> the compressed RLE that a json can hold.

    RLEs run along columns; those beside the object are not looked at twice.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return _rle((), mask.shape)
    part = cv2.transpose(mask[:, columns[0] : columns[-1] + 1].view(np.uint8))
    line = np.zeros(part.size + 2, bool)
    line[1:-1] = part.view(bool).ravel()
    edges = np.flatnonzero(line[1:] != line[:-1])
    return _rle(edges + columns[0] * len(mask), mask.shape)


def encode_labels(labels: np.ndarray) -> Dict[int, Dict]:
    """(H, W) integers of 0 to 65535 -> the RLE of each that occurs, by rising numbers."""
    values, lengths = runs(cv2.transpose(labels.astype(np.uint16)))
    ends = np.cumsum(lengths)
    edges = np.stack([ends - lengths, ends], axis=1)
    return {int(i): _rle(edges[values == i].ravel(), labels.shape) for i in np.unique(values)}


def _rle(edges: Sequence[int], size: Tuple[int, int]) -> Dict:
    """The RLE of a mask by the pixels where it begins and ends in turn, column after column."""
    bounds = np.concatenate([(0,), edges, (size[0] * size[1],)]).astype(np.int64)
    counts = bounds[1:] - bounds[:-1]
    counts = counts[: len(counts) - (counts[-1] == 0)]
    rle = mask_util.frPyObjects({"size": list(size), "counts": counts}, *size)
    return {**rle, "counts": rle["counts"].decode("ascii")}


def rle_area(rle: Dict) -> int:
    """Its pixels; raises as :func:`decode_rle`."""
    counts = rle["counts"]
    if isinstance(counts, (list, tuple)):
        return int(sum(counts[1::2]))
    return int(mask_util.area(_compressed(rle)))


def check_rle(rle: Dict, size: Tuple[Optional[int], Optional[int]]) -> None:
    """
    Args:
        rle: as a json has it.
        size: (H, W) of the image; None: unknown.

    Raises:
        ValueError: pycocotools would read beyond it, or its size is not that of the image.
    """
    for key in ("size", "counts"):
        if key not in rle:
            raise ValueError(f"is an RLE without {key}")
    sides, counts = rle["size"], rle["counts"]
    if not (isinstance(sides, (list, tuple)) and len(sides) == 2 and all(map(_is_count, sides))):
        raise ValueError(f"is an RLE of the size {sides!r}: it must be [height, width]")
    if None not in size and tuple(sides) != tuple(size):
        raise ValueError(
            f"is an RLE of {sides[1]} x {sides[0]} pixels, the image is {size[1]} x {size[0]}"
        )
    if not isinstance(counts, (str, bytes)) and not (
        isinstance(counts, (list, tuple)) and all(map(_is_count, counts))
    ):
        raise ValueError("is an RLE whose counts are neither a text nor a list of whole numbers")
    _check_sum(rle)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _compressed(rle: Dict) -> Dict:
    """The form that pycocotools reads; its runs cover its size."""
    _check_sum(rle)
    height, width = rle["size"]
    listed = isinstance(rle["counts"], (list, tuple))
    return mask_util.frPyObjects(rle, height, width) if listed else rle


def _check_sum(rle: Dict) -> None:
    counts, (height, width) = rle["counts"], rle["size"]
    listed = isinstance(counts, (list, tuple))
    pixels = sum(counts) if listed else _sum_of_runs(counts)
    if pixels != height * width:  # pycocotools would read beyond it, or leave memory as it is
        raise ValueError(
            f"is an RLE whose counts add up to {pixels} pixels instead of {height * width}"
        )


def _sum_of_runs(counts: Union[str, bytes]) -> int:
    """The pixels of a compressed RLE: numbers of 5 bits a character, from the fourth on differences
    to the number before the last."""
    text = counts.encode() if isinstance(counts, str) else counts
    chars = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(chars & 32 == 0)  # the last character of each number
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends + 1 - starts
    if lengths.sum() != len(chars) or not len(chars):
        raise ValueError("its RLE is cut off")
    place = 5 * (np.arange(len(chars)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((chars & 31) << place, starts)
    numbers -= np.where(chars[ends] & 16, 1 << (5 * lengths), 0)  # negative
    return int(numbers[0] + sum(numbers[i::2].cumsum().sum() for i in (1, 2)))
