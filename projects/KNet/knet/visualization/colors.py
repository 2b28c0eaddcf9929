"""Colours of classes and of objects: a class is known by its colour, neighbours are told apart.

The objects of a class share a family of colours around that of the class. Where a picture has one
class of things the family is the whole circle of hues; the more classes, the narrower it is. Each
object takes the member of the family that is most unlike what it has to be told from.

Shape shorthand: S segments of one image. Colours are RGB, 0..1.
"""

import colorsys
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from detectron2.utils.colormap import colormap

from ..data.colors import metadata_colors
from .segmentation import Segmentation

__all__ = ["Color", "class_colors", "colors_of_found", "lighter", "object_colors"]

Color = Tuple[float, float, float]

MATCH_IOU = 0.5  # above it a prediction counts as found, as in panoptic quality
NEAR = 0.02  # of the image's diagonal: objects with a gap below it are neighbours
# How unlike (distance in CIELAB, 0 to about 250) is unlike enough
TO_NEIGHBOURS, TO_OTHER_CLASSES, TO_OTHERS = 60.0, 35.0, 25.0
# Turns of the hue, in degrees: all around for one class; shared among several, but never none
ALL_TURNS = (0, 180, 90, -90, 45, -135, -45, 135)
SHARED_TURN, LEAST_TURN = 100.0, 20.0
LIGHTNESS = (0.5, 0.7, 0.33)
LEAST_SATURATION = 0.5


def class_colors(segmentation: Segmentation, metadata) -> List[Color]:
    """The colour of each segment's class: the metadata's, or one of Detectron2's palette."""
    palettes = [metadata_colors(metadata, f"{kind}_colors") for kind in ("stuff", "thing")]
    spare = colormap(rgb=True, maximum=255)
    colors = []
    for segment in segmentation.segments:
        palette, category = palettes[bool(segment["isthing"])], segment["category_id"]
        if category >= len(palette):  # Detectron2 does not ask for them
            palette = spare
        colors.append(tuple(float(c) / 255 for c in palette[category % len(palette)]))
    return colors


def object_colors(
    segmentation: Segmentation,
    metadata,
    known: Optional[Dict[int, Color]] = None,
    taken: Sequence[Color] = (),
) -> List[Color]:
    """A colour for each segment: stuff has that of its class, things one of their own.

    Args:
        segmentation: S segments.
        metadata: the data set's, with the classes' colours.
        known: {index of a segment: the colour that it has already}.
        taken: colours that others should not get where it can be avoided.
    """
    segments, known = segmentation.segments, known or {}
    colors = class_colors(segmentation, metadata)
    things = [i for i, segment in enumerate(segments) if segment["isthing"]]
    of_class = {(s["isthing"], s["category_id"]): c for s, c in zip(segments, colors)}
    families = {
        key: _family(color, sum(isthing for isthing, _ in of_class))
        for key, color in of_class.items()
        if key[0]
    }
    for i, color in known.items():
        colors[i] = color
    near = _neighbours(segmentation)
    done = np.array([not segment["isthing"] for segment in segments], dtype=bool)
    done[list(known)] = True
    lab = _to_lab(colors)
    taken_lab = _to_lab(taken)
    for i in things:
        if done[i]:
            continue
        key = (True, segments[i]["category_id"])
        family = families[key]
        others = [color for other, color in of_class.items() if other != key]
        groups = (
            (lab[done & near[i]], TO_NEIGHBOURS),
            (_to_lab(others), TO_OTHER_CLASSES),
            (np.concatenate((lab[done], taken_lab)), TO_OTHERS),
        )
        family_lab = _to_lab(family)
        scores = sum(_distance(family_lab, group, enough) for group, enough in groups)
        best = int(scores.argmax())  # of equals the first, which is closest to the class
        colors[i], lab[i], done[i] = family[best], family_lab[best], True
    return colors


def colors_of_found(
    truth: Segmentation, true_colors: Sequence[Color], prediction: Segmentation, metadata
) -> List[Color]:
    """Colours of a prediction: a thing that was found has the colour of the true one.

    What was found wrongly has, where it can be, a colour that nothing true has.
    """
    iou = truth.iou(prediction)
    true_class, found_class = (
        np.array([s["category_id"] for s in each.segments], dtype=int)
        for each in (truth, prediction)
    )
    # where nothing overlaps, two IoUs above a half exclude that a segment is found twice
    found = (iou > MATCH_IOU) & (true_class[:, None] == found_class)
    known = {j: true_colors[i] for i, j in np.argwhere(found)}
    return object_colors(prediction, metadata, known, taken=true_colors)


def lighter(color: Color, share: float = 0.35) -> Color:
    """The colour mixed with white: of outlines and names."""
    return tuple(c + share * (1 - c) for c in color)


def _family(color: Color, num_classes: int) -> List[Color]:
    """The colours of the objects of a class, the class's own first.

    Of one class among several those that are most like it come next.
    """
    hue, _, saturation = colorsys.rgb_to_hls(*color)
    turns = ALL_TURNS
    if num_classes > 1:
        turn = max(SHARED_TURN / num_classes, LEAST_TURN)
        turns = (0, turn, -turn, turn / 2, -turn / 2)
    saturation = max(saturation, LEAST_SATURATION)
    members = [
        colorsys.hls_to_rgb((hue + turn / 360) % 1, lightness, saturation)
        for lightness in LIGHTNESS
        for turn in turns
    ]
    if num_classes > 1:
        unlike = np.linalg.norm(_to_lab(members) - _to_lab([color]), axis=1)
        members = [members[i] for i in np.argsort(unlike, kind="stable")]
    return [color, *members]


def _neighbours(segmentation: Segmentation) -> np.ndarray:
    """(S, S) bool: boxes that touch, or nearly."""
    boxes = segmentation.boxes
    gap = NEAR * np.hypot(*segmentation.size)
    first = np.maximum(boxes[:, None, :2], boxes[:, :2])
    last = np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    return (first <= last + gap).all(axis=-1)


def _to_lab(colors: Sequence[Color]) -> np.ndarray:
    """(S, 3) CIELAB, where distances are as large as they look."""
    rgb = np.array(colors, dtype=np.float32).reshape(-1, 1, 3)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[:, 0] if len(rgb) else rgb[:, 0]


def _distance(family: np.ndarray, others: np.ndarray, enough: float) -> np.ndarray:
    """(members,) distance of each member of a family to the most similar of the others."""
    if len(others) == 0:
        return np.full(len(family), enough)
    difference = np.linalg.norm(family[:, None] - others, axis=-1)
    return difference.min(axis=1).clip(max=enough)
