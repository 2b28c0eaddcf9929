"""ADE20K as Detectron2 registers it: the label maps that it wants are looked for."""

import functools
import os

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...errors import DatasetError

__all__ = ["adapt_ade20k", "check_ade20k"]

NAMES = ("ade20k_sem_seg_train", "ade20k_sem_seg_val")
PROGRAM = "knet prepare-ade20k"


def adapt_ade20k() -> None:
    """Let Detectron2's ADE20K data sets be checked before they are loaded."""
    for name in NAMES:
        MetadataCatalog.get(name).set(prepare=functools.partial(check_ade20k, name))


def check_ade20k(name: str) -> None:
    """Look whether the folders of an ADE20K data set are there.

    Args:
        name: registered as Detectron2 does, with ``image_root`` and ``sem_seg_root``.

    Raises:
        DatasetError: one is missing; the sentence says how to come by it.
    """
    metadata = MetadataCatalog.get(name)
    images, labels = (os.path.normpath(p) for p in (metadata.image_root, metadata.sem_seg_root))
    root = os.path.dirname(os.path.dirname(images))
    make = f"{PROGRAM} --root {root}"
    for path, remedy in (
        (images, f"unpack ADE20K into {root}, or mend DETECTRON2_DATASETS; then run {make}"),
        (labels, f"make it by {make}"),
    ):
        if not PathManager.isdir(path):
            raise DatasetError(f"{path} of the data set '{name}' does not exist: {remedy}")
