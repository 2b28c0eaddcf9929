"""Data sets in COCO's instance format: classes from the json, loading, registering."""

from typing import Dict, List

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json

from ...errors import Tell, refuse
from .coco_panoptic import check_entries, class_color, plain_categories, read_json
from .plain_instances import keep_plain_instances, plain_instances, plain_instances_json

__all__ = [
    "instance_content",
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
    content = read_json(instances_json, "instance json", ("images", "categories"))
    changed = instance_content(content, instances_json)
    keep_plain_instances(instances_json, content, changed)
    # whether they are things is not asked here
    categories = [{k: v for k, v in c.items() if k != "isthing"} for c in content["categories"]]
    content["categories"] = plain_categories(categories, instances_json)
    return content


def instance_content(content: Dict, instances_json: str, tell: Tell = refuse) -> bool:
    """Bring the content of an instance json into the plain form, in place, without entries that
    have a fault.

    Args:
        content: with ``images`` and ``categories``.
        instances_json: its path, for the sentences.
        tell: told of each fault.

    Returns:
        whether something was changed.
    """
    content["annotations"] = content.get("annotations") or []
    if any("segments_info" in a for a in content["annotations"][:1]):
        tell(
            "entry",
            f"the instance json {instances_json} is a panoptic json: give it as PANOPTIC_JSON, "
            "with the PANOPTIC_ROOT of its PNGs",
        )
        content["annotations"] = []
    for key, keys in _KEYS.items():
        content[key] = check_entries(content[key], keys, f"'{key}' of {instances_json}", tell)
    changed = plain_instances(content, instances_json, tell)
    for key in ("images", "categories"):
        if not content[key]:
            tell("entry", f"{instances_json} has no {key}")
    known = {c["id"] for c in content["categories"]}
    unknown = {a["category_id"] for a in content["annotations"]} - known
    for category_id in sorted(unknown, key=str):
        tell(
            "unknown category",
            f"{instances_json} has an annotation of the category {category_id}, which its "
            "'categories' do not list",
        )
    return changed


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
    """
    raw = f"{name} (as in the json)"  # where Detectron2 enters the classes, their names as written
    try:
        return load_coco_json(plain_instances_json(instances_json), image_root, raw)
    finally:
        MetadataCatalog.pop(raw, None)


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
