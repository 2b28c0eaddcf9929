"""Semantic data sets as two folders: images, and label maps of the same names."""

import os
from typing import Dict, List, Optional, Sequence, Tuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...errors import MEND_PATHS, DatasetError, Tell, refuse
from ..colors import fixed_color

__all__ = [
    "files_below",
    "labels_without_image",
    "load_semantic_folders",
    "register_semantic_folders",
]

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
ARRAY_ENDING = ".npy"  # images too, in a folder without others
LABEL_ENDING = ".png"


def load_semantic_folders(
    image_root: str, label_root: Optional[str] = None, tell: Tell = refuse
) -> List[Dict]:
    """Pair images and label maps by their path below the two folders, without the ending.

    Subfolders are searched too. Label maps without an image are left out. The two folders may be
    one; images then are no PNGs.

    Args:
        image_root: images, of any of the usual kinds.
        label_root: PNGs; None or an empty folder: images alone, to predict on.
        tell: told of an image without label map, and of two of the same name; they are left out.

    Returns:
        one dict per image, in the order of their names: file_name, image_id (that path),
        sem_seg_file_name if there are label maps. Sizes are found when an image is read.

    Raises:
        DatasetError: a folder is missing or has no image.
    """
    labels = dict(files_below(label_root, (LABEL_ENDING,))) if label_root is not None else {}
    images = sorted(_images(image_root, label_root))
    if not images:
        endings = _image_endings(image_root, label_root)
        raise DatasetError(f"{image_root} has no images ({', '.join(endings)})")
    if label_root is None or (not labels and _is_empty(label_root)):
        return [{"file_name": image, "image_id": stem} for stem, image in images]
    dicts: List[Dict] = []
    for stem, image in images:
        if stem not in labels:
            tell(
                "image without label",
                f"{image} has no label map: {os.path.join(label_root, stem)}{LABEL_ENDING} does "
                "not exist",
            )
        elif dicts and dicts[-1]["image_id"] == stem:
            tell(
                "same id",
                f"{image} and {dicts[-1]['file_name']} share the label map {labels[stem]}: give "
                "them different names",
            )
        else:
            dicts.append({"file_name": image, "image_id": stem, "sem_seg_file_name": labels[stem]})
    return dicts


def labels_without_image(image_root: str, label_root: str) -> List[str]:
    """The label maps that :func:`load_semantic_folders` leaves out."""
    images = dict(_images(image_root, label_root))
    labels = files_below(label_root, (LABEL_ENDING,))
    return [path for stem, path in labels if stem not in images]


def _images(image_root: str, label_root: Optional[str]) -> List[Tuple[str, str]]:
    """See :func:`files_below`."""
    images = files_below(image_root, _image_endings(image_root, label_root))
    return images or files_below(image_root, (ARRAY_ENDING,))


def _image_endings(image_root: str, label_root: Optional[str]) -> Tuple[str, ...]:
    """In a folder of both, images are no PNGs."""
    if label_root is not None and os.path.normpath(image_root) == os.path.normpath(label_root):
        return tuple(e for e in IMAGE_ENDINGS if e != LABEL_ENDING)
    return IMAGE_ENDINGS


def files_below(root: str, endings: Sequence[str], folder: str = "") -> List[Tuple[str, str]]:
    """(path below root without ending, whole path) of the files of these endings.

    Hidden files and folders are passed over.
    """
    path = os.path.join(root, folder) if folder else root
    if not PathManager.isdir(path):
        raise DatasetError(f"the folder {path} does not exist: {MEND_PATHS}")
    found = []
    for name in sorted(PathManager.ls(path)):
        below, whole = os.path.join(folder, name), os.path.join(path, name)
        if name.startswith("."):
            continue
        if name.lower().endswith(tuple(endings)):
            found.append((os.path.splitext(below)[0], whole))
        elif PathManager.isdir(whole):
            found += files_below(root, endings, below)
    return found


def _is_empty(folder: str) -> bool:
    """Has a folder no file, nor its subfolders? Hidden ones do not count."""
    files = (name for _, _, names in os.walk(folder) for name in names)
    return all(name.startswith(".") for name in files)


def register_semantic_folders(
    name: str,
    image_root: str,
    label_root: Optional[str],
    classes: Sequence[str],
    ignore_label: int = 255,
) -> None:
    """Register a semantic data set of two folders.

    Args:
        name: for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        image_root, label_root: see :func:`load_semantic_folders`.
        classes: names; the label maps have the position of a pixel's class.
        ignore_label: in the label maps, of pixels without class.
    """
    DatasetCatalog.register(name, lambda: load_semantic_folders(image_root, label_root))
    MetadataCatalog.get(name).set(
        image_root=image_root,
        sem_seg_root=label_root,
        evaluator_type="sem_seg",
        ignore_label=ignore_label,
        stuff_classes=list(classes),
        stuff_colors=[list(fixed_color(i)) for i in range(len(classes))],
    )
