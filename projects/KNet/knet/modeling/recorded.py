"""Programs made of what a model does."""

import torch

__all__ = ["is_recorded"]


def is_recorded() -> bool:
    """Is what runs being compiled, exported or traced? It must be PyTorch's own operations then.

    A compiler does better with these, and a program is to be the same whoever learns from it.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
