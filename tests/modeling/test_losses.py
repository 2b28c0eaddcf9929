"""The losses as functions, against those of libraries."""

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss

from knet.modeling.losses import focal_loss_sum
from tests.modeling.test_recompute import kept_bytes


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.7, 1.5)])
def test_focal_loss_and_its_gradient_are_fvcores(alpha, gamma):
    torch.manual_seed(0)
    logits = (8 * torch.randn(50, 40)).requires_grad_()
    with torch.no_grad():
        logits[0, :4] = torch.tensor([-200.0, -30.0, 30.0, 200.0])
    target = (torch.rand(50, 40) < 0.3).float()
    expected = sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma, reduction="sum")
    actual = focal_loss_sum(logits, target, alpha, gamma)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    (wanted,) = torch.autograd.grad(3 * expected, logits)
    (gradient,) = torch.autograd.grad(3 * actual, logits)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_focal_loss_of_nothing():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = focal_loss_sum(logits, torch.zeros(0, 3))
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (0, 3)


def test_focal_loss_keeps_one_tensor():
    logits = torch.randn(100, 100, requires_grad=True)
    target = torch.zeros(100, 100)
    assert kept_bytes(lambda: focal_loss_sum(logits, target)) == logits.nbytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_focal_loss_of_half_precision_is_summed_in_single(dtype):
    logits = torch.full((300, 300), 3.0, dtype=dtype, requires_grad=True)
    loss = focal_loss_sum(logits, torch.zeros_like(logits))
    expected = sigmoid_focal_loss(
        logits, torch.zeros(300, 300), alpha=0.25, gamma=2.0, reduction="sum"
    )
    assert loss.dtype == torch.float32 and loss > torch.finfo(torch.float16).max
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad.dtype == dtype


def test_focal_loss_can_be_compiled():
    torch.manual_seed(0)
    logits, target = torch.randn(6, 5, requires_grad=True), torch.zeros(6, 5)
    compiled = torch.compile(focal_loss_sum, backend="aot_eager", fullgraph=True)
    gradients = [
        torch.autograd.grad(loss(logits, target), logits)[0] for loss in (compiled, focal_loss_sum)
    ]
    torch.testing.assert_close(*gradients)
