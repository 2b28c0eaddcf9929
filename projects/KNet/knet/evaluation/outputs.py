"""What an evaluation writes, and where; nothing of it is written over the data."""

import contextlib
import itertools
import os
from typing import Dict, Iterable, Iterator, List, Sequence

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..data.training_images import load_dicts
from ..errors import DatasetError, UsageError
from ..files import distinct_names, file_name_of, refuse_overwriting, relative_name

__all__ = [
    "GROUND_TRUTH",
    "IMAGE_INFO",
    "PREDICTIONS",
    "data_files",
    "files_elsewhere",
    "has_json_file",
    "inference_folder",
    "png_names",
    "protect",
]

PREDICTIONS = "predictions"  # the folder of the panoptic PNGs
# of data that have no COCO json of their own: objects; without ground truth the images alone
GROUND_TRUTH, IMAGE_INFO = "instances_ground_truth.json", "image_info.json"

_FILES = {
    "PANOPTIC": ("predictions.json", "panoptic_quality.json"),
    "INSTANCE": ("coco_instances_results.json", "instances_predictions.pth"),
    "SEMANTIC": ("sem_seg_predictions.json", "sem_seg_evaluation.pth"),
}
_INPUTS = ("file_name", "pan_seg_file_name", "sem_seg_file_name")
_JSON_INPUTS = ("panoptic_json", "json_file")
_ROOTS = ("image_root", "panoptic_root", "sem_seg_root", "image_dir", "gt_dir")  # in metadata


def inference_folder(output_dir: str, dataset_name: str) -> str:
    """``OUTPUT_DIR/inference/<data set>``, where an evaluation writes.

    A name that is no file's name (it has a "/", say) is changed into one.
    """
    return os.path.join(output_dir, "inference", file_name_of(dataset_name))


def png_names(dicts: Sequence[Dict], metadata) -> List[str]:
    """The panoptic PNG's path below ``PREDICTIONS`` for each image of a data set.

    Named as the PNG of the ground truth, or as the image where there is none.
    """
    stems = [
        relative_name(d["pan_seg_file_name"], metadata.get("panoptic_root"))
        if "pan_seg_file_name" in d
        else relative_name(d["file_name"], metadata.get("image_root"))
        for d in dicts
    ]
    return distinct_names(stems, ".png")


def protect(
    folder: str, kinds: Sequence[str], dicts: Sequence[Dict], metadata, others: Iterable[str] = ()
) -> None:
    """Demand that an evaluation writes over nothing that is read.

    Args:
        folder: that it writes into.
        kinds: of results, "PANOPTIC", "INSTANCE" or "SEMANTIC".
        dicts, metadata: of the data set.
        others: files of other data sets, see :func:`files_elsewhere`.

    Raises:
        UsageError: see :func:`knet.files.refuse_overwriting`.
    """
    # both are asked for only where there is something to write over
    outputs = _outputs(kinds, dicts, metadata)
    inputs = itertools.chain(data_files(dicts, metadata), others)
    refuse_overwriting(folder, outputs, inputs, change="OUTPUT_DIR")


def _outputs(kinds: Sequence[str], dicts: Sequence[Dict], metadata) -> Iterator[str]:
    """The paths below its folder of what an evaluation writes."""
    yield from (name for kind in kinds for name in _FILES[kind])
    if "INSTANCE" in kinds and not has_json_file(metadata):
        yield from (GROUND_TRUTH, IMAGE_INFO)
    if "PANOPTIC" in kinds:
        yield from (os.path.join(PREDICTIONS, name) for name in png_names(dicts, metadata))


def has_json_file(metadata) -> bool:
    """Is there a COCO instances json?"""
    json_file = metadata.get("json_file")
    return bool(json_file) and PathManager.exists(json_file)


def data_files(dicts: Iterable[Dict], metadata) -> Iterator[str]:
    """Every file that a data set is read from."""
    yield from (metadata.get(key) for key in _JSON_INPUTS if metadata.get(key))
    yield from (d[key] for d in dicts for key in _INPUTS if d.get(key))


def files_elsewhere(dataset_name: str, folder: str) -> Iterator[str]:
    """The files of another data set that may be in a folder.

    It is loaded, which may take long, only if its own folders do not rule that out. Where it cannot
    be loaded, somebody else tells it.
    """
    metadata = MetadataCatalog.get(dataset_name)
    yield from data_files((), metadata)
    folder, roots = os.path.realpath(folder), [metadata.get(key) for key in _ROOTS]
    roots = [os.path.realpath(root) for root in roots if root is not None]
    for root in roots:
        if _is_within(root, folder):
            for parent, _, names in os.walk(root):
                yield from (os.path.join(parent, name) for name in names)
    if not roots or any(_is_within(folder, root) for root in roots):
        with contextlib.suppress(DatasetError, UsageError):
            yield from data_files(load_dicts(dataset_name), metadata)


def _is_within(path: str, folder: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(folder, ""))
