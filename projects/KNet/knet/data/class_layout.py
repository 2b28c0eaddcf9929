"""The model's class order (things first, then stuff) and the data set's, one to the other.

Everything a user sees (data sets, outputs, pictures) is in the contiguous ids of the data set's
metadata. Only the model's own class rows are things-first.
"""

from typing import List, Sequence

import torch

from ..errors import UsageError

__all__ = ["ClassLayout"]


class ClassLayout:
    """Which contiguous ids are things and which stuff; model class = position in things + stuff."""

    def __init__(self, thing_ids: Sequence[int], stuff_ids: Sequence[int]):
        """
        Args:
            thing_ids, stuff_ids: contiguous ids of the data set's metadata, each rising.
        """
        self.thing_ids = tuple(int(i) for i in thing_ids)
        self.stuff_ids = tuple(int(i) for i in stuff_ids)
        ids = self.thing_ids + self.stuff_ids
        if len(set(ids)) != len(ids) or min(ids, default=0) < 0:
            raise UsageError(
                f"the contiguous ids {ids} of the data set's classes must be distinct and not "
                "negative: mend its thing_ and stuff_dataset_id_to_contiguous_id"
            )
        size = max(ids, default=-1) + 1
        self._to_model = torch.full((size + 1,), -1, dtype=torch.long)  # last: any unknown id
        self._to_model[list(ids)] = torch.arange(len(ids))

    @property
    def num_things(self) -> int:
        return len(self.thing_ids)

    @property
    def num_stuff(self) -> int:
        return len(self.stuff_ids)

    @property
    def ids(self) -> List[int]:
        """Contiguous id of each model class."""
        return list(self.thing_ids + self.stuff_ids)

    def to_model(self, ids: torch.Tensor) -> torch.Tensor:
        """Contiguous ids (any shape, integer) -> model classes, -1 for an id that is no class."""
        unknown = len(self._to_model) - 1
        known = (ids >= 0) & (ids < unknown)
        return self._to_model.to(ids.device)[torch.where(known, ids, unknown)]

    @classmethod
    def from_metadata(cls, metadata) -> "ClassLayout":
        """Read it from Detectron2 metadata (panoptic in the "standard" form, or instances).

        Raises:
            UsageError: of a data set without thing classes, or in the "separated" form, whose
                thing and stuff ids overlap.
        """
        name = metadata.get("name", "?")
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        if not things:
            raise UsageError(
                f"the data set '{name}' names no thing classes in its metadata "
                "(thing_dataset_id_to_contiguous_id): choose another in DATASETS.TRAIN/TEST"
            )
        stuff = metadata.get("stuff_dataset_id_to_contiguous_id", {})
        if list(metadata.get("stuff_classes", []))[:1] == ["things"]:
            raise UsageError(
                f"the data set '{name}' keeps things and stuff in separate id ranges: use "
                f"'{name.replace('_separated', '')}' in DATASETS.TRAIN/TEST"
            )
        thing_ids = sorted(set(things.values()))
        return cls(thing_ids, sorted(set(stuff.values()) - set(thing_ids)))
