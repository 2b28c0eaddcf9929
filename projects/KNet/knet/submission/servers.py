"""The archives that evaluation servers take: names, ids, and what has to be there.

COCO: cocodataset.org/#upload. Cityscapes: the scripts by which its server evaluates,
``cityscapesscripts.evaluation``. ADE20K: the development kit of its scene parsing benchmark.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from PIL import Image

from ..data.image_files import find_images
from ..errors import DatasetError, UsageError
from ..files import replacing
from .predictions import (
    InstancePredictions,
    PanopticPredictions,
    SemanticPredictions,
    masks_of,
    stem_of,
)

__all__ = ["SERVERS", "pack_predictions"]

# a file of an archive: its name there, and what is in it
Entry = Tuple[str, bytes]

NAMED = 3  # of the images that are wrong, so many are named
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class TestImage(NamedTuple):
    """An image that a server asks for."""

    id: object  # COCO's number; else the name
    size: Tuple[int, int]  # height, width


# By the key under which predictions name it
TestImages = Dict[object, TestImage]


class Server(NamedTuple):
    """What a server takes."""

    images: Callable[[Path], TestImages]
    archive: str  # its name, of {name} and {set}
    # (folder of predictions, images, name of all) -> the archive's files
    entries: Callable[[Path, TestImages, str], Iterator[Entry]]


def pack_predictions(
    server: str, predictions: Path, images: Path, output: Path, name: str, test_set: str
) -> Path:
    """Write the archive for a server.

    Args:
        server: a key of ``SERVERS``.
        predictions: folder of an evaluation (``OUTPUT_DIR/inference/<data set>``) or of the demo.
        images: of the test set: COCO's json of them, or for others the folder that they lie in.
        output: folder for the archive.
        name: of the method, as it is to stand on the server.
        test_set: COCO's name of the set, such as test-dev2017.

    Returns:
        the archive.

    Raises:
        UsageError: no such predictions, no image, or a name that is none.
        DatasetError: images without predictions, of another size, or classes that the server does
            not know.
    """
    for option, value in (("--name", name), ("--test-set", test_set)):
        if not _NAME.fullmatch(value):
            raise UsageError(f"{option} is '{value}': use letters, digits, - and _ alone")
    kind = SERVERS[server]
    archive = output / f"{kind.archive.format(name=name, set=test_set)}.zip"
    if archive.exists():
        raise UsageError(f"{archive} is there already: give another --name or --output")
    wanted = kind.images(images)
    if not wanted:
        raise UsageError(f"--images {images} has no image: give those of the test set")
    output.mkdir(parents=True, exist_ok=True)
    with replacing(archive) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, content in kind.entries(predictions, wanted, archive.stem):
            file.writestr(entry, content)
    return archive


# ------------------------------------------------------------------------------------------ checks


def _check_all_there(wanted: TestImages, found: Set, what: str = "prediction") -> None:
    """
    Raises:
        DatasetError: an image has no prediction.
    """
    missing = [key for key in wanted if key not in found]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(wanted)} images of the test set have no {what} "
            f"({_some(missing)}): predict on them too, or give the --images of the set that was "
            "predicted on"
        )


def _by_key(items: Iterable, key: Callable[[object], object]) -> Dict[object, object]:
    """
    Raises:
        DatasetError: two predictions are of one image.
    """
    found = {}
    for item in items:
        if key(item) in found:
            raise DatasetError(
                f"there are two predictions of the image {key(item)}: give the folder of one "
                "evaluation, or of one run of the demo"
            )
        found[key(item)] = item
    return found


def _check_ids(ids: Set[int], known: Set[int], server: str) -> None:
    unknown = sorted(ids - known)
    if unknown:
        raise DatasetError(
            f"the predictions have the classes {_some(unknown)}, which {server} does not know: "
            "give predictions of a model of its classes"
        )


def _check_size(key: object, size: Tuple[int, int], image: TestImage) -> None:
    if tuple(size) != tuple(image.size):
        raise DatasetError(
            f"the prediction of {key} is {size[1]} x {size[0]}, its image {image.size[1]} x "
            f"{image.size[0]}: predict on the test set's own images"
        )


def _some(items: List) -> str:
    return ", ".join(map(str, items[:NAMED])) + (", ..." if len(items) > NAMED else "")


# ------------------------------------------------------------------------------------------ images


def _coco_images(path: Path) -> TestImages:
    """By id, of COCO's ``image_info_*.json``."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["images"]
        return {i["id"]: TestImage(i["id"], (i["height"], i["width"])) for i in listed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--images {path} is no json of COCO's images ({error}): give "
            "image_info_test-dev2017.json"
        ) from error


def _images_of_folder(key: Callable[[str], str]) -> Callable[[Path], TestImages]:
    def find(folder: Path) -> TestImages:
        if not folder.is_dir():
            raise UsageError(f"--images {folder} is no folder: give that of the test set's images")
        images = {}
        for file in find_images([str(folder)], option="--images"):
            try:
                with Image.open(file) as image:
                    images[key(file)] = TestImage(key(file), image.size[::-1])
            except OSError as error:
                raise DatasetError(f"{file} in --images cannot be read: {error}") from error
        return images

    return find


def _city_frame(name: object) -> str:
    """``<city>_<sequence>_<frame>``, by which Cityscapes knows an image.

    Raises:
        DatasetError: the name has none.
    """
    found = re.match(r"[a-zA-Z-]+_\d{6}_\d{6}", stem_of(name))
    if not found:
        raise DatasetError(
            f"{name} is no name of an image of Cityscapes, <city>_123456_123456...: predict on "
            "its files under their own names"
        )
    return found[0]


# -------------------------------------------------------------------------------------------- COCO

_COCO = {c["id"] for c in COCO_CATEGORIES}
_COCO_THINGS = {c["id"] for c in COCO_CATEGORIES if c["isthing"]}


def _coco_panoptic(folder: Path, wanted: TestImages, name: str) -> Iterator[Entry]:
    return _panoptic(folder, wanted, name, lambda a: a["image_id"], _coco_ids)


def _coco_ids(ids: Set[int]) -> Dict[int, int]:
    _check_ids(ids, _COCO, "COCO")
    return {i: i for i in ids}


def _panoptic(
    folder: Path,
    wanted: TestImages,
    name: str,
    key: Callable[[Dict], object],
    new_ids: Callable[[Set[int]], Dict[int, int]],
) -> Iterator[Entry]:
    """COCO's format: ``<name>.json`` and ``<name>/*.png``."""
    predictions = PanopticPredictions(folder)
    table = new_ids(predictions.ids())
    by_key = _by_key(predictions.annotations, key)
    _check_all_there(wanted, set(by_key))
    annotations = []
    for each, image in wanted.items():
        annotation = by_key[each]
        png, size = predictions.png(annotation)
        _check_size(each, size, image)
        segments = [
            {**s, "category_id": table[s["category_id"]]} for s in annotation["segments_info"]
        ]
        annotations.append({**annotation, "image_id": image.id, "segments_info": segments})
        yield f"{name}/{annotation['file_name']}", png
    yield f"{name}.json", json.dumps({"annotations": annotations}).encode()


def _coco_instances(folder: Path, wanted: TestImages, name: str) -> Iterator[Entry]:
    """A json of all results; COCO's server misses no image that has none."""
    predictions = InstancePredictions(folder)
    _check_ids(predictions.ids(), _COCO_THINGS, "COCO")
    by_image = predictions.by_image()
    if predictions.names or not set(by_image) & set(wanted):
        _check_all_there(wanted, set(by_image))
    results = []
    for key, image in wanted.items():
        for each in by_image.get(key, ()):
            _check_size(key, each["segmentation"]["size"], image)
            results.append(each)
    yield f"{name}.json", json.dumps(results).encode()


# -------------------------------------------------------------------------------------- Cityscapes

_LABEL_OF_TRAIN_ID = {c["trainId"]: c["id"] for c in CITYSCAPES_CATEGORIES}
_LABELS = set(_LABEL_OF_TRAIN_ID.values())
_THING_LABELS = [c["id"] for c in CITYSCAPES_CATEGORIES if c["isthing"]]


def _city_labels(ids: Set[int]) -> Dict[int, int]:
    """Class ids -> the label ids that the server wants (24 is a person).

    Those of predictions are label ids or, all of them below 19, train ids.

    Raises:
        DatasetError: they are neither.
    """
    if ids <= set(_LABEL_OF_TRAIN_ID):
        return {i: _LABEL_OF_TRAIN_ID[i] for i in ids}
    _check_ids(ids, _LABELS, "Cityscapes")
    return {i: i for i in ids}


def _city_panoptic_labels(ids: Set[int]) -> Dict[int, int]:
    """The same of panoptic predictions, which Detectron2 numbers by label ids."""
    return {i: i for i in ids} if ids <= _LABELS else _city_labels(ids)


def _city_thing_labels(ids: Set[int]) -> Dict[int, int]:
    """The same of instances, which Detectron2 also numbers 0 to 7."""
    if ids <= set(range(len(_THING_LABELS))):
        return {i: _THING_LABELS[i] for i in ids}
    table = _city_labels(ids)
    _check_ids(set(table.values()), set(_THING_LABELS), "Cityscapes' instance task")
    return table


def _city_panoptic(folder: Path, wanted: TestImages, name: str) -> Iterator[Entry]:
    return _panoptic(
        folder, wanted, name, lambda a: _city_frame(a["file_name"]), _city_panoptic_labels
    )


def _city_semantic(folder: Path, wanted: TestImages, name: str) -> Iterator[Entry]:
    """``<city>_<sequence>_<frame>.png`` of label ids, 0 (unlabeled) where there is no class."""
    return _label_maps(folder, wanted, _city_frame, _city_labels)


def _label_maps(
    folder: Path,
    wanted: TestImages,
    key: Callable[[str], str],
    new_ids: Callable[[Set[int]], Dict[int, int]],
) -> Iterator[Entry]:
    predictions = SemanticPredictions(folder)
    table = np.zeros(2**16, dtype=np.uint8)
    for old, new in new_ids(predictions.ids()).items():
        table[old] = new
    by_key = _by_key(predictions.names, key)
    _check_all_there(wanted, set(by_key))
    for each, image in wanted.items():
        labels = predictions.label_map(by_key[each])
        _check_size(each, labels.shape, image)
        yield f"{each}.png", _png(table[labels])


def _city_instances(folder: Path, wanted: TestImages, name: str) -> Iterator[Entry]:
    """A text an image (mask file, label id, score a line) and a PNG a mask."""
    predictions = InstancePredictions(folder)
    table = _city_thing_labels(predictions.ids())
    by_key = {
        _city_frame(predictions.names.get(image_id, image_id)): instances
        for image_id, instances in predictions.by_image().items()
    }
    if predictions.names or not set(by_key) & set(wanted):
        _check_all_there(wanted, set(by_key))
    for frame, image in wanted.items():
        lines, instances = [], by_key.get(frame, [])
        for i, (each, mask) in enumerate(zip(instances, masks_of(instances))):
            _check_size(frame, mask.shape, image)
            file = f"masks/{frame}_{i:03d}.png"
            lines.append(f"{file} {table[each['category_id']]} {each['score']:.6f}\n")
            yield file, _png(255 * mask)
        yield f"{frame}.txt", "".join(lines).encode()


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------ ADE20K

_NUM_ADE = 150


def _ade_labels(ids: Set[int]) -> Dict[int, int]:
    """0 to 149, as Detectron2 numbers the classes, -> 1 to 150; 0 is for other objects."""
    if _NUM_ADE in ids:  # they are the benchmark's own already
        _check_ids(ids, set(range(1, _NUM_ADE + 1)), "ADE20K")
        return {i: i for i in ids}
    _check_ids(ids, set(range(_NUM_ADE)), "ADE20K")
    return {i: i + 1 for i in ids}


def _ade20k(folder: Path, wanted: TestImages, name: str) -> Iterator[Entry]:
    """``ADE_test_00000001.png`` of ids 1 to 150."""
    return _label_maps(folder, wanted, stem_of, _ade_labels)


SERVERS: Dict[str, Server] = {
    "coco-panoptic": Server(_coco_images, "panoptic_{set}_{name}_results", _coco_panoptic),
    "coco-instances": Server(_coco_images, "detections_{set}_{name}_results", _coco_instances),
    "cityscapes-panoptic": Server(
        _images_of_folder(_city_frame), "cityscapes_panoptic_{name}", _city_panoptic
    ),
    "cityscapes-instances": Server(
        _images_of_folder(_city_frame), "cityscapes_instances_{name}", _city_instances
    ),
    "cityscapes-semantic": Server(
        _images_of_folder(_city_frame), "cityscapes_semantic_{name}", _city_semantic
    ),
    "ade20k": Server(_images_of_folder(stem_of), "ade20k_{name}", _ade20k),
}
