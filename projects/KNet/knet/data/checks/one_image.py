"""All that is checked of one image and its ground truth, in a process of its own."""

from dataclasses import dataclass, field
from typing import Collection, Dict, List, NamedTuple, Optional, Tuple

from ...errors import Tell
from ..image_reading import ImageReader
from .images import check_image
from .label_files import check_label_map, check_panoptic_png
from .masks import check_objects

__all__ = ["Findings", "Settings", "check_one_image"]


class Settings(NamedTuple):
    """What the check of an image needs to know of its data set and of the config."""

    reader: ImageReader
    min_side: int
    num_classes: int
    ignore_label: int


@dataclass
class Findings:
    """What was found in an image.

    Attributes:
        faults: (kind, sentence).
        size: (H, W), None if it could not be read.
        digest: of its pixels.
        segments: (contiguous class, pixels) of each object and stuff segment that is learned from.
        left_out: how many objects are not.
        labels: {label: pixels} of its label map.
    """

    faults: List[Tuple[str, str]] = field(default_factory=list)
    size: Optional[Tuple[int, int]] = None
    digest: Optional[bytes] = None
    segments: List[Tuple[int, int]] = field(default_factory=list)
    left_out: int = 0
    labels: Dict[int, int] = field(default_factory=dict)

    def tell(self, kind: str, sentence: str) -> None:
        self.faults.append((kind, sentence))


def check_one_image(
    dataset_dict: Dict, settings: Settings, missing: Collection[str] = ()
) -> Findings:
    """Whatever happens, the other images are checked.

    Args:
        dataset_dict: Detectron2's, with contiguous ids.
        settings: for it.
        missing: its keys whose files do not exist, which has been told.
    """
    found = Findings()
    try:
        _check({k: v for k, v in dataset_dict.items() if k not in missing}, settings, found)
    except Exception as error:
        found.tell("unchecked", f"{dataset_dict.get('file_name')}: {error!r}")
    return found


def _check(d: Dict, settings: Settings, found: Findings) -> None:
    picture, tell = None, found.tell
    if "file_name" in d:
        picture = check_image(d, settings.reader, tell)
    if picture is not None:
        found.size, found.digest = picture.size, picture.digest
        if min(picture.size) < settings.min_side:
            tell("small image", d["file_name"])
    if "pan_seg_file_name" in d:
        found.segments = check_panoptic_png(d, picture, tell)
        found.left_out = len(d["segments_info"]) - len(found.segments)
    if "annotations" in d:
        _check_annotations(d, found, tell)
    if "sem_seg_file_name" in d:
        found.labels = check_label_map(
            d, picture, settings.num_classes, settings.ignore_label, tell
        )


def _check_annotations(d: Dict, found: Findings, tell: Tell) -> None:
    size = (d["height"], d["width"]) if {"height", "width"} <= d.keys() else found.size
    if size is None:
        return
    objects, others = check_objects(d, size, tell)
    if "segments_info" in d:  # which is what is learned from
        return
    found.segments, found.left_out = objects, others
    if not d["annotations"]:
        tell("image without object", d.get("file_name", f"image {d.get('image_id')}"))
