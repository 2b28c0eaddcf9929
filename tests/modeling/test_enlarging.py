"""Masks at the size of the result, computed block by block, against loops and PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from knet.modeling import enlarging
from knet.modeling.enlarging import EnlargedLogits, EnlargedMasks, ImageSizes

from .. import slow_reference as slow


def whole(masks: EnlargedMasks) -> torch.Tensor:
    """(N, H, W), everything computed."""
    strips = [values.permute(1, 2, 3, 0, 4).flatten(3).flatten(1, 2) for _, values in masks.rows()]
    return torch.cat(strips, dim=1)[:, : masks.size[0], : masks.size[1]]


def enlarged(kind: str, logits: np.ndarray, sizes: ImageSizes) -> EnlargedMasks:
    logits = torch.from_numpy(logits)
    if kind == "logits":
        return EnlargedLogits(logits, sizes)
    return EnlargedMasks(logits.sigmoid(), sizes)


KINDS = pytest.mark.parametrize("kind", ["probabilities", "logits"])


def random_sizes(rng) -> ImageSizes:
    image = tuple(int(side) for side in rng.integers(1, 24, size=2))
    padded = tuple(-(-side // 8) * 8 for side in image)
    output = image
    if rng.random() < 0.8:
        output = tuple(int(side) for side in rng.integers(1, 40, size=2))
    return ImageSizes(padded, image, output)


def random_masks(rng, number: int = 5, stride: int = 4):
    sizes = random_sizes(rng)
    shape = (number, *(side // stride for side in sizes.padded))
    logits = (rng.normal(size=shape) * 4).astype(np.float32)
    return logits, sizes


@pytest.fixture(params=[3, 8, 32])
def side(request, monkeypatch) -> int:
    """Of a block: many, some or one an image."""
    monkeypatch.setattr(enlarging, "_SIDE", request.param)
    return request.param


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_all_of_the_masks(stride, side, monkeypatch):
    """To the padded size, crop, to the wanted size; up or down, odd or even."""
    if stride == 4:  # several rows at once
        monkeypatch.setattr(enlarging, "_CHUNK_ON_CPU", 2**20)
    rng = np.random.default_rng((stride, side))
    for _ in range(5):
        logits, sizes = random_masks(rng, 3, stride)
        masks = whole(EnlargedMasks(torch.from_numpy(logits).sigmoid(), sizes))
        assert masks.shape == (3, *sizes.output) and masks.dtype == torch.float32
        for mask, kernel_logits in zip(masks, logits):
            expected = slow.result_mask(kernel_logits, sizes.padded, sizes.image, sizes.output)
            np.testing.assert_allclose(mask.numpy(), expected, rtol=0, atol=1e-6)


def test_weights_are_those_of_pytorch():
    """Of a large image, where the position of a pixel is rounded: not a pixel's error beside it."""
    torch.manual_seed(0)
    sizes = ImageSizes((800, 1216), (799, 1203), (1999, 3001))
    low = torch.rand(2, 200, 304)
    expected = F.interpolate(low[None], sizes.padded, mode="bilinear")[..., :799, :1203]
    expected = F.interpolate(expected, sizes.output, mode="bilinear")[0]
    torch.testing.assert_close(whole(EnlargedMasks(low, sizes)), expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_logits_are_enlarged_first(stride, side):
    """By PyTorch: to the padded size, crop, to the wanted size; then sigmoid and factor."""
    rng = np.random.default_rng((stride, side))
    for _ in range(5):
        logits, sizes = random_masks(rng, 3, stride)
        logits = torch.from_numpy(logits)
        expected = F.interpolate(logits[None], sizes.padded, mode="bilinear")
        expected = expected[..., : sizes.image[0], : sizes.image[1]]
        expected = F.interpolate(expected, sizes.output, mode="bilinear")[0].sigmoid()
        masks = EnlargedLogits(logits, sizes)
        torch.testing.assert_close(whole(masks), expected, rtol=0, atol=2e-6)
        factors = torch.tensor([0.5, 0.0, 0.9])
        some = masks.scaled(factors)[torch.tensor([2, 0, 0])]
        expected = (expected * factors[:, None, None])[[2, 0, 0]]
        torch.testing.assert_close(whole(some), expected, rtol=0, atol=2e-6)
        wanted = torch.ones(3, masks.num_blocks, dtype=torch.bool)
        torch.testing.assert_close(some.sums(wanted), expected.sum((1, 2)), rtol=1e-5, atol=1e-5)


@KINDS
@pytest.mark.parametrize("limit", [1, 2**18])
def test_some_blocks_of_some_masks(limit, kind, side, monkeypatch):
    """Each wanted one comes once, with the values that computing everything gives."""
    monkeypatch.setattr(enlarging, "_CHUNK_ON_CPU", limit)  # 1: a block at a time
    rng = np.random.default_rng(side)
    for _ in range(6):
        logits, sizes = random_masks(rng)
        masks = enlarged(kind, logits, sizes)
        all_values, found = whole(masks), masks.new_maps(5, torch.full((masks.num_blocks,), -1.0))
        wanted = torch.from_numpy(rng.random((5, masks.num_blocks)) < rng.choice([0, 0.3, 0.9]))
        count = torch.zeros_like(wanted, dtype=torch.long)
        for block in masks.blocks(wanted):
            for index, chosen in zip(block.index.tolist(), block.mask.tolist()):
                asked_for = wanted[:, index].nonzero().flatten().tolist()
                assert chosen[: len(asked_for)] == asked_for
            row, column = masks.place(block)
            found[block.mask, row, :, column] = block.values.transpose(1, 2)
            count[block.mask, block.index[:, None]] += 1
        assert count.max() == 1 and (count[wanted] == 1).all()
        found = masks.cut(found)
        torch.testing.assert_close(
            found, torch.where(found == -1, -1.0, all_values), rtol=0, atol=1e-6
        )
        computed = masks.cut(masks.new_maps(5, count))
        assert torch.equal(found != -1, computed == 1)


@KINDS
def test_what_is_known_of_a_block(kind, side):
    rng = np.random.default_rng(side)
    for _ in range(20):
        logits, sizes = random_masks(rng)
        masks = enlarged(kind, logits, sizes)
        values, threshold = whole(masks), float(rng.choice([0.2, 0.5, 0.8]))
        state = masks.inside(threshold) + 2 * masks.crossing(threshold)
        state = masks.cut(masks.new_maps(5, state.long()))
        assert (values[state == 1] > threshold).all() and (values[state == 0] < threshold).all()
        number = torch.arange(masks.num_blocks)
        number = masks.cut(masks.new_maps(1, number)).flatten()
        assert torch.equal(torch.bincount(number), masks.pixels)
        sums = torch.zeros(5, masks.num_blocks).index_add_(1, number, values.flatten(1))
        wanted = torch.from_numpy(rng.random(sums.shape) < 0.5)
        torch.testing.assert_close(masks.sums(wanted), (sums * wanted).sum(1), rtol=1e-5, atol=1e-5)
