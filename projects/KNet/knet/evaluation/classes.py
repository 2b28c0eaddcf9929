"""The classes that an evaluator compares: their ids in files, in dicts, and their names."""

from typing import Dict, List

from ..data.classes import ModelClass

__all__ = ["pixel_classes", "thing_classes", "thing_ids"]


def thing_classes(metadata) -> List[ModelClass]:
    """The thing classes of a data set by rising category id, the order of COCO's tool."""
    names, things = metadata.get("thing_classes", []), {}
    for dataset_id, i in sorted(thing_ids(metadata).items()):
        things.setdefault(i, ModelClass(i, dataset_id, _name(names, i), True))
    return list(things.values())


def thing_ids(metadata) -> Dict[int, int]:
    """{category id: contiguous id} of things; the two are the same where metadata do not tell.

    Several category ids may share a contiguous id: the lowest one is that of the class.
    """
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    if ids is None:
        return {i: i for i in range(len(metadata.get("thing_classes", [])))}
    return ids


def pixel_classes(metadata, is_panoptic: bool) -> List[ModelClass]:
    """The classes that a pixel can have, by rising contiguous id.

    Args:
        metadata: of a panoptic data set (things and stuff), or of a semantic one, whose
            ``stuff_classes`` are numbered from 0.
        is_panoptic: which of the two.
    """
    stuff = metadata.get("stuff_dataset_id_to_contiguous_id") or {}
    stuff_names = metadata.get("stuff_classes", [])
    if not is_panoptic:
        dataset_ids = {i: k for k, i in stuff.items()}
        if not set(range(len(stuff_names))) <= dataset_ids.keys():
            dataset_ids = {i: i for i in range(len(stuff_names))}
        return [ModelClass(i, dataset_ids[i], name, False) for i, name in enumerate(stuff_names)]
    classes = {c.id: c for c in thing_classes(metadata)}
    for dataset_id, i in sorted(stuff.items()):
        classes.setdefault(i, ModelClass(i, dataset_id, _name(stuff_names, i), False))
    return [classes[i] for i in sorted(classes)]


def _name(names: List[str], contiguous_id: int) -> str:
    """From a list by contiguous id; the number where the list has no name for it."""
    return names[contiguous_id] if contiguous_id < len(names) else str(contiguous_id)
