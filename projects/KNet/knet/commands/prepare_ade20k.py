"""Make from ADEChallengeData2016 the files that the ADE20K configs train on.

    knet prepare-ade20k               # semantic: annotations_detectron2/
    knet prepare-ade20k --panoptic    # ade20k_panoptic_{train,val} too

The folder (``--root``) is that of the public download: ``images/`` and ``annotations/``, each with
``training/`` and ``validation/``. Panoptic needs what the separate archive
``annotations_instance.tar`` holds, unpacked there: ``annotations_instance/`` and
``categoryMapping.txt``. What exists already is left as it is.
"""

import argparse
import functools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Tuple

import numpy as np
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES
from panopticapi.utils import id2rgb
from PIL import Image
from scipy.ndimage import find_objects

from ..encoding import write_any_text
from ..errors import DatasetError

FOLDERS = {"train": "training", "val": "validation"}
NUM_CLASSES = len(ADE20K_SEM_SEG_CATEGORIES)
INSTANCE_ARCHIVE = (
    "http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar"
)


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root",
        default=os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "ADEChallengeData2016"),
        help="folder of the data set (default: ADEChallengeData2016 below DETECTRON2_DATASETS)",
    )
    parser.add_argument("--panoptic", action="store_true", help="make the panoptic files too")
    parser.add_argument(
        "--num-workers", type=int, default=0, help="processes that convert (default: this one)"
    )
    return parser.parse_args(argv)


# ----------------------------------------------------------------------------------------- semantic


def detectron2_labels(labels: np.ndarray) -> np.ndarray:
    """(H, W) uint8, 0 unlabelled and classes 1..150 -> classes 0..149 and 255."""
    return labels - np.uint8(1)  # 0 wraps around


def convert_labels(stem: str, source: Path, target: Path) -> None:
    """Write one label map as ``ade20k_sem_seg_*`` want it, unless it is there."""
    path = target / f"{stem}.png"
    if not path.exists():
        write_png(path, detectron2_labels(read_labels(source / f"{stem}.png")))


# ----------------------------------------------------------------------------------------- panoptic


class PanopticSources(NamedTuple):
    """Where the parts of a panoptic annotation are, and which thing class is which class."""

    images: Path
    labels: Path
    instances: Path
    classes: np.ndarray  # (256,) instance class of the R channel -> class 1..150, 0 for none


def panoptic_ids(labels: np.ndarray, instances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Join stuff of the label map and things of the instance map, things on top.

    Args:
        labels: (H, W) uint8, 0 unlabelled and classes 1..150.
        instances: (H, W, 3) uint8, R the instance class, G the number of the object, 0 for none.
        classes: see :class:`PanopticSources`.

    Returns:
        (H, W) int32 segment ids: 0 for void, the class of stuff, 256 R + G of an object. A pixel
        of a thing class without an object is void.
    """
    is_stuff = np.ones(256, dtype=bool)
    is_stuff[classes[classes > 0]] = False
    things = 256 * instances[..., 0].astype(np.int32) + instances[..., 1]
    return np.where(instances[..., 1] > 0, things, np.where(is_stuff[labels], labels, 0))


def segments_of(ids: np.ndarray, classes: np.ndarray) -> List[Dict]:
    """``segments_info`` of the ids of :func:`panoptic_ids`, in COCO's panoptic format."""
    areas = np.bincount(ids.ravel())
    areas[0] = 0  # void
    known = np.flatnonzero(areas)
    rows = np.zeros(len(areas), dtype=np.int32)
    rows[known] = np.arange(1, len(known) + 1)
    segments = []
    for segment_id, (y, x) in zip(known.tolist(), find_objects(rows[ids])):
        label = segment_id if segment_id < 256 else classes[segment_id // 256]
        segments.append(
            {
                "id": segment_id,
                "category_id": int(label) - 1,
                "area": int(areas[segment_id]),
                "bbox": [x.start, y.start, x.stop - x.start, y.stop - y.start],
                "iscrowd": 0,
            }
        )
    return segments


def convert_panoptic(stem: str, sources: PanopticSources, target: Path) -> Tuple[Dict, Dict]:
    """Write one panoptic PNG.

    Returns:
        the image's entry and the annotation's, of the json.

    Raises:
        DatasetError: an input cannot be used, or the PNG exists with other content.
    """
    labels = read_labels(sources.labels / f"{stem}.png")
    instances = read_instances(sources.instances / f"{stem}.png", labels.shape, sources.classes)
    ids = panoptic_ids(labels, instances, sources.classes)
    png = id2rgb(ids)
    path = target / f"{stem}.png"
    if not path.exists():
        write_png(path, png)
    elif not np.array_equal(read_image(path), png):
        raise DatasetError(
            f"{path} exists, but not as it would be made now, and its json {target}.json is "
            f"missing: remove the folder {target} to make both anew"
        )
    height, width = ids.shape
    return (
        {"id": stem, "file_name": f"{stem}.jpg", "height": height, "width": width},
        {
            "image_id": stem,
            "file_name": f"{stem}.png",
            "segments_info": segments_of(ids, sources.classes),
        },
    )


def categories(classes: np.ndarray) -> List[Dict]:
    """COCO categories: ids and names are those of Detectron2's ``ade20k_sem_seg_*``."""
    things = set(classes.tolist())
    return [
        {"id": i, "name": name, "isthing": int(i + 1 in things)}
        for i, name in enumerate(ADE20K_SEM_SEG_CATEGORIES)
    ]


def read_category_mapping(path: Path) -> np.ndarray:
    """(256,) uint8: the class 1..150 of each instance class, 0 where there is none.

    After a line of headings the file has numbers separated by blanks: instance class, class, and
    that of the full ADE20K. An instance class may have several lines.

    Raises:
        DatasetError: it is missing or has other content.
    """
    if not path.is_file():
        raise DatasetError(f"{path} does not exist: unpack {INSTANCE_ARCHIVE} into {path.parent}")
    classes = np.zeros(256, dtype=np.uint8)
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        words = line.split()
        if not words or (number == 1 and not words[0].isdigit()):
            continue
        numbers = [int(word) for word in words[:2] if word.isdigit()]
        instance_class, label = numbers if len(numbers) == 2 else (0, 0)
        if not (0 < instance_class < 256 and 0 < label <= NUM_CLASSES):
            raise DatasetError(
                f"line {number} of {path} is '{line.strip()}': it must begin with an instance "
                f"class from 1 and a class from 1 to {NUM_CLASSES}"
            )
        if classes[instance_class] not in (0, label):
            raise DatasetError(
                f"line {number} of {path} contradicts an earlier one: {line.strip()}"
            )
        classes[instance_class] = label
    if not classes.any():
        raise DatasetError(f"{path} lists no classes")
    return classes


# -------------------------------------------------------------------------------------------- files


def read_image(path: Path) -> np.ndarray:
    """(H, W) or (H, W, channels) uint8.

    Raises:
        DatasetError: the file is missing or broken.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise DatasetError(f"cannot read {path}: {error}") from error


def read_labels(path: Path) -> np.ndarray:
    """(H, W) uint8 of 0 to 150.

    Raises:
        DatasetError: it is no such label map.
    """
    labels = read_image(path)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DatasetError(f"{path} is no label map: it needs one channel of 8 bits")
    if labels.max(initial=0) > NUM_CLASSES:
        raise DatasetError(
            f"{path} has the label {labels.max()}, the data set's are 0 to {NUM_CLASSES}"
        )
    return labels


def read_instances(path: Path, size: Tuple[int, int], classes: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of :func:`panoptic_ids`.

    Raises:
        DatasetError: it is no such map, of another size, or has an object of an unknown class.
    """
    instances = read_image(path)
    if instances.ndim != 3 or instances.shape[2] < 2:
        raise DatasetError(f"{path} is no instance map: it needs the channels R, G and B")
    if instances.shape[:2] != tuple(size):
        raise DatasetError(
            f"{path} is {instances.shape[1]} x {instances.shape[0]}, its label map is {size[1]} x "
            f"{size[0]}"
        )
    wrong = (instances[..., 1] > 0) & (classes[instances[..., 0]] == 0)
    if wrong.any():
        raise DatasetError(
            f"{path} has an object of the instance class {instances[wrong][0, 0]}, which "
            "categoryMapping.txt does not list"
        )
    return instances


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG so that nobody ever finds half of it."""
    part = path.with_suffix(f".{os.getpid()}.part")
    Image.fromarray(pixels).save(part, format="PNG", compress_level=1)
    part.replace(path)


def stems(images: Path) -> List[str]:
    """The names of a folder's ``.jpg`` images, without the ending.

    Raises:
        DatasetError: the folder is missing, or has none.
    """
    check_folder(images)
    found = sorted(path.stem for path in images.glob("*.jpg"))
    if not found:
        raise DatasetError(f"{images} has no .jpg images")
    return found


def check_folder(path: Path, remedy: str = "") -> None:
    if not path.is_dir():
        remedy = remedy or (
            "unpack the public ADEChallengeData2016.zip there, or name its place by --root"
        )
        raise DatasetError(f"the folder {path} does not exist: {remedy}")


# -------------------------------------------------------------------------------------------- steps


def prepare_semantic(root: Path, map_: Callable) -> Iterator[str]:
    """Make ``annotations_detectron2``; yields a line about each split."""
    for folder in FOLDERS.values():
        names = stems(root / "images" / folder)
        source, target = (
            root / part / folder for part in ("annotations", "annotations_detectron2")
        )
        check_folder(source)
        target.mkdir(parents=True, exist_ok=True)
        consume(map_(functools.partial(convert_labels, source=source, target=target), names))
        yield f"{target}: label maps of {len(names)} images"


def prepare_panoptic(root: Path, map_: Callable) -> Iterator[str]:
    """Make ``ade20k_panoptic_*``, PNGs and json; yields a line about each split."""
    classes = read_category_mapping(root / "categoryMapping.txt")
    for split, folder in FOLDERS.items():
        target = root / f"ade20k_panoptic_{split}"
        json_file = root / f"{target.name}.json"
        if json_file.exists():
            yield f"{json_file} exists: left as it is (remove it to make it anew)"
            continue
        parts = ("images", "annotations", "annotations_instance")
        sources = PanopticSources(*(root / part / folder for part in parts), classes)
        names = stems(sources.images)
        check_folder(sources.labels)
        check_folder(sources.instances, f"unpack {INSTANCE_ARCHIVE} into {root}")
        target.mkdir(exist_ok=True)
        convert = functools.partial(convert_panoptic, sources=sources, target=target)
        images, annotations = zip(*map_(convert, names))
        content = {"images": images, "annotations": annotations, "categories": categories(classes)}
        part = json_file.with_suffix(".part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(json_file)
        yield f"{target} and {json_file.name}: {len(names)} images"


def consume(results: Iterable) -> None:
    for _ in results:
        pass


def main(argv=None, program: str = "prepare_ade20k.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    root = Path(args.root)
    steps = [prepare_semantic] + [prepare_panoptic] * args.panoptic
    pool = ProcessPoolExecutor(args.num_workers) if args.num_workers > 0 else None
    map_ = functools.partial(pool.map, chunksize=32) if pool else map
    try:
        for step in steps:
            for line in step(root, map_):
                print(line)
    except DatasetError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return 0
