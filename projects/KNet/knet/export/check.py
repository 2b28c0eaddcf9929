"""An exported file beside its model: do both say the same, at any size?"""

from dataclasses import dataclass
from typing import List

import torch

from .formats import Run
from .network import Network, example_inputs

__all__ = ["Comparison", "compare"]

_SIZES = ((96, 128), (135, 203), (256, 160))
_BATCHES = (1, 3)
# Relative to the largest value of an output. Rounding may put a pixel into another mask, which then
# changes all that this kernel becomes: rarely, but by more than rounding.
_MOST, _MEAN = 1e-2, 1e-5


@dataclass(frozen=True)
class Comparison:
    """One output for one batch of images; differences are relative to its largest value."""

    batch: int
    height: int  # of the padded images
    width: int
    output: str
    largest: float
    mean: float

    @property
    def is_equal(self) -> bool:
        return self.largest <= _MOST and self.mean <= _MEAN


def compare(network: Network, run: Run, dtype: str = "uint8") -> List[Comparison]:
    """Run both on three sizes and two batches.

    Args:
        dtype: of the images.
    """
    comparisons = []
    for batch in _BATCHES:
        for size in _SIZES:
            inputs = example_inputs(network, batch, *size, dtype)
            with torch.inference_mode():
                expected = network(**inputs)
            padded = inputs["images"].shape[1:3]
            for name, ours, theirs in zip(network.output_names, expected, run(inputs)):
                scale = ours.abs().max().clamp(min=1e-6)
                difference = torch.full_like(ours, torch.inf)
                if ours.shape == theirs.shape:
                    difference = ((ours - theirs) / scale).abs().nan_to_num(torch.inf)
                largest, mean = float(difference.max()), float(difference.mean())
                comparisons.append(Comparison(batch, *padded, name, largest, mean))
    return comparisons
