"""Data sets in COCO's panoptic format: metadata from the json, loading, registering."""

import colorsys
import json
import os
from typing import Dict, List, Optional, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...errors import DatasetError

__all__ = [
    "check_entries",
    "check_names",
    "class_color",
    "load_coco_panoptic_json",
    "panoptic_metadata",
    "read_json",
    "read_panoptic_json",
    "register_coco_panoptic",
]


def read_json(path: str, what: str, keys: Sequence[str]) -> Dict:
    """Read a json whose outermost part is a mapping with these keys.

    Args:
        path: of the file.
        what: what to call it in an error, e.g. "panoptic json".
        keys: that it must have; their values are lists.

    Raises:
        DatasetError: it is missing, no json, or lacks one of them.
    """
    if not PathManager.isfile(path):
        raise DatasetError(f"the {what} {path} does not exist")
    try:
        with PathManager.open(path) as f:
            content = json.load(f)
    except ValueError as error:
        raise DatasetError(f"the {what} {path} is not valid json: {error}") from error
    found = content if isinstance(content, dict) else ()
    missing = [key for key in keys if key not in found]
    if missing:
        raise DatasetError(f"the {what} {path} has no {' and no '.join(missing)}")
    return content


def read_panoptic_json(panoptic_json: str) -> Dict:
    """Read a COCO panoptic json.

    Raises:
        DatasetError: it is missing, no json, or lacks images, annotations or categories.
    """
    content = read_json(panoptic_json, "panoptic json", ("images", "annotations", "categories"))
    for what, keys in _KEYS.items():
        check_entries(content[what], keys, f"'{what}' of {panoptic_json}")
    check_names([c["name"] for c in content["categories"]], panoptic_json)
    return content


# what every entry of a COCO panoptic json has; the last is the key that tells it from the others
_KEYS = {
    "categories": ("name", "isthing", "id"),
    "images": ("file_name", "height", "width", "id"),
    "annotations": ("file_name", "segments_info", "image_id"),
}
_SEGMENT_KEYS = ("category_id", "area", "iscrowd", "id")


def check_entries(entries: List[Dict], keys: Sequence[str], where: str) -> None:
    """Every entry has these keys, and no two have the same value of the last one.

    Raises:
        DatasetError: it is not so.
    """
    seen = set()
    for entry in entries:
        missing = [key for key in keys if key not in entry]
        if missing:
            raise DatasetError(f"an entry of {where} has no {' and no '.join(missing)}")
        if entry[keys[-1]] in seen:
            raise DatasetError(f"two entries of {where} have the {keys[-1]} {entry[keys[-1]]}")
        seen.add(entry[keys[-1]])


def check_names(names: Sequence[str], where: str) -> None:
    """No two classes have the same name: results are told apart by it.

    Raises:
        DatasetError: two have.
    """
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"two categories of {where} have the name {name}")


def panoptic_metadata(categories: List[Dict]) -> Dict:
    """Metadata in Detectron2's "standard" panoptic form.

    Contiguous ids run over all categories in the order given, and both class lists hold all
    names, so that ``Visualizer`` and evaluators find a segment's name whatever its kind.

    Args:
        categories: COCO panoptic categories (id, name, isthing, perhaps color).
    """
    names = [c["name"] for c in categories]
    colors = [class_color(c, i) for i, c in enumerate(categories)]
    contiguous = {c["id"]: i for i, c in enumerate(categories)}
    things = {c["id"] for c in categories if c["isthing"]}
    return {
        "thing_classes": names,
        "stuff_classes": names,
        "thing_colors": colors,
        "stuff_colors": colors,
        "thing_dataset_id_to_contiguous_id": {k: v for k, v in contiguous.items() if k in things},
        "stuff_dataset_id_to_contiguous_id": {
            k: v for k, v in contiguous.items() if k not in things
        },
    }


def class_color(category: Dict, index: int) -> List[int]:
    """RGB, 0..255: the category's own, or a fixed one for this position.

    The hues of two positions that follow each other are a golden angle apart.
    """
    if "color" in category:
        return list(category["color"])
    return [round(255 * v) for v in colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.95)]


def load_coco_panoptic_json(
    panoptic_json: str, image_root: str, panoptic_root: str, metadata: Dict
) -> List[Dict]:
    """Read a COCO panoptic json into Detectron2's panoptic dicts.

    Unlike Detectron2's own loader it takes the image's name and size from the json's ``images``,
    so images need not be ``.jpg``.

    Args:
        panoptic_json, image_root, panoptic_root: the json, the images, the id PNGs.
        metadata: of :func:`panoptic_metadata`.

    Returns:
        one dict per annotation: file_name, image_id, height, width, pan_seg_file_name and
        segments_info, with contiguous category ids and ``isthing``.

    Raises:
        DatasetError: an annotation names an image or a category that the json does not have, or
            the first image or PNG does not exist.
    """
    content = read_panoptic_json(panoptic_json)
    images = {image["id"]: image for image in content["images"]}
    dicts = []
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            raise DatasetError(
                f"{panoptic_json} has an annotation of image {annotation['image_id']}, which its "
                "'images' do not list"
            )
        dicts.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
                "segments_info": _contiguous_segments(annotation, metadata, panoptic_json),
            }
        )
    if not dicts:
        raise DatasetError(f"{panoptic_json} has no annotations")
    for key in ("file_name", "pan_seg_file_name"):
        if not PathManager.isfile(dicts[0][key]):
            raise DatasetError(f"{dicts[0][key]}, which {panoptic_json} names, does not exist")
    return dicts


def _contiguous_segments(annotation: Dict, metadata: Dict, panoptic_json: str) -> List[Dict]:
    """``segments_info`` with contiguous category ids and ``isthing``."""
    things = metadata["thing_dataset_id_to_contiguous_id"]
    contiguous = {**metadata["stuff_dataset_id_to_contiguous_id"], **things}
    segments = annotation["segments_info"]
    image_id = annotation["image_id"]
    check_entries(segments, _SEGMENT_KEYS, f"segments_info of image {image_id} in {panoptic_json}")
    for segment in segments:
        if not 0 < segment["id"] < 256**3:
            raise DatasetError(
                f"{panoptic_json} has a segment of the id {segment['id']} in image {image_id}: ids "
                "are 1 to 16777215, and 0 marks pixels without segment in the PNG"
            )
    unknown = {s["category_id"] for s in segments} - contiguous.keys()
    if unknown:
        raise DatasetError(
            f"{panoptic_json} uses the category {min(unknown)} in image {image_id}, which its "
            "'categories' do not list"
        )
    return [
        {**s, "category_id": contiguous[s["category_id"]], "isthing": s["category_id"] in things}
        for s in segments
    ]


def register_coco_panoptic(
    name: str,
    image_root: str,
    panoptic_root: str,
    panoptic_json: str,
    instances_json: Optional[str] = None,
) -> None:
    """Register a data set in COCO panoptic format; its classes are read from the json now.

    Args:
        name: for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        image_root, panoptic_root: folders of the images and of the id PNGs.
        panoptic_json: COCO panoptic json.
        instances_json: COCO instances json of the same images, for instance evaluation.
    """
    metadata = panoptic_metadata(read_panoptic_json(panoptic_json)["categories"])
    DatasetCatalog.register(
        name,
        lambda: load_coco_panoptic_json(panoptic_json, image_root, panoptic_root, metadata),
    )
    MetadataCatalog.get(name).set(
        image_root=image_root,
        panoptic_root=panoptic_root,
        panoptic_json=panoptic_json,
        json_file=instances_json,
        evaluator_type="coco_panoptic_seg",
        ignore_label=255,
        label_divisor=1000,
        **metadata,
    )
