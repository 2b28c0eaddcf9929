"""Muon: weights that are matrices learn by steps that are equally long in all their directions.

A gradient's matrix has a few large singular values and many small ones; a step along its orthogonal
factor learns in all their directions alike (Jordan et al., "Muon: An optimizer for hidden layers in
neural networks", 2024). ``torch.optim.Muon`` of PyTorch 2.9 takes no convolutions.
"""

from collections import defaultdict

import torch

__all__ = ["Muon", "orthogonal_factors"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: singular values come to 0.7 to 1.2
_MOMENTUM = 0.95
# A step has the root mean square of AdamW's, so that both learn at one rate (Liu et al., "Muon is
# scalable for LLM training", section 2.2)
_STEP_RMS = 0.2


class Muon(torch.optim.AdamW):
    """AdamW but for groups with ``muon`` True, whose weights are matrices.

    A weight of more dimensions is a matrix of (outputs, all else). The rate and the decoupled
    weight decay are those of the group, as in AdamW; betas and eps count for the other groups.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # after an overflow of float16 a scaler leaves the step out; a fused one would be left to do
        # that itself, and knows of its own part alone
        self._step_supports_amp_scaling = False

    def step(self, closure=None):
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon")]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self._step_matrices(group)
        return loss

    @torch.no_grad()
    def _step_matrices(self, group) -> None:
        by_shape = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros(())  # AdamW looks for it where it loads a state
                state["momentum_buffer"] = torch.zeros_like(weight)
            state["step"] += 1
            momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - _MOMENTUM)
            direction = weight.grad.lerp(momentum, _MOMENTUM).flatten(1)  # Nesterov's
            by_shape[direction.shape].append((weight, direction))
        for shape, found in by_shape.items():  # few calls, for a GPU
            weights, directions = zip(*found)
            rate = group["lr"] * _STEP_RMS * max(shape) ** 0.5
            for weight, step in zip(weights, orthogonal_factors(torch.stack(directions))):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(step.view_as(weight), alpha=rate)


def orthogonal_factors(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """About U V^T of each matrix U S V^T, by Newton-Schulz iterations.

    They are products of the smaller square of the matrix, whose polynomials it is multiplied with
    once, at the end: for a 3 x 3 convolution a quarter of the time of iterating the matrix itself.

    Args:
        matrices: (B, m, n); zeros stay zeros.
    """
    a, b, c = _COEFFICIENTS
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    is_tall = matrices.shape[1] > matrices.shape[2]
    square = matrices.mT @ matrices if is_tall else matrices @ matrices.mT
    product = None
    for step in range(steps):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            square = factor @ square @ factor
    return matrices @ product if is_tall else product @ matrices
