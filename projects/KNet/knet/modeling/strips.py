"""Maps enlarged bilinearly some rows at a time, for losses that look at each pixel once.

What a strip of few maps takes fits into a core's cache, and only as much of an enlarged map exists
as is looked at. Bilinear enlarging is two products, of rows and of columns, and so is its gradient.

Shape shorthand: B images, K maps, h x w their size, H x W the wanted one.
"""

import functools
from typing import Iterator, List, Optional, Sequence, Tuple

import torch

from .masks import interpolation_matrix

__all__ = ["Strip", "Strips", "strips_of"]

# Values in a strip: what a core's cache holds, or keeps a GPU busy
_ON_CPU, _ELSEWHERE = 2**16, 2**26


def strips_of(maps: torch.Tensor, size: Sequence[int]) -> "Strips":
    """How maps (B, K, h, w) come to a size (H, W)."""
    limit = _ON_CPU if maps.device.type == "cpu" else _ELSEWHERE
    # of less than four rows too much is done for each
    rows = max(4, limit // max(1, maps.shape[0] * maps.shape[1] * size[1]))
    return _strips(tuple(maps.shape[-2:]), tuple(size), rows, maps.dtype, maps.device)


class Strip:
    """Some rows of the enlarged maps, and those that they are made of."""

    def __init__(self, rows: slice, weight: Optional[torch.Tensor] = None):
        """
        Args:
            rows: of the maps.
            weight: (rows of the strip, rows of the maps), or None: they are the same.
        """
        self._rows = rows
        self._weight = weight

    def enlarge(self, wide: torch.Tensor) -> torch.Tensor:
        """(B, K, h, W) -> (B, K, rows of the strip, W)."""
        maps = wide[:, :, self._rows]
        return maps if self._weight is None else self._weight @ maps

    def add_gradient(self, of_strip: torch.Tensor, of_wide: torch.Tensor) -> None:
        """Add what :meth:`enlarge` gives back for the gradient of its result, in place."""
        of_maps = of_strip if self._weight is None else self._weight.t() @ of_strip
        of_wide[:, :, self._rows] += of_maps


class Strips:
    """All strips, top to bottom."""

    def __init__(
        self,
        size: Tuple[int, int],
        wanted: Tuple[int, int],
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: Optional[torch.device] = None,
    ):
        """
        Args:
            size, wanted: (h, w) and (H, W).
            rows: of a strip; the last one may have less.
            dtype, device: of the maps.
        """
        starts = range(0, wanted[0], rows)
        self._rows = [min(rows, wanted[0] - start) for start in starts]
        self._columns = None
        if size == wanted:
            self._strips = [Strip(slice(start, start + rows)) for start in starts]
            return
        self._columns = interpolation_matrix(size[1], wanted[1], dtype).to(
            device, non_blocking=True
        )
        matrix = interpolation_matrix(size[0], wanted[0], dtype)
        self._strips = [_strip_of(weight, device) for weight in matrix.split(rows)]

    def __iter__(self) -> Iterator[Strip]:
        return iter(self._strips)

    def __len__(self) -> int:
        return len(self._strips)

    def split(self, pixels: torch.Tensor) -> List[torch.Tensor]:
        """(B, K, H, W) of any kind -> a part a strip."""
        return pixels.split(self._rows, 2)

    def widen(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, K, h, w) -> (B, K, h, W), of which strips are made."""
        return maps if self._columns is None else maps @ self._columns.t()

    def gradient(self, of_wide: torch.Tensor) -> torch.Tensor:
        """That of the maps, from that of the widened ones."""
        return of_wide if self._columns is None else of_wide @ self._columns


def _strip_of(weight: torch.Tensor, device: Optional[torch.device]) -> Strip:
    """(rows of the strip, h), most of it 0."""
    used = (weight != 0).any(0).nonzero()
    rows = slice(int(used[0]), int(used[-1]) + 1)
    return Strip(rows, weight[:, rows].to(device, non_blocking=True))


@functools.lru_cache(maxsize=32)  # crops have one size
@torch.inference_mode(False)  # the next to ask may be learning
def _strips(*args) -> Strips:
    return Strips(*args)
