"""Masks at the size of the result, block by block: only what is asked for is ever computed.

A mask at its stride is small; at the size of the result it is large and, almost everywhere, surely
inside or surely outside. What bilinear enlarging makes of a block lies between the smallest and the
largest value that the block is made of, so that most blocks of most masks need not be made.

Shape shorthand: N masks of h x w, H x W the size of the result, T = Ty x Tx blocks of S x S pixels.
"""

import copy
import functools
from dataclasses import dataclass
from typing import Callable, Iterator, List, Tuple

import torch
from torch.nn import functional as F

from .masks import interpolate_rows, interpolation_matrix

__all__ = ["SLACK", "Block", "EnlargedLogits", "EnlargedMasks", "ImageSizes"]

_SIDE = 32  # S
# Values that are computed at once: what a core's cache holds, or keeps a GPU busy
_CHUNK_ON_CPU, _CHUNK_ELSEWHERE = 2**18, 2**26
# Rounding may put a value so far outside of what it is made of
SLACK = 1e-5


@dataclass
class ImageSizes:
    """(height, width) of the padded input, of the input before padding, and of the result."""

    padded: Tuple[int, int]
    image: Tuple[int, int]
    output: Tuple[int, int]


@dataclass
class Block:
    """Some blocks, and in each the masks that were asked for.

    Attributes:
        index: (t,) of the blocks.
        mask: (t, K) of the masks: those asked for in their order, and others to make up the number.
        values: (t, S, K, S), of pixels outside of the result 0.
    """

    index: torch.Tensor
    mask: torch.Tensor
    values: torch.Tensor

    def sum_of_masks(self, pixels: torch.Tensor, num_masks: int) -> torch.Tensor:
        """(t, S, K, S) of any kind -> (N,): the sum over each mask's pixels here."""
        sums = pixels.sum((1, 3)).flatten()
        total = torch.zeros(num_masks, dtype=sums.dtype, device=sums.device)
        return total.index_add_(0, self.mask.flatten(), sums)


class EnlargedMasks:
    """Mask probabilities, enlarged to the padded input, cut to the image, resized to the result."""

    def __init__(self, masks: torch.Tensor, sizes: ImageSizes):
        """
        Args:
            masks: (N, h, w) probabilities at the mask stride of the padded input.
            sizes: of the image.
        """
        self._masks = masks
        self.size = tuple(sizes.output)
        per_side = zip(masks.shape[1:], sizes.padded, sizes.image, sizes.output)
        self._y, self._x = (_side(*lengths, _SIDE, masks.device) for lengths in per_side)
        windows = masks[:, self._y.window]  # (N, Ty, used, w)
        self.lowest = windows.amin(2)[..., self._x.window].amin(3).flatten(1)  # (N, T)
        self.highest = windows.amax(2)[..., self._x.window].amax(3).flatten(1)

    @classmethod
    def of_size(cls, masks: torch.Tensor) -> "EnlargedMasks":
        """(N, H, W) that have their size already."""
        size = tuple(masks.shape[1:])
        return cls(masks, ImageSizes(size, size, size))

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: torch.Tensor) -> "EnlargedMasks":
        """Some of the masks, or some of them several times."""
        return self._like(lambda x: x[index])

    def scaled(self, factors: torch.Tensor) -> "EnlargedMasks":
        """Times (N,) factors of 0 and more."""
        return self._like(lambda x: (x.flatten(1) * factors[:, None]).view_as(x))

    def _like(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "EnlargedMasks":
        other = copy.copy(self)
        for name in ("_masks", "lowest", "highest"):
            setattr(other, name, change(getattr(self, name)))
        return other

    @property
    def device(self) -> torch.device:
        return self._masks.device

    @property
    def num_blocks(self) -> int:
        return self.lowest.shape[1]

    def inside(self, threshold: float) -> torch.Tensor:
        """(N, T) bool: surely all of a block is above the threshold."""
        return self.lowest > threshold + SLACK

    def crossing(self, threshold: float) -> torch.Tensor:
        """(N, T) bool: a block may have pixels on both sides of the threshold."""
        return ~self.inside(threshold) & (self.highest >= threshold - SLACK)

    @property
    def pixels(self) -> torch.Tensor:
        """(T,) int64: the pixels of each block that are in the result."""
        return (self._y.length[:, None] * self._x.length).flatten()

    def sums(self, wanted: torch.Tensor) -> torch.Tensor:
        """(N, T) bool -> (N,): the sum over the blocks wanted, of which no pixel is computed."""
        columns = self._masks @ self._x.total.t()
        return (wanted * (self._y.total @ columns).flatten(1)).sum(1)

    def blocks(self, wanted: torch.Tensor) -> Iterator[Block]:
        """Compute blocks of masks; the host waits once, to learn how many there are.

        Args:
            wanted: (N, T) bool.
        """
        count, order = wanted.sum(0).sort()
        masks = (~wanted).t().sort(dim=1, stable=True).indices  # (T, N), the wanted ones first
        for start, end, most in _chunks(count.tolist(), self._limit):
            index = order[start:end]
            chosen = masks[index, :most]
            yield Block(index, chosen, self._values(index, chosen))

    def rows(self) -> Iterator[Tuple[slice, torch.Tensor]]:
        """Compute everything: some rows of blocks, and the (Tx, N, rows, S, S) of them."""
        step = max(1, self._limit // (max(1, len(self)) * len(self._x.window)))
        for start in range(0, len(self._y.window), step):
            rows = slice(start, start + step)
            strips = self._y.weight[rows] @ self._masks[:, self._y.window[rows]]  # (N, rows, S, w)
            strips = strips.flatten(0, 2)[:, self._x.window].transpose(0, 1)  # (Tx, all, used)
            values = strips @ self._x.weight.transpose(1, 2)
            yield rows, values.unflatten(1, (len(self), -1, _SIDE))

    def new_maps(self, number: int, value: torch.Tensor) -> torch.Tensor:
        """(number, Ty, S, Tx, S), each block filled with its value of (number or 1, T)."""
        value = value.view(-1, len(self._y.window), 1, len(self._x.window), 1)
        shape = (number, len(self._y.window), _SIDE, len(self._x.window), _SIDE)
        return value.expand(shape).contiguous()

    def place(self, block: Block) -> Tuple[torch.Tensor, torch.Tensor]:
        """(t, 1) each: row and column of blocks."""
        row, column = self._place(block.index)
        return row[:, None], column[:, None]

    def cut(self, maps: torch.Tensor) -> torch.Tensor:
        """(n, Ty, S, Tx, S) -> (n, H, W)."""
        height, width = self.size
        return maps.flatten(3, 4).flatten(1, 2)[:, :height, :width].contiguous()

    def _place(self, index: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        columns = len(self._x.window)
        return torch.div(index, columns, rounding_mode="floor"), index % columns

    @property
    def _limit(self) -> int:
        chunk = _CHUNK_ON_CPU if self._masks.device.type == "cpu" else _CHUNK_ELSEWHERE
        return chunk // _SIDE**2

    def _values(self, index: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        row, column = self._place(index)
        window = self._masks[
            chosen[:, None, :, None],
            self._y.window[row][:, :, None, None],
            self._x.window[column][:, None, None, :],
        ]  # (t, used, K, used)
        wide = window.flatten(1, 2) @ self._x.weight[column].transpose(1, 2)
        wide = wide.view(len(index), window.shape[1], -1)  # (t, used, K S)
        return (self._y.weight[row] @ wide).view(len(index), _SIDE, -1, _SIDE)


class EnlargedLogits(EnlargedMasks):
    """The same of mask logits: these are enlarged, and each pixel's probability is made of its own.

    An outline then lies between two cells where it is, not where the mean of their probabilities
    crosses the threshold: a sure cell does not push it away.
    """

    def __init__(self, logits: torch.Tensor, sizes: ImageSizes):
        """
        Args:
            logits: (N, h, w) at the mask stride of the padded input.
            sizes: of the image.
        """
        super().__init__(logits, sizes)
        self.lowest, self.highest = self.lowest.sigmoid(), self.highest.sigmoid()
        self._factors = logits.new_ones(len(logits))

    def __getitem__(self, index: torch.Tensor) -> "EnlargedLogits":
        other = super().__getitem__(index)
        other._factors = self._factors[index]
        return other

    def scaled(self, factors: torch.Tensor) -> "EnlargedLogits":
        other = copy.copy(self)
        other.lowest, other.highest = (x * factors[:, None] for x in (self.lowest, self.highest))
        other._factors = self._factors * factors
        return other

    def sums(self, wanted: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(self), device=self.device)
        for block in self.blocks(wanted):
            ours = wanted[block.mask, block.index[:, None]]
            total += block.sum_of_masks(block.values * ours[:, None, :, None], len(self))
        return total

    def rows(self) -> Iterator[Tuple[slice, torch.Tensor]]:
        for rows, logits in super().rows():
            yield rows, logits.sigmoid_() * self._factors[:, None, None, None]

    def _values(self, index: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        values = super()._values(index, chosen).sigmoid_() * self._factors[chosen][:, None, :, None]
        sides = zip((self._y, self._x), self._place(index))
        there_y, there_x = (side.is_pixel[number] for side, number in sides)
        return values * there_y[:, :, None, None] * there_x[:, None, None, :]


class _Side:
    """Height or width: of which values each block is made, and how.

    Made on the CPU and sent from there, so that a GPU is not waited for.

    Attributes:
        window: (blocks, used) int64.
        weight: (blocks, S, used), zeros beyond the result's end.
        total: (blocks, source), the sum of a block's weights.
        length: (blocks,) int64, pixels in the result.
        is_pixel: (blocks, S) bool, are they in the result.
    """

    def __init__(
        self, source: int, padded: int, image: int, output: int, side: int, device: torch.device
    ):
        weight = _interpolation_matrix(source, padded, image, output)
        weight = F.pad(weight, (0, 0, 0, -output % side)).view(-1, side, source)
        first, used = _used(weight)
        window = first[:, None] + torch.arange(used)
        length = (output - torch.arange(0, output, side)).clamp(max=side)
        self.window, self.weight, self.total, self.length, self.is_pixel = (
            x.to(device, non_blocking=True)
            for x in (
                window,
                weight.gather(2, window[:, None].expand(-1, side, -1)),
                weight.sum(1),
                length,
                torch.arange(side) < length[:, None],
            )
        )


# images of a data set have few sizes
_side = functools.lru_cache(maxsize=32)(_Side)


def _interpolation_matrix(source: int, padded: int, image: int, output: int) -> torch.Tensor:
    """(output, source): to the padded input, cut to the image, and to the result, along a side."""
    matrix = interpolation_matrix(source, padded)[:image]
    return matrix if output == image else interpolate_rows(matrix, output)


def _used(weight: torch.Tensor) -> Tuple[torch.Tensor, int]:
    """The first source value that each block is made of, and the most that one is made of."""
    source = weight.shape[2]
    position = torch.arange(source)
    used = (weight != 0).any(1)
    first = torch.where(used, position, source).amin(1)
    last = torch.where(used, position, -1).amax(1)
    most = int((last - first).max()) + 1
    return first.clamp(max=source - most), most


def _chunks(counts: List[int], limit: int) -> Iterator[Tuple[int, int, int]]:
    """(start, end, largest count) of runs of ascending counts, each within a limit together."""
    start = 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or (end + 1 - start) * max(1, counts[end]) > limit:
            yield start, end, max(1, counts[end - 1])
            start = end
