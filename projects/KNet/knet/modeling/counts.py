"""What losses are divided by, as far as it is known before anything is predicted."""

from dataclasses import dataclass, fields
from typing import Sequence

import torch

from .structures import Targets

__all__ = ["Counts"]


@dataclass
class Counts:
    """Scalars of a batch, or their mean over several."""

    matched: torch.Tensor  # objects that find a kernel, and stuff that is there
    present: torch.Tensor  # objects, and stuff that is there
    middles: torch.Tensor  # objects with a share in some cell

    @classmethod
    def of(cls, targets: Targets, num_kernels: int) -> "Counts":
        """
        Args:
            num_kernels: instance kernels, at most so many objects of an image find one.
        """
        stuff = targets.stuff_present.sum()
        return cls(
            matched=stuff + sum(min(count, num_kernels) for count in targets.num_things),
            present=stuff + sum(targets.num_things),
            middles=(targets.thing_masks.sum((2, 3)) > 0).sum(),
        )

    @classmethod
    def mean(cls, counts: Sequence["Counts"]) -> "Counts":
        """Of each scalar, float32."""
        names = [field.name for field in fields(cls)]
        columns = [torch.stack([getattr(each, name) for each in counts]) for name in names]
        return cls(*(column.float().mean() for column in columns))
