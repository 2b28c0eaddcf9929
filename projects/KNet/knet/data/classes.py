"""The classes of a model: what a result's class id means, wherever the model is loaded."""

from dataclasses import asdict, dataclass, fields
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from detectron2.data.catalog import Metadata

from ..errors import UsageError
from .colors import fixed_color, metadata_colors, read_colors

__all__ = [
    "ModelClass",
    "classes_metadata",
    "classes_of_config",
    "classes_of_metadata",
    "plain_classes",
    "read_classes",
]


@dataclass(frozen=True)
class ModelClass:
    """A class of a model.

    Attributes:
        id: contiguous id, that of results, of Detectron2's metadata and evaluators.
        dataset_id: the id in the data set's own files: COCO's category id, a label map's value.
        name: for people.
        isthing: whether its objects are counted one by one.
        color: RGB, 0..255, None if the data set has none.
    """

    id: int
    dataset_id: int
    name: str
    isthing: bool
    color: Optional[Tuple[int, int, int]] = None


def plain_classes(classes: Iterable[ModelClass]) -> List[Dict]:
    """Classes as dicts of numbers, strings and lists: for json, yaml and files of weights."""
    return [
        {**asdict(each), "color": None if each.color is None else list(each.color)}
        for each in classes
    ]


def read_classes(entries: Sequence[Dict], where: str) -> Tuple[ModelClass, ...]:
    """The reverse of :func:`plain_classes`.

    Args:
        entries: one a class; ``dataset_id`` may be left out (it is the id then), ``color`` too.
        where: what holds them, for the sentence.

    Raises:
        UsageError: an entry is not of this form, or two share an id.
    """
    known = {field.name for field in fields(ModelClass)}
    classes = []
    for entry in entries:
        if not (isinstance(entry, dict) and {"id", "name", "isthing"} <= entry.keys() <= known):
            raise UsageError(
                f"{where} has the entry {entry!r}: each is {{id, name, isthing}}, and perhaps "
                "dataset_id and color"
            )
        try:
            (color,) = read_colors([entry.get("color")], lambda _: "its color")
            classes.append(
                ModelClass(
                    int(entry["id"]),
                    int(entry.get("dataset_id", entry["id"])),
                    str(entry["name"]),
                    bool(entry["isthing"]),
                    color,
                )
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where} has the entry {entry!r}: {error}") from error
    ids = [each.id for each in classes]
    if len(set(ids)) != len(ids) or min(ids, default=0) < 0:
        raise UsageError(f"{where} has the ids {ids}: they must be distinct and not negative")
    return tuple(sorted(classes, key=lambda each: each.id))


def classes_of_config(cfg) -> Tuple[ModelClass, ...]:
    """The classes that ``MODEL.KNET.CLASSES`` lists; () where it leaves them to the data sets."""
    return read_classes(cfg.MODEL.KNET.CLASSES, "MODEL.KNET.CLASSES")


def classes_of_metadata(
    metadata, ids: Sequence[int], things_alone: bool = False
) -> Tuple[ModelClass, ...]:
    """What a data set's metadata tell of these classes.

    Args:
        metadata: Detectron2's; where they lack a name or an id in files it is the contiguous id.
        ids: contiguous ids.
        things_alone: what classes are that the metadata number nowhere: all things, or all stuff.
    """
    things, stuff = (
        metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {} for kind in ("thing", "stuff")
    )
    # several category ids may share a contiguous id: the lowest is that of the class
    dataset_ids = {
        i: dataset_id for dataset_id, i in sorted({**stuff, **things}.items(), reverse=True)
    }
    unnumbered = set(ids) if things_alone else set()
    is_thing = set(things.values()) if things or stuff else unnumbered
    colors = {kind: metadata_colors(metadata, f"{kind}_colors") for kind in ("thing", "stuff")}
    classes = []
    for i in sorted(ids):
        kind = "thing" if i in is_thing else "stuff"
        name = (metadata.get(f"{kind}_classes") or [])[i : i + 1]
        classes.append(
            ModelClass(
                i,
                int(dataset_ids.get(i, i)),
                str(name[0]) if name else str(i),
                i in is_thing,
                colors[kind][i] if i < len(colors[kind]) else None,
            )
        )
    return tuple(classes)


def classes_metadata(classes: Sequence[ModelClass], name: str = "") -> Metadata:
    """Detectron2 metadata of these classes, in the "standard" form of its panoptic data sets.

    Both lists of names hold all classes by their contiguous id, so that ``Visualizer`` finds the
    name of any result. It is registered nowhere.
    """
    by_id = {each.id: each for each in classes}
    ids = range(max(by_id, default=-1) + 1)
    names = [by_id[i].name if i in by_id else str(i) for i in ids]
    colors = [
        list(by_id[i].color if i in by_id and by_id[i].color else fixed_color(i)) for i in ids
    ]
    things = [each for each in classes if each.isthing]
    stuff = [each for each in classes if not each.isthing]
    return Metadata(
        name=name,
        thing_classes=names,
        stuff_classes=names,
        thing_colors=colors,
        stuff_colors=colors,
        thing_dataset_id_to_contiguous_id={each.dataset_id: each.id for each in things},
        stuff_dataset_id_to_contiguous_id={each.dataset_id: each.id for each in stuff},
    )
