"""Data sets in COCO's panoptic format: metadata from the json, loading, registering."""

import json
import logging
import os
from typing import Any, Callable, Dict, List, Optional, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n

from ...errors import MEND_PATHS, DatasetError, Tell, UsageError, refuse
from ..colors import fixed_color, read_colors
from .plain_numbers import number_ids, plain_crowd, plain_size

__all__ = [
    "check_entries",
    "class_color",
    "load_coco_panoptic_json",
    "panoptic_content",
    "panoptic_dicts",
    "panoptic_metadata",
    "plain_categories",
    "read_json",
    "read_panoptic_json",
    "register_coco_panoptic",
]


def read_json(path: str, what: str, keys: Sequence[str], **hooks: Callable) -> Dict:
    """Read a json whose outermost part is a mapping with these keys.

    Args:
        path: of the file.
        what: what to call it in an error, e.g. "panoptic json".
        keys: that it must have; their values are lists.
        hooks: of ``json.load``.

    Raises:
        DatasetError: it is missing, no json, or lacks one of them.
    """
    if not PathManager.isfile(path):
        raise DatasetError(f"the {what} {path} does not exist: {MEND_PATHS}")
    try:
        with PathManager.open(path, encoding="utf-8-sig") as f:
            content = json.load(f, **hooks)
    except ValueError as error:
        raise DatasetError(f"the {what} {path} is not valid json: {error}") from error
    found = content if isinstance(content, dict) else ()
    missing = [key for key in keys if key not in found]
    if missing:
        raise DatasetError(
            f"the {what} {path} has no {' and no '.join(missing)}: it must be of COCO's form, into "
            "which files of other tools have to be converted"
        )
    for key in (*keys, "annotations"):
        if not isinstance(content.get(key) or [], list):
            raise DatasetError(f"the '{key}' of the {what} {path} are no list, as COCO's are")
    return content


def read_panoptic_json(panoptic_json: str) -> Dict:
    """Read a COCO panoptic json; that of a test set, without annotations, gets an empty list.

    That of COCO's own test images does not tell things from stuff: it gets an empty list of
    categories too.

    Raises:
        DatasetError: it is missing, no json, or lacks images or categories.
    """
    content = read_json(panoptic_json, "panoptic json", ("images", "categories"))
    return panoptic_content(content, panoptic_json)


def panoptic_content(content: Dict, panoptic_json: str, tell: Tell = refuse) -> Dict:
    """The content of a panoptic json in the plain form; entries with a fault are left out of it.

    Args:
        content: with ``images`` and ``categories``; it is changed.
        panoptic_json: its path, for the sentences.
        tell: told of each fault.
    """
    content["annotations"] = content.get("annotations") or []
    if not content["annotations"] and any("isthing" not in c for c in content["categories"]):
        content["categories"] = []
    for what, keys in _KEYS.items():
        content[what] = check_entries(content[what], keys, f"'{what}' of {panoptic_json}", tell)
    content["categories"] = plain_categories(content["categories"], panoptic_json, tell)
    _plain_numbers(content, panoptic_json, tell)
    return content


def _plain_numbers(content: Dict, panoptic_json: str, tell: Tell) -> None:
    """Ids and sizes become whole numbers, in place, as far as they mean some."""
    for annotation in content["annotations"]:
        segments = annotation["segments_info"]
        if not isinstance(segments, list) or not all(isinstance(s, dict) for s in segments):
            tell(
                "entry",
                f"the segments_info of image {annotation['image_id']} in {panoptic_json} are no "
                "list of mappings",
            )
            annotation["segments_info"] = []
    segments = [s for a in content["annotations"] for s in a["segments_info"]]
    number_ids([(content["images"], "id"), (content["annotations"], "image_id")])
    number_ids([(content["categories"], "id"), (segments, "category_id")])
    number_ids([(segments, "id")])
    for segment in segments:
        plain_crowd(segment, f"the segment {segment.get('id')} of {panoptic_json}", tell)
    for image in content["images"]:
        plain_size(image, panoptic_json, tell)


# what every entry of a COCO panoptic json has; the last is the key that tells it from the others
_KEYS = {
    "categories": ("name", "isthing", "id"),
    "images": ("file_name", "height", "width", "id"),
    "annotations": ("file_name", "segments_info", "image_id"),
}
_SEGMENT_KEYS = ("category_id", "area", "iscrowd", "id")


def check_entries(
    entries: List[Dict], keys: Sequence[str], where: str, tell: Tell = refuse
) -> List[Dict]:
    """The entries that have these keys, and another value of the last one than those before.

    Args:
        entries: of a json.
        keys: that each must have.
        where: for the sentences.
        tell: told of each of the other entries.
    """
    seen, sound = set(), []
    for entry in entries:
        if not isinstance(entry, dict):
            tell("entry", f"an entry of {where} is {entry!r}, which is no mapping")
            continue
        missing = [key for key in keys if key not in entry]
        if missing:
            tell("entry", f"an entry of {where} has no {' and no '.join(missing)}")
            continue
        wrong = [key for key in keys if not _is_plain(key, entry[key])]
        if wrong:
            tell("entry", f"an entry of {where} has the {wrong[0]} {entry[wrong[0]]!r}")
            continue
        value = entry[keys[-1]]
        if value in seen:
            tell("same id", f"two entries of {where} have the {keys[-1]} {value}")
        else:
            seen.add(value)
            sound.append(entry)
    return sound


def _is_plain(key: str, value: Any) -> bool:
    """Is the name of a file a text, and an id a number or a text?"""
    if key == "file_name":
        return isinstance(value, str) and "\0" not in value
    is_id = key == "id" or key.endswith("_id")
    return not is_id or (isinstance(value, (int, float, str)) and not isinstance(value, bool))


def plain_categories(categories: List[Dict], where: str, tell: Tell = refuse) -> List[Dict]:
    """Categories with a text as ``name``, 0 or 1 as ``isthing``, and RGB of 0..255 as ``color``.

    Annotation tools write them in several notations; what is plain is used.

    Args:
        categories: with ``id`` and ``name``, perhaps ``isthing`` and ``color``.
        where: the file that they are from.
        tell: told where a value is none of these, or two classes have the same name: results are
            told apart by it.
    """

    def entry(i: int) -> str:
        return f"the category {categories[i]['id']!r} of {where}"

    try:
        colors = read_colors(
            [c.get("color") for c in categories], lambda i: f"the color of {entry(i)}"
        )
    except (DatasetError, UsageError) as error:
        tell("category", str(error))
        colors = [None] * len(categories)
    plain = []
    for i, (category, color) in enumerate(zip(categories, colors)):
        name = category["name"]
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            tell("category", f"the name of {entry(i)} is {name!r}: it must be a text")
        category = {**category, "name": str(name)}
        if "isthing" in category:
            isthing = _IS_THING.get(str(category["isthing"]).lower())
            if isthing is None:
                tell(
                    "category",
                    f"the isthing of {entry(i)} is {category['isthing']!r}: it must be 1 for a "
                    "thing, 0 for stuff",
                )
            category["isthing"] = isthing or 0
        category.pop("color", None)
        plain.append(category if color is None else {**category, "color": list(color)})
    names = [c["name"] for c in plain]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            tell("category", f"two categories of {where} have the name {name}")
    return plain


_IS_THING = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def panoptic_metadata(categories: List[Dict]) -> Dict:
    """Metadata in Detectron2's "standard" panoptic form.

    Contiguous ids run over all categories in the order given, and both class lists hold all
    names, so that ``Visualizer`` and evaluators find a segment's name whatever its kind.

    Args:
        categories: COCO panoptic categories (id, name, isthing, perhaps color).
    """
    categories = plain_categories(categories, "the list given")
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
    """RGB, 0..255: that of one of :func:`plain_categories`, or a fixed one for this position."""
    return list(category.get("color") or fixed_color(index))


def load_coco_panoptic_json(
    panoptic_json: str, image_root: str, panoptic_root: Optional[str], metadata: Dict
) -> List[Dict]:
    """Read a COCO panoptic json into Detectron2's panoptic dicts.

    Unlike Detectron2's own loader it takes the image's name and size from the json's ``images``,
    so images need not be ``.jpg``.

    Args:
        panoptic_json, image_root, panoptic_root: the json, the images, the id PNGs (None: the json
            has no annotations).
        metadata: of :func:`panoptic_metadata`.

    Returns:
        one dict per annotation: file_name, image_id, height, width, pan_seg_file_name and
        segments_info, with contiguous category ids and ``isthing``. Of a json without annotations
        one dict per image, without the last two.

    Raises:
        DatasetError: an annotation names an image or a category that the json does not have.
    """
    content = read_panoptic_json(panoptic_json)
    dicts = panoptic_dicts(content, panoptic_json, image_root, panoptic_root, metadata)
    if not dicts:
        dicts = [_image_dict(image, image_root) for image in content["images"]]
    elif len(dicts) < len(content["images"]):
        told = "%d of %d images of %s have no annotation and are left out (%s, ...)"
        annotated = {annotation["image_id"] for annotation in content["annotations"]}
        images = content["images"]
        first = next(image["file_name"] for image in images if image["id"] not in annotated)
        numbers = (len(images) - len(dicts), len(images), panoptic_json, first)
        log_first_n(logging.WARNING, told % numbers, name=__name__, key="message")
    if not dicts:
        raise DatasetError(f"{panoptic_json} has no images")
    return dicts


def panoptic_dicts(
    content: Dict,
    panoptic_json: str,
    image_root: str,
    panoptic_root: Optional[str],
    metadata: Dict,
    tell: Tell = refuse,
) -> List[Dict]:
    """One dict per annotation, see :func:`load_coco_panoptic_json`.

    Args:
        content: of :func:`panoptic_content`.
        tell: told of an annotation or a segment that is left out as it names an image or a
            category that the json does not have.
    """
    images = {image["id"]: image for image in content["images"]}
    dicts = []
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            tell(
                "unknown image",
                f"{panoptic_json} has an annotation of image {annotation['image_id']}, which its "
                "'images' do not list",
            )
            continue
        dicts.append(
            {
                **_image_dict(image, image_root),
                "pan_seg_file_name": os.path.join(panoptic_root, annotation["file_name"]),
                "segments_info": _contiguous_segments(annotation, metadata, panoptic_json, tell),
            }
        )
    return dicts


def _image_dict(image: Dict, image_root: str) -> Dict:
    return {
        "file_name": os.path.join(image_root, image["file_name"]),
        "image_id": image["id"],
        **{key: image[key] for key in ("height", "width") if key in image},
    }


def _contiguous_segments(
    annotation: Dict, metadata: Dict, panoptic_json: str, tell: Tell
) -> List[Dict]:
    """``segments_info`` with contiguous category ids and ``isthing``."""
    things = metadata["thing_dataset_id_to_contiguous_id"]
    contiguous = {**metadata["stuff_dataset_id_to_contiguous_id"], **things}
    image_id = annotation["image_id"]
    where = f"segments_info of image {image_id} in {panoptic_json}"
    segments = check_entries(annotation["segments_info"], _SEGMENT_KEYS, where, tell)
    for segment in segments:
        if type(segment["id"]) is not int or not 0 < segment["id"] < 256**3:
            tell(
                "entry",
                f"{panoptic_json} has a segment of the id {segment['id']} in image {image_id}: ids "
                "are 1 to 16777215, and 0 marks pixels without segment in the PNG",
            )
    unknown = {s["category_id"] for s in segments} - contiguous.keys()
    for category_id in sorted(unknown, key=str):
        tell(
            "unknown category",
            f"{panoptic_json} uses the category {category_id} in image {image_id}, which its "
            "'categories' do not list",
        )
    return [
        {**s, "category_id": contiguous[s["category_id"]], "isthing": s["category_id"] in things}
        for s in segments
        if s["category_id"] in contiguous
    ]


def register_coco_panoptic(
    name: str,
    image_root: str,
    panoptic_root: Optional[str],
    panoptic_json: str,
    instances_json: Optional[str] = None,
) -> None:
    """Register a data set in COCO panoptic format; its classes are read from the json now.

    Args:
        name: for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        image_root, panoptic_root: folders of the images and of the id PNGs; images alone, to
            predict on, have no PNGs.
        panoptic_json: COCO panoptic json; without annotations for images alone, whose classes may
            be those of the model (see :func:`read_panoptic_json`).
        instances_json: COCO instances json of the same images, for instance evaluation.

    Raises:
        UsageError: there are annotations, but no folder of their PNGs.
        DatasetError: the json cannot be used.
    """
    content = read_panoptic_json(panoptic_json)
    if not content["annotations"]:
        panoptic_root = None
    elif panoptic_root is None:
        raise UsageError(
            f"the data set '{name}' lacks PANOPTIC_ROOT, the folder of the PNGs that the "
            f"annotations of {panoptic_json} name: add it"
        )
    tells_classes = bool(content["categories"] or content["annotations"])
    metadata = panoptic_metadata(content["categories"]) if tells_classes else {}
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
