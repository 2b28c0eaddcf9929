"""The summary of the training data in the log, and what of it is wrong."""

import itertools
import logging
from typing import Dict, List, Sequence

from tabulate import tabulate

from ..errors import DatasetError
from .class_layout import resolve_model_classes, resolve_semantic_classes
from .classes import ModelClass
from .objects import CROWD, NARROW
from .summary import ObjectCounts, PixelCounts, count_objects, count_pixels

__all__ = ["tell_what_is_learned_from"]

logger = logging.getLogger(__name__)

_LONG = 12  # classes: more go into a table of several columns
_COLUMNS = 3
_NAMES = 10  # in a warning


def tell_what_is_learned_from(cfg, dicts: Sequence[Dict]) -> None:
    """Log images, objects and classes of a training; warn of what it cannot learn.

    Args:
        cfg: the config.
        dicts: the images trained on.

    Raises:
        DatasetError: there is nothing to learn from, or an annotation or a label map cannot be
            used.
    """
    classes = resolve_model_classes(cfg)
    if not classes:  # a model of somebody's own, on data that name none
        return
    if cfg.MODEL.MASK_ON:
        _tell_of_objects(cfg, count_objects(dicts, [c.id for c in classes]), classes)
        return
    ignore_label = resolve_semantic_classes(cfg).ignore_label
    if len(classes) == 1:
        logger.warning(
            "The model has one class, '%s': with nothing to choose between, its loss is 0 from the "
            "start and every pixel becomes that class; add a class for the background",
            classes[0].name,
        )
    maps = [d for d in dicts if "sem_seg_file_name" in d]
    if maps:
        _tell_of_pixels(count_pixels(maps, len(classes), ignore_label), classes, ignore_label)
    if len(maps) < len(dicts):
        others = [d for d in dicts if "sem_seg_file_name" not in d]
        _tell_of_segments(count_objects(others, [c.id for c in classes]), classes)


# ------------------------------------------------------------------------------- things and stuff


def _tell_of_objects(cfg, counts: ObjectCounts, classes: Sequence[ModelClass]) -> None:
    logger.info(
        "Learning from %d images with %d of %d objects, %g an image (median), %d at most; in use:"
        "\n%s",
        counts.images,
        counts.used,
        counts.there,
        counts.median(),
        max(counts.an_image),
        _table(counts.of_class, counts.images_of_class, classes, "objects"),
    )
    _tell_of_objects_left_out(counts)
    if not counts.used:
        _nothing_to_learn(cfg, counts, classes)
        return
    _warn_of_absent(classes, counts.of_class, f"the {counts.images} training images")
    if cfg.MODEL.META_ARCHITECTURE == "KNet":
        _warn_of_few_kernels(counts, cfg.MODEL.KNET.NUM_KERNELS)


def _tell_of_objects_left_out(counts: ObjectCounts) -> None:
    for reason, (number, first) in counts.left_out.items():
        level = logging.INFO if reason in (CROWD, NARROW) else logging.WARNING
        logger.log(
            level,
            "%d of %d objects are left out, being %s; the first is in %s",
            number,
            counts.there,
            reason,
            first,
        )


def _nothing_to_learn(cfg, counts: ObjectCounts, classes: Sequence[ModelClass]) -> None:
    """
    Raises:
        DatasetError: the model learns from objects alone.
    """
    why = "; ".join(
        f"{number} of {counts.there} are {reason}, the first in {first}"
        for reason, (number, first) in counts.left_out.items()
    )
    told = (
        f"no object in the {counts.images} images of DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} "
        f"can be learned from ({why or 'there is none'})"
    )
    if any(not each.isthing for each in classes):
        logger.warning("%s: only stuff is learned; look at the annotations", told)
        return
    raise DatasetError(f"{told}: mend the annotations")


def _warn_of_few_kernels(counts: ObjectCounts, num_kernels: int) -> None:
    above = counts.above(num_kernels)
    if above:
        logger.warning(
            "%d of %d images have more objects than the model has kernels (the most, %d, in %s): "
            "objects beyond %d are not found; set MODEL.KNET.NUM_KERNELS to %d or more",
            above,
            counts.images,
            max(counts.an_image),
            counts.most,
            num_kernels,
            max(counts.an_image),
        )


# ---------------------------------------------------------------------------------- every pixel


def _tell_of_segments(counts: ObjectCounts, classes: Sequence[ModelClass]) -> None:
    logger.info(
        "Learning from %d images with segments:\n%s",
        counts.images,
        _table(counts.of_class, counts.images_of_class, classes, "segments"),
    )
    if not counts.of_class:
        raise DatasetError(
            f"none of the {counts.images} training images has a segment that is no crowd: look at "
            "the annotations"
        )
    _warn_of_absent(classes, counts.of_class, f"the {counts.images} training images")


def _tell_of_pixels(counts: PixelCounts, classes: Sequence[ModelClass], ignore_label: int) -> None:
    where = f"{counts.images} images"
    if counts.read < counts.images:
        where = f"{counts.read} of {counts.images} images, evenly spread, that were looked at"
    ignored = 100 * counts.ignored / max(counts.pixels, 1)
    share = {i: 100 * number / max(counts.pixels, 1) for i, number in counts.of_class.items()}
    logger.info(
        "Learning from %d images; %.1f %% of the pixels have the label %d and no class; in the %s:"
        "\n%s",
        counts.images,
        ignored,
        ignore_label,
        where,
        _table(share, counts.images_of_class, classes, "% of pixels"),
    )
    if not counts.of_class:
        told = (
            f"every pixel of the label maps of {where} has the label {ignore_label}, which is "
            "ignored"
        )
        if counts.read == counts.images:
            raise DatasetError(
                f"{told}: nothing is left to learn from; mend the label maps, or set "
                "MODEL.SEM_SEG_HEAD.IGNORE_VALUE and the data set's IGNORE_LABEL to another number"
            )
        logger.warning("%s: look at the label maps", told)
        return
    cause = ""
    if counts.ignored:
        cause = f"; {ignored:.1f} % of the pixels have the label {ignore_label} and are ignored"
    _warn_of_absent(classes, counts.of_class, f"the label maps of {where}", cause)


# ------------------------------------------------------------------------------------------ both


def _warn_of_absent(
    classes: Sequence[ModelClass], present: Dict, where: str, cause: str = ""
) -> None:
    absent = [each.name for each in classes if not present.get(each.id)]
    if absent:
        names = ", ".join(f"'{name}'" for name in absent[:_NAMES])
        more = f" and {len(absent) - _NAMES} more" if len(absent) > _NAMES else ""
        logger.warning(
            "%d of %d classes do not occur in %s and cannot be learned: %s%s%s",
            len(absent),
            len(classes),
            where,
            names,
            more,
            cause,
        )


def _table(numbers: Dict, images: Dict, classes: Sequence[ModelClass], what: str) -> str:
    rows: List[List] = [
        [each.name, _short(numbers.get(each.id, 0)), images.get(each.id, 0)] for each in classes
    ]
    columns = 1 if len(rows) <= _LONG else _COLUMNS
    height = -(-len(rows) // columns)
    lines = [list(itertools.chain(*rows[k::height])) for k in range(height)]
    return tabulate(
        lines, headers=["class", what, "images"] * columns, tablefmt="pipe", disable_numparse=True
    )


def _short(number) -> str:
    return f"{number:.2f}" if isinstance(number, float) else str(number)
