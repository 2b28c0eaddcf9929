"""How masks fall off around points: values, and the gradient that is made chunk by chunk."""

import pytest
import torch
from torch.nn import functional as F

from knet.modeling import fall_off as module
from knet.modeling.fall_off import fall_off_logits


def inputs(num_images, num_kernels, size, dtype=torch.float32, seed=0):
    """Mask logits, fall-off, points, votes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (num_images, num_kernels, *size), (num_images, num_kernels, 3), (num_images, 2, *size)
    masks, fall_off, votes = (torch.randn(x, generator=generator, dtype=dtype) for x in shapes)
    rows, columns = (torch.randint(0, side, shapes[0][:2], generator=generator) for side in size)
    return masks, fall_off, torch.stack((rows, columns), -1), votes


def one_matrix_product(mask_logits, fall_off, points, votes):
    """Of the definition, L a matrix."""
    height, width = mask_logits.shape[2:]
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
    away = grid + 4 * votes.permute(0, 2, 3, 1)[:, None] - points[:, :, None, None]
    first, below, second = fall_off.unbind(2)
    rows = (F.softplus(first), torch.zeros_like(below)), (below, F.softplus(second))
    matrix = torch.stack([torch.stack(row, -1) for row in rows], -2)  # (B, N, 2, 2)
    return mask_logits - (away @ matrix.mT[:, :, None] / 4).square().sum(-1)


@pytest.mark.parametrize("chunk", [1, 250, 2**17])
def test_values_and_gradients(chunk, monkeypatch):
    """Of kernels one by one, some or all at once; some of them have no gradient."""
    monkeypatch.setattr(module, "_CHUNK_ON_CPU", chunk)
    tensors = inputs(2, 5, (9, 12), torch.float64)
    weight = torch.randn(2, 5, 9, 12, generator=torch.Generator().manual_seed(1)).double()
    weight[:, ::2] = 0
    gradients = []
    for function in (fall_off_logits, one_matrix_product):
        masks, fall_off, points, votes = (x.clone() for x in tensors)
        learned = [x.requires_grad_() for x in (masks, fall_off, votes)]
        found = function(masks, fall_off, points, votes)
        gradients.append((found.detach(), *torch.autograd.grad((found * weight).sum(), learned)))
    for found, expected in zip(*gradients):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(fall_off_logits(*tensors), gradients[0][0])


def test_autocast_around_the_backward_pass_rounds_nothing():
    masks, fall_off, points, votes = inputs(2, 5, (9, 12))
    learned = [x.requires_grad_() for x in (masks, fall_off, votes)]
    gradients = []
    for enabled in (False, True):
        loss = fall_off_logits(masks, fall_off, points, votes).square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad(loss, learned))
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta: as on a GPU
def test_no_kernel(device):
    masks, fall_off, points, votes = (x.to(device) for x in inputs(2, 0, (4, 5)))
    found = fall_off_logits(masks, fall_off, points, votes.requires_grad_())
    found.sum().backward()
    assert found.shape == (2, 0, 4, 5) and votes.grad is not None
    assert device == "meta" or not votes.grad.any()


@pytest.mark.parametrize("learning", [False, True])
def test_distances_are_exact_on_a_large_map(learning):
    """Where a mask may end: else another program's mask differs from ours in some pixel."""
    _, fall_off, points, votes = inputs(1, 20, (400, 500))
    none = torch.zeros(1, 20, 400, 500)
    expected = fall_off_logits(none.double(), fall_off.double(), points, votes.double())
    found = fall_off_logits(none, fall_off.requires_grad_(learning), points, votes).detach()
    near = expected > -10
    assert near.sum() > 1000
    torch.testing.assert_close(found[near].double(), expected[near], rtol=0, atol=2e-5)


def test_a_program_learns_the_same():
    """Traced, of which PyTorch compares what learns with what does not, and compiled."""
    masks, fall_off, points, votes = inputs(1, 3, (4, 5))
    fall_off.requires_grad_()
    expected = fall_off_logits(masks, fall_off, points, votes)
    (gradient,) = torch.autograd.grad(expected.square().sum(), fall_off)
    for program in (
        torch.jit.trace(fall_off_logits, (masks, fall_off, points, votes)),
        torch.compile(fall_off_logits, backend="aot_eager", fullgraph=True),
    ):
        found = program(masks, fall_off, points, votes)
        torch.testing.assert_close(found, expected)
        (its_gradient,) = torch.autograd.grad(found.square().sum(), fall_off)
        torch.testing.assert_close(its_gradient, gradient)
