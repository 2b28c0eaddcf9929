"""Data sets in COCO's instance format: classes from the json, loading, registering."""

from typing import Dict, List

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.utils.file_io import PathManager

from ...errors import DatasetError
from .coco_panoptic import check_entries, class_color, plain_categories, read_json
from .plain_instances import plain_instances_json

__all__ = [
    "instance_metadata",
    "load_coco_instances",
    "read_instances_json",
    "register_coco_instances",
]

# what every entry of a COCO instance json has; the last is the key that tells it from the others
_KEYS = {
    "categories": ("name", "id"),
    "images": ("file_name", "height", "width", "id"),
    "annotations": ("image_id", "category_id", "id"),
}


def read_instances_json(instances_json: str) -> Dict:
    """Read a COCO instance json; only images, annotations and categories are needed.

    That of a test set, without annotations, gets an empty list.

    Raises:
        DatasetError: it is missing, no json, lacks images or categories, contradicts itself, or has
            a mask that cannot be drawn.
    """
    what = "instance json"
    content = read_json(instances_json, what, ("images", "categories"))
    content["annotations"] = content.get("annotations") or []
    if any("segments_info" in a for a in content["annotations"][:1]):
        raise DatasetError(
            f"the {what} {instances_json} is a panoptic json: give it as PANOPTIC_JSON, with the "
            "PANOPTIC_ROOT of its PNGs"
        )
    for key, keys in _KEYS.items():
        check_entries(content[key], keys, f"'{key}' of {instances_json}")
    plain_instances_json(instances_json, content)
    for key in ("images", "categories"):
        if not content[key]:
            raise DatasetError(f"{instances_json} has no {key}")
    # whether they are things is not asked here
    categories = [{k: v for k, v in c.items() if k != "isthing"} for c in content["categories"]]
    content["categories"] = plain_categories(categories, instances_json)
    unknown = {a["category_id"] for a in content["annotations"]} - {
        c["id"] for c in content["categories"]
    }
    if unknown:
        raise DatasetError(
            f"{instances_json} has an annotation of the category {min(unknown)}, which its "
            "'categories' do not list"
        )
    return content


def instance_metadata(categories: List[Dict]) -> Dict:
    """Metadata of COCO instance categories: contiguous ids by rising category id.

    That is the order in which Detectron2's ``load_coco_json`` numbers them.

    Args:
        categories: COCO categories (id, name, perhaps color).
    """
    categories = plain_categories(categories, "the list given")
    categories.sort(key=lambda c: c["id"])
    return {
        "thing_classes": [c["name"] for c in categories],
        "thing_colors": [class_color(c, i) for i, c in enumerate(categories)],
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(categories)},
    }


def load_coco_instances(instances_json: str, image_root: str, name: str) -> List[Dict]:
    """Detectron2's ``load_coco_json``, with the class ids of :func:`instance_metadata`.

    Args:
        instances_json: in order, see :func:`read_instances_json`.
        image_root: folder of the images.
        name: of the data set.

    Raises:
        DatasetError: the first image does not exist.
    """
    raw = f"{name} (as in the json)"  # where Detectron2 enters the classes, their names as written
    try:
        dicts = load_coco_json(plain_instances_json(instances_json), image_root, raw)
    finally:
        MetadataCatalog.pop(raw, None)
    if not PathManager.isfile(dicts[0]["file_name"]):
        raise DatasetError(f"{dicts[0]['file_name']}, which {instances_json} names, does not exist")
    return dicts


def register_coco_instances(name: str, image_root: str, instances_json: str) -> None:
    """Register a data set in COCO instance format; its classes are read from the json now.

    Args:
        name: for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        image_root: folder of the images.
        instances_json: COCO instance json; masks are polygons or RLE.
    """
    metadata = instance_metadata(read_instances_json(instances_json)["categories"])
    DatasetCatalog.register(name, lambda: load_coco_instances(instances_json, image_root, name))
    MetadataCatalog.get(name).set(
        image_root=image_root,
        json_file=instances_json,
        evaluator_type="coco",
        **metadata,
    )
