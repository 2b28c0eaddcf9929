"""The data sets that a config names, read with every fault told: images with their ground truth.

What training refuses at its first fault is read here by the same functions, which go on.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...errors import DatasetError, Tell, UsageError
from ..datasets.coco_instances import instance_content, instance_metadata
from ..datasets.coco_panoptic import (
    panoptic_content,
    panoptic_dicts,
    panoptic_metadata,
    plain_categories,
)
from ..datasets.custom import custom_datasets
from ..datasets.semantic_folders import (
    IMAGE_ENDINGS,
    LABEL_ENDING,
    files_below,
    labels_without_image,
    load_semantic_folders,
)
from ..training_images import load_dicts
from .json_files import read_json_telling

__all__ = ["CheckedSet", "read_sets"]


@dataclass
class CheckedSet:
    """A data set, as far as it can be read.

    Attributes:
        name: for ``DATASETS.TRAIN`` and ``TEST``.
        splits: which of the two name it.
        dicts: Detectron2's, with contiguous ids; a panoptic set's may have ``annotations`` too.
        classes: {contiguous id: name}.
        things: the ids of things.
        label_maps: whether its truth is label maps alone.
        ignore_label: of their pixels without class.
        files: its jsons and folders.
    """

    name: str
    splits: Tuple[str, ...] = ()
    dicts: List[Dict] = field(default_factory=list)
    classes: Dict[int, str] = field(default_factory=dict)
    things: Tuple[int, ...] = ()
    label_maps: bool = False
    ignore_label: int = 255
    files: List[str] = field(default_factory=list)


def read_sets(cfg, tell_of) -> List[CheckedSet]:
    """The data sets of ``DATASETS.TRAIN`` and ``TEST``.

    Args:
        cfg: the config.
        tell_of: the name of a data set -> what is told of its faults.

    Raises:
        UsageError: ``DATASETS`` itself is not in order, or names no data set.
    """
    custom = {arguments["name"]: (kind, arguments) for kind, arguments in custom_datasets(cfg)}
    names = list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
    if not names:
        raise UsageError("DATASETS.TRAIN and DATASETS.TEST are (): name a data set to check")
    unknown = [n for n in names if n not in custom and n not in DatasetCatalog.list()]
    if unknown:
        raise UsageError(
            f"DATASETS.TRAIN or TEST names '{unknown[0]}', which is not registered: describe it in "
            "DATASETS.CUSTOM, or correct the name"
        )
    sets = []
    for name in names:
        made = CheckedSet(name, tuple(k for k in ("TRAIN", "TEST") if name in cfg.DATASETS[k]))
        try:
            if name in custom:
                kind, arguments = custom[name]
                _READERS[kind.name](made, {**arguments, "metadata": None}, tell_of(name))
            else:
                _read_registered(made, tell_of(name))
        except (DatasetError, UsageError) as error:
            tell_of(name)("data set", str(error))
        except Exception as error:  # whatever one holds, the others are checked
            tell_of(name)("data set", f"'{name}' cannot be read: {error!r}")
        sets.append(made)
    return sets


def _read_registered(made: CheckedSet, tell: Tell) -> None:
    """By its json, where the metadata name one; else what its loader gives."""
    metadata = MetadataCatalog.get(made.name)
    if metadata.get("prepare") is not None:  # a data set that the project writes itself
        metadata.prepare()
    arguments = {
        "image_root": metadata.get("image_root"),
        "panoptic_root": metadata.get("panoptic_root"),
        "panoptic_json": metadata.get("panoptic_json"),
        "instances_json": metadata.get("json_file"),
        "metadata": metadata.as_dict(),
    }
    kind = metadata.get("evaluator_type")
    if kind == "coco_panoptic_seg" and _has(arguments, "panoptic_json", "panoptic_root"):
        return _read_panoptic(made, arguments, tell)
    if kind == "coco" and _has(arguments, "instances_json"):
        return _read_instances(made, arguments, tell)
    made.dicts = load_dicts(made.name)
    # Cityscapes' have no such root, and names of things too
    made.label_maps = metadata.get("sem_seg_root") is not None or _are_label_maps(made.dicts)
    made.ignore_label = metadata.get("ignore_label", 255)
    names = metadata.get("stuff_classes" if made.label_maps else "thing_classes")
    made.classes = dict(enumerate(names or ()))
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    stuff = metadata.get("stuff_dataset_id_to_contiguous_id")
    if not made.label_maps:
        made.things = tuple(things.values()) if things and stuff else tuple(made.classes)


def _are_label_maps(dicts: List[Dict]) -> bool:
    others = ("annotations", "segments_info")
    return all("sem_seg_file_name" in d and not any(d.get(key) for key in others) for d in dicts)


def _has(arguments: Dict, *keys: str) -> bool:
    return all(arguments[key] for key in ("image_root", *keys))


# ---------------------------------------------------------------------------------------- panoptic


def _read_panoptic(made: CheckedSet, arguments: Dict, tell: Tell) -> None:
    path, image_root = arguments["panoptic_json"], arguments["image_root"]
    made.files += [path, image_root]
    content = read_json_telling(path, "panoptic json", tell)
    if content is None:
        return
    _tell_of_segments_isthing(content, path, tell)
    content = panoptic_content(content, path, tell)
    metadata = arguments["metadata"] or panoptic_metadata(_of_distinct_names(content["categories"]))
    _take_panoptic_classes(made, content["categories"], metadata, path, tell)
    if content["annotations"] and not arguments["panoptic_root"]:
        tell("data set", f"'{made.name}' lacks PANOPTIC_ROOT, the folder of its PNGs")
        return
    if content["annotations"]:
        made.files.append(arguments["panoptic_root"])
    made.dicts = panoptic_dicts(
        content, path, image_root, arguments["panoptic_root"], metadata, tell
    )
    annotated = {d["image_id"] for d in made.dicts}
    for image in content["images"]:
        if image["id"] not in annotated:
            if content["annotations"]:
                tell("image without annotation", f"{image['file_name']} in {path}")
            else:
                file_name = os.path.join(image_root, image["file_name"])
                made.dicts.append({**image, "file_name": file_name, "image_id": image["id"]})
    _add_instances(made, arguments, metadata, tell)


def _take_panoptic_classes(
    made: CheckedSet, categories: List[Dict], metadata: Dict, path: str, tell: Tell
) -> None:
    """Classes and things; told where json and metadata contradict each other."""
    things = metadata["thing_dataset_id_to_contiguous_id"]
    contiguous = {**metadata["stuff_dataset_id_to_contiguous_id"], **things}
    names = metadata["stuff_classes"]
    made.classes = {i: names[i] for i in sorted(contiguous.values()) if i < len(names)}
    made.things = tuple(things.values())
    for category in categories:
        is_thing = category["id"] in things
        if category["id"] in contiguous and is_thing != bool(category["isthing"]):
            tell(
                "isthing",
                f"{path} has isthing {category['isthing']} for {category['name']!r}, the metadata "
                f"of '{made.name}' have it as {'a thing' if is_thing else 'stuff'}",
            )


def _tell_of_segments_isthing(content: Dict, path: str, tell: Tell) -> None:
    """Segments that tell it themselves, which is not read."""
    kinds = {
        str(c.get("id")): str(c.get("isthing"))
        for c in content["categories"]
        if isinstance(c, dict)
    }
    for annotation in content.get("annotations") or []:
        segments = annotation.get("segments_info") if isinstance(annotation, dict) else None
        for segment in segments if isinstance(segments, list) else ():
            if not isinstance(segment, dict) or "isthing" not in segment:
                continue
            own, of_class = segment["isthing"], kinds.get(str(segment.get("category_id")))
            if of_class is not None and str(int(own == 1)) != of_class:
                tell(
                    "isthing",
                    f"a segment of {annotation.get('file_name')} in {path} has isthing {own!r}, "
                    f"its category {segment.get('category_id')} has {of_class}",
                )


def _add_instances(made: CheckedSet, arguments: Dict, metadata: Dict, tell: Tell) -> None:
    """The objects of the instance json that mask AP of a panoptic set is measured with."""
    path = arguments.get("instances_json")
    if not path or not PathManager.isfile(path):  # it can do without
        return
    made.files.append(path)
    content = read_json_telling(path, "instance json", tell)
    if content is None:
        return
    instance_content(content, path, tell)
    objects = _objects_by_image(content, metadata["thing_dataset_id_to_contiguous_id"])
    for d in made.dicts:
        d["annotations"] = objects[d["image_id"]]


# --------------------------------------------------------------------------------------- instances


def _read_instances(made: CheckedSet, arguments: Dict, tell: Tell) -> None:
    path, image_root = arguments["instances_json"], arguments["image_root"]
    made.files += [path, image_root]
    content = read_json_telling(path, "instance json", tell)
    if content is None:
        return
    annotated = "annotations" in content
    instance_content(content, path, tell)
    categories = [{k: v for k, v in c.items() if k != "isthing"} for c in content["categories"]]
    categories = plain_categories(categories, path, tell)
    metadata = _sorted_metadata(categories, arguments["metadata"])
    contiguous = metadata["thing_dataset_id_to_contiguous_id"]
    made.classes = {i: metadata["thing_classes"][i] for i in contiguous.values()}
    made.things = tuple(made.classes)
    objects = _objects_by_image(content, contiguous)
    known = {image["id"] for image in content["images"]}
    for image_id in sorted(objects.keys() - known, key=str):
        tell("unknown image", f"{path} has an annotation of image {image_id!r}")
    for image in content["images"]:
        d = {"file_name": os.path.join(image_root, image["file_name"]), "image_id": image["id"]}
        d.update({key: image[key] for key in ("height", "width") if key in image})
        if annotated:
            d["annotations"] = objects[image["id"]]
        made.dicts.append(d)


def _sorted_metadata(categories: List[Dict], metadata: Optional[Dict]) -> Dict:
    """The metadata where they name the classes, else those of the categories."""
    if metadata and metadata.get("thing_dataset_id_to_contiguous_id"):
        return metadata
    numbered = [c for c in categories if type(c["id"]) is int]  # to be sorted
    return instance_metadata(_of_distinct_names(numbered))


def _of_distinct_names(categories: List[Dict]) -> List[Dict]:
    """What has one name twice has been told."""
    names = [c["name"] for c in categories]
    return [
        c if names.count(c["name"]) == 1 else {**c, "name": f"{c['name']} ({c['id']})"}
        for c in categories
    ]


def _objects_by_image(content: Dict, contiguous: Dict) -> Dict:
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["category_id"] in contiguous:
            category_id = contiguous[annotation["category_id"]]
            objects[annotation["image_id"]].append({**annotation, "category_id": category_id})
    return objects


# -------------------------------------------------------------------------------------- label maps


def _read_label_folders(made: CheckedSet, arguments: Dict, tell: Tell) -> None:
    image_root, label_root = arguments["image_root"], arguments["label_root"]
    made.files += [path for path in (image_root, label_root) if path]
    made.label_maps, made.ignore_label = True, arguments.get("ignore_label", 255)
    made.classes = dict(enumerate(arguments["classes"]))
    if label_root is not None and image_root != label_root:
        others = tuple(e for e in IMAGE_ENDINGS if e != LABEL_ENDING)
        for _, path in files_below(label_root, others):
            tell("label format", f"{path} is no PNG")
    made.dicts = load_semantic_folders(image_root, label_root, tell)
    if label_root is not None:
        for path in labels_without_image(image_root, label_root):
            tell("label without image", path)


_READERS = {
    "panoptic": _read_panoptic,
    "instance": _read_instances,
    "semantic": _read_label_folders,
}
