"""The model's class order (things first, then stuff) and the data set's, one to the other.

Everything a user sees (data sets, outputs, pictures) is in the contiguous ids of the data set's
metadata. Only the model's own class rows are things-first. A semantic model has one row per
contiguous id, in their order.
"""

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from ..errors import UsageError
from .classes import ModelClass, classes_of_config, classes_of_metadata
from .datasets.custom import register_custom_datasets
from .ground_truth import is_annotated
from .training_images import load_dicts

__all__ = [
    "ClassLayout",
    "SemanticClasses",
    "resolve_class_layout",
    "resolve_model_classes",
    "resolve_semantic_classes",
    "takes_classes_of_model",
]

IGNORE_LABEL = 255  # of a pixel without class, in Detectron2's label maps

THING_IDS, STUFF_IDS = "thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"
_CLASS_KEYS = (THING_IDS, STUFF_IDS, "thing_classes", "stuff_classes")


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
        """Read it from Detectron2 metadata: panoptic in the "standard" form, or instances.

        Instance metadata need not map ids: ``thing_classes`` alone numbers them from 0.

        Raises:
            UsageError: of a data set without thing classes, or in the "separated" form, whose
                thing and stuff ids overlap.
        """
        name = metadata.get("name", "?")
        things, stuff = metadata.get(THING_IDS), metadata.get(STUFF_IDS)
        if things is None and stuff is None:  # numbered by their position
            things = {i: i for i in range(len(metadata.get("thing_classes", ())))}
        if not things:
            raise UsageError(
                f"the data set '{name}' names no thing classes in its metadata "
                f"({THING_IDS} or thing_classes): choose a panoptic or an instance data set in "
                "DATASETS.TRAIN/TEST"
            )
        if stuff is not None and list(metadata.get("stuff_classes", []))[:1] == ["things"]:
            raise UsageError(
                f"the data set '{name}' keeps things and stuff in separate id ranges: use "
                f"'{name.replace('_separated', '')}' in DATASETS.TRAIN/TEST"
            )
        thing_ids = sorted(set(things.values()))
        return cls(thing_ids, sorted(set((stuff or {}).values()) - set(thing_ids)))


@dataclass(frozen=True)
class SemanticClasses:
    """The classes of a semantic model: class i of the model is contiguous id i."""

    num_classes: int
    ignore_label: int  # of pixels without class, in the label maps
    names: Tuple[str, ...]


def resolve_class_layout(cfg) -> ClassLayout:
    """The classes of the model: from the data sets' metadata, checked against the config's counts.

    ``MODEL.KNET.CLASSES``, where it is not empty, else the first data set decides. An instance
    data set makes a model without stuff, and so does
    ``MODEL.KNET.NUM_STUFF_CLASSES`` 0 on a panoptic one; such a model may train on the one kind
    and be tested on the other, as long as the thing classes are the same. A config that names no
    registered data set must give both counts; things are then 0.., stuff follows.

    Raises:
        UsageError: counts that contradict the metadata, data sets whose classes differ, or
            neither counts nor data set.
        DatasetError: a data set that has to be loaded to tell its classes cannot be.
    """
    names = _registered_datasets(cfg)
    knet = cfg.MODEL.KNET
    listed = classes_of_config(cfg)
    if not names and not listed:
        if knet.NUM_THING_CLASSES < 1 or knet.NUM_STUFF_CLASSES < 0:
            raise UsageError(
                "no registered data set says how many classes there are: name one in "
                "DATASETS.TRAIN or DATASETS.TEST, or set MODEL.KNET.NUM_THING_CLASSES and "
                "MODEL.KNET.NUM_STUFF_CLASSES"
            )
        total = knet.NUM_THING_CLASSES + knet.NUM_STUFF_CLASSES
        return ClassLayout(range(knet.NUM_THING_CLASSES), range(knet.NUM_THING_CLASSES, total))
    if listed:
        layout = ClassLayout(
            [each.id for each in listed if each.isthing],
            [each.id for each in listed if not each.isthing],
        )
        origin = "MODEL.KNET.CLASSES"
    else:
        layout = ClassLayout.from_metadata(_loaded_metadata(names[0]))
        origin = f"the data set '{names[0]}'"
    if knet.NUM_STUFF_CLASSES == 0:
        layout = ClassLayout(layout.thing_ids, ())
    if layout.num_stuff and IGNORE_LABEL in layout.ids:
        raise UsageError(
            f"{origin} has more than {IGNORE_LABEL} classes, and {IGNORE_LABEL} "
            "marks pixels without class: choose a data set of fewer in DATASETS.TRAIN/TEST"
        )
    if listed:
        for name in names:
            _check_listed(listed, layout, name)
    for other in names[1:]:
        _check_same_classes(names[0], other, layout, other in cfg.DATASETS.TRAIN)
    for key, count in (
        ("NUM_THING_CLASSES", layout.num_things),
        ("NUM_STUFF_CLASSES", layout.num_stuff),
    ):
        if knet[key] not in (-1, count):
            raise UsageError(
                f"MODEL.KNET.{key} is {knet[key]}, but {origin} has {count}: "
                f"set it to {count}, or to -1 to take it from there"
            )
    return layout


def resolve_semantic_classes(cfg) -> SemanticClasses:
    """The classes of a semantic model, from the metadata of its semantic or panoptic data sets.

    ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` is -1 (take it from the data) or must agree;
    ``MODEL.SEM_SEG_HEAD.IGNORE_VALUE`` must be the data's label of pixels without class. Without
    a registered data set the count must be given.

    Raises:
        UsageError: keys that contradict the metadata, data sets whose classes differ, or that
            are neither semantic nor panoptic.
    """
    names = _registered_datasets(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD
    listed = classes_of_config(cfg)
    origin = "MODEL.KNET.CLASSES" if listed else f"the data set '{(*names, '')[0]}'"
    if listed:
        classes = _listed_names(listed)
        for name in names:
            if _semantic_names(name) != classes:
                raise UsageError(_unlike_listed(name))
    elif names:
        classes = _semantic_names(names[0])
    elif head.NUM_CLASSES > 0:
        classes = tuple(str(i) for i in range(head.NUM_CLASSES))
    else:
        raise UsageError(
            "no registered data set says how many classes there are: name one in DATASETS.TRAIN "
            "or DATASETS.TEST, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES"
        )
    for other in names[1:]:
        if _semantic_names(other) != classes:
            raise UsageError(_different_classes(names[0], other))
    if head.NUM_CLASSES not in (-1, len(classes)):
        raise UsageError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but {origin} has "
            f"{len(classes)}: set it to {len(classes)}, or to -1 to take it from there"
        )
    for name in names:
        ignore_label = MetadataCatalog.get(name).get("ignore_label")
        if ignore_label not in (None, head.IGNORE_VALUE):
            raise UsageError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, but the data set "
                f"'{name}' marks pixels without class by {ignore_label} (ignore_label): set it to "
                f"{ignore_label}"
            )
    if 0 <= head.IGNORE_VALUE < len(classes):
        raise UsageError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE {head.IGNORE_VALUE} is also a class, of "
            f"{len(classes)}: set it, and the ignore_label of the data set, to another number"
        )
    return SemanticClasses(len(classes), head.IGNORE_VALUE, classes)


def resolve_model_classes(cfg) -> Tuple[ModelClass, ...]:
    """Ids, names, kinds and colours of the classes of any model that the project builds.

    Raises:
        UsageError, DatasetError: see :func:`resolve_class_layout` and
            :func:`resolve_semantic_classes`.
    """
    architecture, names = cfg.MODEL.META_ARCHITECTURE, _registered_datasets(cfg)
    metadata = _loaded_metadata(names[0]) if names else Metadata()
    if architecture == "KNet":
        layout = resolve_class_layout(cfg)
        listed = [each for each in classes_of_config(cfg) if each.id in layout.ids]
        if listed or names:
            return tuple(listed) or classes_of_metadata(metadata, layout.ids, things_alone=True)
        return tuple(ModelClass(i, i, str(i), i in layout.thing_ids) for i in layout.ids)
    listed = classes_of_config(cfg)
    if listed:
        return listed
    if architecture in ("SemanticKNet", "SemanticSegmentor"):
        num_classes = resolve_semantic_classes(cfg).num_classes
        return classes_of_metadata(metadata, range(num_classes))
    num_things = len(metadata.get("thing_classes", ()))
    if architecture == "GeneralizedRCNN":
        num_things = cfg.MODEL.ROI_HEADS.NUM_CLASSES  # whatever the data sets name
    return classes_of_metadata(metadata, range(num_things), things_alone=True)


def _registered_datasets(cfg) -> List[str]:
    """The registered of DATASETS.TRAIN and TEST, those of DATASETS.CUSTOM included.

    Without the images to predict on that know of no classes.
    """
    register_custom_datasets(cfg)
    registered = set(DatasetCatalog.list())
    train = [n for n in cfg.DATASETS.TRAIN if n in registered]
    test = [n for n in cfg.DATASETS.TEST if n in registered]
    return train + [n for n in test if n in train or not takes_classes_of_model(n)]


def takes_classes_of_model(name: str) -> bool:
    """Is a data set images alone, without ground truth and without classes?

    It can be predicted on; the classes are those of the model.
    """
    if name not in DatasetCatalog.list():
        return False
    names_classes = any(_loaded_metadata(name).get(key) is not None for key in _CLASS_KEYS)
    return not names_classes and not any(map(is_annotated, load_dicts(name)))


def _loaded_metadata(name: str):
    """The metadata of a data set; it is loaded where only its loader enters the classes there.

    So does Detectron2's ``register_coco_instances``. COCO's own are known without loading.
    """
    metadata = MetadataCatalog.get(name)
    known = any(metadata.get(key) is not None for key in (THING_IDS, STUFF_IDS, "thing_classes"))
    of_json = metadata.get("json_file") is not None or metadata.get("evaluator_type") == "coco"
    if of_json and not known:
        load_dicts(name)
    return metadata


def _check_listed(listed: Sequence[ModelClass], layout: ClassLayout, name: str) -> None:
    """Has the data set, by the same contiguous ids, the classes that the config lists?

    Raises:
        UsageError: it has not.
    """
    metadata = _loaded_metadata(name)
    theirs = ClassLayout.from_metadata(metadata)
    used = [each for each in listed if each.id in layout.ids]
    for ids, is_thing in ((theirs.thing_ids, True), (theirs.stuff_ids, False)):
        ours = {each.id: each.name for each in used if each.isthing is is_thing}
        in_data = classes_of_metadata(metadata, ids, things_alone=True)
        if ids and ours and ours != {each.id: each.name for each in in_data}:
            raise UsageError(_unlike_listed(name))


def _listed_names(listed: Sequence[ModelClass]) -> Tuple[str, ...]:
    """The names by contiguous id, of a semantic model.

    Raises:
        UsageError: the ids are not 0, 1, ...
    """
    ids = [each.id for each in listed]
    if ids != list(range(len(ids))):
        raise UsageError(
            f"MODEL.KNET.CLASSES has the ids {ids}: those of a semantic model are 0, 1, ..."
        )
    return tuple(each.name for each in listed)


def _unlike_listed(name: str) -> str:
    return (
        f"the data set '{name}' has other classes than MODEL.KNET.CLASSES lists, or other ids: "
        "choose another in DATASETS.TRAIN/TEST, or set MODEL.KNET.CLASSES []"
    )


def _check_same_classes(first: str, other: str, layout: ClassLayout, in_train: bool) -> None:
    """Does ``other`` have the classes of ``first``, as far as the model uses them?

    A data set without stuff may test the things of a model with stuff, but not train it.

    Raises:
        UsageError: it does not.
    """
    metadata = [_loaded_metadata(name) for name in (first, other)]
    theirs = ClassLayout.from_metadata(metadata[1])
    kinds = [("thing_classes", layout.thing_ids, theirs.thing_ids)]
    if layout.num_stuff and not theirs.num_stuff and in_train:
        raise UsageError(
            f"the data set '{other}' in DATASETS.TRAIN has no stuff classes, '{first}' has "
            f"{layout.num_stuff}: leave one of them out, or set MODEL.KNET.NUM_STUFF_CLASSES 0 "
            "for a model of things alone"
        )
    if layout.num_stuff and theirs.num_stuff:
        kinds.append(("stuff_classes", layout.stuff_ids, theirs.stuff_ids))
    for key, our_ids, their_ids in kinds:
        names = [
            [m.get(key, ())[i : i + 1] for i in ids]
            for m, ids in zip(metadata, (our_ids, their_ids))
        ]
        if [list(n) for n in names[0]] != [list(n) for n in names[1]]:
            raise UsageError(_different_classes(first, other))
        if our_ids != their_ids:
            raise UsageError(
                f"the data sets '{first}' and '{other}' number the same classes differently "
                f"({our_ids} and {their_ids}): choose sets of DATASETS.TRAIN and DATASETS.TEST "
                "that share their contiguous ids"
            )


def _different_classes(first: str, other: str) -> str:
    return (
        f"the data sets '{first}' and '{other}' have different classes: DATASETS.TRAIN and "
        "DATASETS.TEST must name data sets of the same classes"
    )


def _semantic_names(name: str) -> Tuple[str, ...]:
    """The class names of a semantic or a panoptic data set, by their contiguous id.

    Raises:
        UsageError: it is of another kind, or its contiguous ids are not 0, 1, ...
    """
    metadata = MetadataCatalog.get(name)
    things, stuff = metadata.get(THING_IDS), metadata.get(STUFF_IDS)
    names = tuple(metadata.get("stuff_classes", ()))
    if things is None or stuff is None or metadata.get("sem_seg_root") is not None:
        if not names:
            raise UsageError(
                f"the data set '{name}' names no classes for every pixel in its metadata "
                "(stuff_classes): choose a semantic or a panoptic data set in DATASETS.TRAIN/TEST"
            )
        return names
    ids = sorted({*things.values(), *stuff.values()})
    if ids != list(range(len(names))):
        raise UsageError(
            f"the data set '{name}' has the contiguous ids {ids} for {len(names)} stuff_classes: "
            "a semantic model needs a panoptic data set in the standard form, whose things and "
            "stuff share the ids 0, 1, ..."
        )
    return names
