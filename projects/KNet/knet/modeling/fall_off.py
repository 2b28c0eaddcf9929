"""How masks of kernels that start at points fall off around their points.

Shape shorthand: B images, N kernels, H x W the neck's map.
"""

from typing import Iterator, Tuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .autocast import without_autocast
from .points import offsets
from .recorded import is_recorded

__all__ = ["NUM_FALL_OFF", "fall_off_logits"]

NUM_FALL_OFF = 3  # numbers of a lower triangular 2 x 2 matrix
_RADIUS = 4.0  # cells at which a fall-off of 1 lowers a logit by 1
# Values of a chunk of the backward pass: what a core's cache holds
_CHUNK_ON_CPU = 2**17


def fall_off_logits(
    mask_logits: torch.Tensor, fall_off: torch.Tensor, points: torch.Tensor, votes: torch.Tensor
) -> torch.Tensor:
    """Logits - |L_n (p + v(p) - p_n)|^2 / 4^2 at every cell p.

    Cell by cell: as a product of six numbers of the point and six of the cell, which it is too, the
    distance would be a small difference of large numbers.

    Args:
        mask_logits: (B, N, H, W).
        fall_off: (B, N, 3), of L row by row, the diagonal before its softplus.
        points: (B, N, 2) y and x of p_n.
        votes: (B, 2, H, W) y and x of v, in 4 cells.
    """
    first, below, second = fall_off.unbind(2)
    matrix = torch.stack((F.softplus(first), below, F.softplus(second)), dim=2)
    learns = any(x.requires_grad for x in (mask_logits, matrix, votes))
    if learns and not is_recorded():
        return _FallOff.apply(mask_logits, matrix, points, votes)
    for distance in _distances(matrix, points, votes)[:2]:  # operations that an export knows
        mask_logits = torch.addcmul(mask_logits, distance, distance, value=-1)
    return mask_logits


def _distances(matrix, points, votes):
    """L (p + v(p) - p_n) / 4, its two rows, and what L is applied to: (B, N, H, W) each."""
    y, x = (d / _RADIUS for d in offsets(points, *votes.shape[-2:]))
    y, x = y + votes[:, :1], x + votes[:, 1:]
    first, below, second = matrix[..., None, None].unbind(2)
    return first * y, torch.addcmul(below * y, second, x), y, x


class _FallOff(torch.autograd.Function):
    """Keeps no map for the gradient, and makes it chunk by chunk from what it is given again."""

    @staticmethod
    def forward(ctx, mask_logits, matrix, points, votes):
        ctx.save_for_backward(matrix, points, votes)
        logits = torch.empty_like(mask_logits)
        for image, some in _chunks(mask_logits):
            part = slice(image, image + 1), some
            across, along, _, _ = _distances(matrix[part], points[part], votes[part[0]])
            torch.addcmul(mask_logits[part], across, across, value=-1, out=logits[part])
            logits[part].addcmul_(along, along, value=-1)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        # Also where the caller's autocast is on, which would round what is summed over the map. (A
        # decorator for this is in newer PyTorch alone.)
        with without_autocast(gradient.device):
            of_matrix, of_votes = _gradients(gradient, *ctx.saved_tensors)
        return gradient, of_matrix, None, of_votes


def _gradients(gradient, matrix, points, votes):
    """Of matrix and votes, by that of the logits."""
    of_matrix, of_votes = torch.empty_like(matrix), torch.zeros_like(votes)
    for image, some in _chunks(gradient):
        part = slice(image, image + 1), some
        across, along, y, x = (
            values[0].flatten(1)
            for values in _distances(matrix[part], points[part], votes[part[0]])
        )
        minus_half = gradient[image, some].flatten(1)  # of the gradient of both distances
        across.mul_(minus_half)
        along.mul_(minus_half)
        sums = [_dot(across, y), _dot(along, y), _dot(along, x)]
        of_matrix[image, some] = torch.stack(sums, dim=1)
        first, below, second = matrix[image, some].t()
        of_votes[image, 0] += (first @ across + below @ along).view_as(of_votes[image, 0])
        of_votes[image, 1] += (second @ along).view_as(of_votes[image, 1])
    return of_matrix.mul_(-2), of_votes.mul_(-2)


def _chunks(maps: torch.Tensor) -> Iterator[Tuple[int, slice]]:
    """Image and some of the kernels of (B, N, H, W) maps, one chunk after the other."""
    num_images, num_kernels, height, width = maps.shape
    size = max(1, num_kernels)
    if maps.device.type == "cpu":
        size = max(1, _CHUNK_ON_CPU // max(1, height * width))
    for image in range(num_images):
        for start in range(0, num_kernels, size):
            yield image, slice(start, start + size)


def _dot(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(n, P) twice -> (n,)."""
    return torch.bmm(first[:, None], second[:, :, None]).flatten()
