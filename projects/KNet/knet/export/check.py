"""An exported file beside its model: do both say the same, at any size?"""

from dataclasses import dataclass
from typing import List, Sequence

import torch

from .formats import Run
from .network import OF_KERNELS, Network, example_inputs

__all__ = ["Comparison", "compare", "is_rounding"]

_SIZES = ((96, 128), (135, 203), (256, 160))
_BATCHES = (1, 3)
# Relative to the largest value of an output
_MOST, _MEAN, _ROUNDING = 1e-2, 1e-5, 1e-3
# Rounding may put a pixel into another mask, which then changes all that this kernel becomes:
# rarely, but by more than rounding
_OF_A_PIXEL = 0.1


@dataclass(frozen=True)
class Comparison:
    """One output for one batch of images; differences are relative to its largest value."""

    batch: int
    height: int  # of the padded images
    width: int
    output: str
    largest: float
    mean: float
    rows: int = 0  # kernels or classes of the batch in which more than rounding differs

    @property
    def is_equal(self) -> bool:
        return self.largest <= _MOST and self.mean <= _MEAN


def is_rounding(comparisons: Sequence[Comparison]) -> bool:
    """Does no more differ than rounding explains: at most one kernel, of one batch of images?

    Semantic models share pixels softly, so that none of theirs may.
    """
    different = [c for c in comparisons if not c.is_equal]
    batches = {(c.batch, c.height, c.width) for c in different}
    return len(batches) < 2 and all(
        c.output in OF_KERNELS and c.rows < 2 and c.largest <= _OF_A_PIXEL for c in different
    )


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
                rows = int((difference.flatten(2).amax(2) > _ROUNDING).sum())
                comparisons.append(Comparison(batch, *padded, name, largest, mean, rows))
    return comparisons
