"""The PNGs of one image: a panoptic one against its json, a label map against the classes."""

from typing import Dict, List, Optional, Tuple

import numpy as np

from ...errors import DatasetError, Tell
from ..ground_truth import check_labels, read_label_map
from ..id_map import id_map, is_area_of
from ..image_reading import read_image
from .images import Picture, is_empty_file, read_header

__all__ = ["check_label_map", "check_panoptic_png"]

_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")


def check_panoptic_png(
    dataset_dict: Dict, picture: Optional[Picture], tell: Tell
) -> List[Tuple[int, int]]:
    """
    Args:
        dataset_dict: with ``pan_seg_file_name`` and ``segments_info``.
        picture: its image; None if that could not be read.
        tell: told of each fault.

    Returns:
        (contiguous class, pixels) of each segment that is learned from.
    """
    path = dataset_dict["pan_seg_file_name"]
    if is_empty_file(path):
        tell("empty file", path)
        return []
    try:
        png, header = read_image(path, "RGB"), read_header(path)
    except (DatasetError, OSError, SyntaxError, ValueError) as error:
        tell("unreadable", str(error))
        return []
    if header.mode not in ("RGB", "RGBA"):
        tell("palette", f"{path} (mode {header.mode})")
    if header.format not in _LOSSLESS:
        tell("label format", f"{path} is {header.format}")
        return []
    if not _has_size_of_image(png, path, dataset_dict, picture, tell):
        return []
    ids, counts = np.unique(id_map(png), return_counts=True)
    pixels = dict(zip(ids.tolist(), counts.tolist()))
    known = {segment["id"] for segment in dataset_dict["segments_info"]}
    unknown = [i for i in pixels if i and i not in known]
    if unknown:
        tell("unknown segment", f"{path} has {_listed(unknown)}")
    used = []
    for segment in dataset_dict["segments_info"]:
        found = pixels.get(segment["id"], 0)
        if not found:
            tell("lost segment", f"the segment {segment['id']} is not in {path}")
            continue
        _check_area(segment, found, path, tell)
        if not segment.get("iscrowd", 0):
            used.append((segment["category_id"], found))
    return used


def check_label_map(
    dataset_dict: Dict,
    picture: Optional[Picture],
    num_classes: int,
    ignore_label: int,
    tell: Tell,
) -> Dict[int, int]:
    """
    Args:
        dataset_dict: with ``sem_seg_file_name``.
        picture: its image; None if that could not be read.
        num_classes: of the data set.
        ignore_label: of pixels without class.
        tell: told of each fault.

    Returns:
        {label: pixels}, of all labels that there are.
    """
    path = dataset_dict["sem_seg_file_name"]
    if is_empty_file(path):
        tell("empty file", path)
        return {}
    try:
        labels, header = read_label_map(path, tell), read_header(path)
    except (DatasetError, OSError, SyntaxError, ValueError) as error:
        tell("unreadable", str(error))
        return {}
    if header.format not in _LOSSLESS:
        tell("label format", f"{path} is {header.format}")
        return {}
    if not _has_size_of_image(labels, path, dataset_dict, picture, tell) or labels.ndim != 2:
        return {}
    check_labels(labels, num_classes, ignore_label, path, tell)
    values, counts = np.unique(labels, return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist()))
    if set(pixels) == {ignore_label}:
        tell("ignored", path)
    return pixels


def _has_size_of_image(
    labels: np.ndarray, path: str, dataset_dict: Dict, picture: Optional[Picture], tell: Tell
) -> bool:
    """As large as the image, or if that could not be read, as the json says?"""
    told = tuple(dataset_dict.get(key) for key in ("height", "width"))
    size = picture.size if picture else told
    own = labels.shape[:2]
    if None in size or own == tuple(size):
        return True
    before_turn = picture is not None and own == tuple(picture.stored_size)
    sizes = f"is {own[1]} x {own[0]}, its image {size[1]} x {size[0]}"
    tell("exif size" if before_turn else "png size", f"{path} {sizes}")
    return False


def _check_area(segment: Dict, pixels: int, path: str, tell: Tell) -> None:
    area, where = segment.get("area"), f"the segment {segment['id']} of {path}"
    told = f"{where} has the area {area}, and {pixels} pixels"
    if isinstance(area, bool) or not isinstance(area, (int, float)) or not area > 0:
        if area is not None:  # it is counted in the PNG
            tell("area", told)
    elif not is_area_of(area, pixels):
        tell("segment area", told)


def _listed(ids: List[int]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"{'the id' if len(ids) == 1 else 'the ids'} {', '.join(map(str, ids[:3]))}{more}"
