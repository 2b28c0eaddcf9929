"""Muon: weights that are matrices learn by steps of which no direction is small.

A gradient's matrix has a few large singular values and many small ones; a step along its orthogonal
factor learns in all their directions alike (Jordan et al., "Muon: An optimizer for hidden layers in
neural networks", 2024). ``torch.optim.Muon`` of PyTorch 2.9 takes no convolutions.
"""

import torch

__all__ = ["Muon", "orthogonal_factor"]

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
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros(())  # AdamW looks for it where it loads a state
                state["momentum_buffer"] = torch.zeros_like(weight)
            state["step"] += 1
            momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - _MOMENTUM)
            matrix = weight.grad.lerp(momentum, _MOMENTUM).flatten(1)  # Nesterov's
            size = _STEP_RMS * max(matrix.shape) ** 0.5
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.sub_(orthogonal_factor(matrix).view_as(weight), alpha=group["lr"] * size)


def orthogonal_factor(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """About U V^T of U S V^T, by Newton-Schulz iterations.

    They are products of the smaller square of the matrix, whose polynomials it is multiplied with
    once, at the end: for a 3 x 3 convolution a quarter of the time of iterating the matrix itself.

    Args:
        matrix: (m, n); zeros stay zeros.
    """
    a, b, c = _COEFFICIENTS
    matrix = matrix / (matrix.norm() + 1e-7)
    is_tall = matrix.shape[0] > matrix.shape[1]
    square = matrix.t() @ matrix if is_tall else matrix @ matrix.t()
    product = None
    for step in range(steps):
        factor = torch.addmm(square, square, square, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            square = factor @ square @ factor
    return matrix @ product if is_tall else product @ matrix
