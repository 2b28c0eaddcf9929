"""The model's class order (things first, then stuff) and the data set's, one to the other.

Everything a user sees (data sets, outputs, pictures) is in the contiguous ids of the data set's
metadata. Only the model's own class rows are things-first.
"""

from typing import List, Sequence

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import UsageError
from .custom import register_custom_datasets

__all__ = ["ClassLayout", "resolve_class_layout"]

IGNORE_LABEL = 255  # of a pixel without class, in Detectron2's label maps


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


def resolve_class_layout(cfg) -> ClassLayout:
    """The classes of the model: from the data sets' metadata, checked against the config's counts.

    A config that names no registered data set must give both counts; things are then 0.., stuff
    follows. ``MODEL.KNET.NUM_STUFF_CLASSES`` 0 on a panoptic data set makes an instance model.

    Raises:
        UsageError: counts that contradict the metadata, data sets whose classes differ, or
            neither counts nor data set.
    """
    register_custom_datasets(cfg)
    knet = cfg.MODEL.KNET
    names = [n for n in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if n in DatasetCatalog.list()]
    if not names:
        if knet.NUM_THING_CLASSES < 1 or knet.NUM_STUFF_CLASSES < 0:
            raise UsageError(
                "no registered data set says how many classes there are: name one in "
                "DATASETS.TRAIN or DATASETS.TEST, or set MODEL.KNET.NUM_THING_CLASSES and "
                "MODEL.KNET.NUM_STUFF_CLASSES"
            )
        total = knet.NUM_THING_CLASSES + knet.NUM_STUFF_CLASSES
        return ClassLayout(range(knet.NUM_THING_CLASSES), range(knet.NUM_THING_CLASSES, total))
    layout = ClassLayout.from_metadata(MetadataCatalog.get(names[0]))
    if IGNORE_LABEL in layout.ids:
        raise UsageError(
            f"the data set '{names[0]}' has more than {IGNORE_LABEL} classes, and {IGNORE_LABEL} "
            "marks pixels without class: choose a data set of fewer in DATASETS.TRAIN/TEST"
        )
    for other in names[1:]:
        if _classes(other) != _classes(names[0]):
            raise UsageError(
                f"the data sets '{names[0]}' and '{other}' have different classes: DATASETS.TRAIN "
                "and DATASETS.TEST must name data sets of the same classes"
            )
    if knet.NUM_STUFF_CLASSES == 0 and layout.num_stuff:
        layout = ClassLayout(layout.thing_ids, ())
    for key, count in (
        ("NUM_THING_CLASSES", layout.num_things),
        ("NUM_STUFF_CLASSES", layout.num_stuff),
    ):
        if knet[key] not in (-1, count):
            raise UsageError(
                f"MODEL.KNET.{key} is {knet[key]}, but the data set '{names[0]}' has {count}: "
                f"set it to {count}, or to -1 to take it from the data set"
            )
    return layout


def _classes(name: str) -> List:
    """(contiguous id, is it a thing, name) of each class, in the model's order."""
    metadata = MetadataCatalog.get(name)
    layout = ClassLayout.from_metadata(metadata)
    things, stuff = metadata.get("thing_classes", ()), metadata.get("stuff_classes", ())
    return [(i, True, things[i : i + 1]) for i in layout.thing_ids] + [
        (i, False, stuff[i : i + 1]) for i in layout.stuff_ids
    ]
