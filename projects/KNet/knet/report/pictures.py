"""Pictures of a report, as data URIs: image, truth, prediction and errors; examples of failures.

Shape shorthand: H x W an image's size, h x w that of a picture, in pixels.
"""

import base64
import io
import os
from typing import Dict, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image

from ..visualization.colors import class_colors, colors_of_found, object_colors
from ..visualization.segmentation import Segmentation
from ..visualization.segmentation_panel import draw_segmentation
from .analysis import Analysis, ImageQuality, ShownFailure
from .segment_pairs import SegmentPairs

__all__ = ["ERRORS", "Example", "Panel", "Panels", "draw_examples", "draw_images", "error_map"]

JPEG_QUALITY = 84
MASK_OPACITY = 0.65
LEAST_NAMED = 0.002  # of the image that a segment must have for its name to be written
MIN_LONG_SIDE = 480  # of a panel; smaller images are enlarged
EXAMPLE_HEIGHT, MAX_EXAMPLE_WIDTH = 200, 300  # of each of an example's two halves
CONTEXT, LEAST_CONTEXT = 0.35, 16  # around an example: of its side, and in pixels
GAP = 6

# What a pixel may be -> its colour (RGB), and what it means; a pixel of no kind stays grey
ERRORS: Dict[str, Tuple[Tuple[int, int, int], str]] = {
    "right": ((72, 160, 120), "right"),
    "missing": ((52, 120, 220), "nothing predicted, though something is there"),
    "extra": ((236, 170, 40), "something predicted, though nothing is there"),
    "class": ((214, 69, 80), "another class predicted"),
    "segment": ((150, 100, 200), "right class, but its segment was not found by this prediction"),
}
# Segments of an example: the failed one, and others
_EXAMPLE_COLORS = ((1.0, 0.70, 0.0), (0.24, 0.86, 0.85), (1.0, 0.49, 0.71), (0.75, 0.6, 1.0))


class Panel(NamedTuple):
    """One picture of an image.

    Attributes:
        caption: what it shows.
        picture: data URI.
        names: what to write where: x and y (0..1 of the picture), and the text; large segments
            first.
    """

    caption: str
    picture: str
    names: List[Tuple[float, float, str]]


class Panels(NamedTuple):
    """One image of the gallery.

    Attributes:
        name: of its file.
        quality: 0..1.
        panels: image, truth, prediction, errors.
    """

    name: str
    quality: float
    panels: List[Panel]


class Example(NamedTuple):
    """One example of a failure.

    Attributes:
        name: of the image's file.
        picture: data URI, truth beside prediction.
        words: what was true and what predicted.
    """

    name: str
    picture: str
    words: str


def draw_images(analysis: Analysis, images: Sequence[ImageQuality], side: int) -> List[Panels]:
    """
    Args:
        analysis: of the run.
        images: to draw.
        side: longest side of a panel, in pixels.
    """
    run = analysis.run
    results = run.results(run.kind)
    return [_draw_image(analysis, results, image, side) for image in images]


def _draw_image(analysis: Analysis, results, image: ImageQuality, side: int) -> Panels:
    run, metadata = analysis.run, analysis.run.metadata
    pixels, pairs = run.image(run.dicts[image.index]), analysis.pairs(results, image.index)
    size = _panel_size(pixels.shape[:2], side)
    errors = error_map(pairs, run.kind)
    pixels = _resized(pixels, size)
    grey = _grey(pixels)
    if run.kind == "semantic":
        colors = class_colors(pairs.truth, metadata), class_colors(pairs.prediction, metadata)
    else:
        of_truth = object_colors(pairs.truth, metadata)
        colors = of_truth, colors_of_found(pairs.truth, of_truth, pairs.prediction, metadata)
    panels = [Panel("image", _uri(pixels), [])]
    for caption, segmentation, own in zip(
        ("truth", "prediction"), (pairs.truth, pairs.prediction), colors
    ):
        drawn = draw_segmentation(
            grey, segmentation.resized(size), metadata, own, opacity=MASK_OPACITY, labels=False
        )
        panels.append(Panel(caption, _uri(drawn), _names(analysis, segmentation)))
    panels.append(Panel("errors", _uri(_draw_errors(grey, errors)), []))
    name = os.path.basename(run.dicts[image.index]["file_name"])
    return Panels(name, image.quality, panels)


def _names(analysis: Analysis, segmentation: Segmentation) -> List[Tuple[float, float, str]]:
    """The names of segments that are large enough, each where its mask is widest."""
    height, width = segmentation.size
    areas, names = segmentation.areas(), []
    for i in np.argsort(-areas, kind="stable"):
        if areas[i] < LEAST_NAMED * height * width:
            break
        padded = np.pad(segmentation.masks[i], 1).astype(np.uint8)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        top, left = segmentation.boxes[i, :2]
        place = round((left + x - 0.5) / width, 3), round((top + y - 0.5) / height, 3)
        names.append((*map(float, place), _name(analysis, segmentation.segments[i])))
    return names


def error_map(pairs: SegmentPairs, kind: str) -> np.ndarray:
    """(H, W) position in ``ERRORS`` of each pixel, -1 where there is nothing to tell.

    Panoptic and semantic truth without a class, and crowd, tell nothing.
    """
    names = list(ERRORS)
    true, predicted = _class_maps(pairs)
    result = np.full(true.shape, -1)
    both = (true >= 0) & (predicted >= 0)
    result[(true >= 0) & (predicted < 0)] = names.index("missing")
    if kind == "instance":
        result[(true < 0) & (predicted >= 0)] = names.index("extra")
    result[both & (true != predicted)] = names.index("class")
    same = both & (true == predicted)
    result[same] = names.index("right" if kind == "semantic" else "segment")
    for i in np.flatnonzero(pairs.found):
        inside = _whole(pairs.truth, i) & _whole(pairs.prediction, pairs.match[i])
        result[inside] = names.index("right")
    result[_union(pairs.truth, pairs.is_crowd)] = -1
    return result


def _class_maps(pairs: SegmentPairs) -> Tuple[np.ndarray, np.ndarray]:
    """(H, W) contiguous class of each pixel, -1 for none; the best scored are on top."""
    true = pairs.truth.paint((s["category_id"] for s in pairs.truth.segments), -1)
    on_top = pairs.prediction.take(range(len(pairs.prediction.masks))[::-1])
    return true, on_top.paint((s["category_id"] for s in on_top.segments), -1)


def _whole(segmentation: Segmentation, i: int) -> np.ndarray:
    """(H, W) bool of a segment."""
    return _union(segmentation, np.arange(len(segmentation.masks)) == i)


def _union(segmentation: Segmentation, chosen: np.ndarray) -> np.ndarray:
    """(H, W) bool of all chosen (S,) segments."""
    canvas = np.zeros(segmentation.size, dtype=bool)
    for i in np.flatnonzero(chosen):
        top, left, bottom, right = segmentation.boxes[i]
        canvas[top:bottom, left:right] |= segmentation.masks[i]
    return canvas


def _draw_errors(grey: np.ndarray, errors: np.ndarray) -> np.ndarray:
    height, width = grey.shape[:2]
    errors = cv2.resize(
        errors.astype(np.int16), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    picture = grey.astype(np.float32)
    for i, (color, _) in enumerate(ERRORS.values()):
        share = 0.25 if i == 0 else 0.8  # what is right stays in the background
        picture[errors == i] += share * (np.array(color) - picture[errors == i])
    return picture.astype(np.uint8)


# --------------------------------------------------------------------------------------- failures


def draw_examples(analysis: Analysis, limit: int) -> Dict[str, List[Example]]:
    """By kind of failure, so many of each at most."""
    results, known = analysis.run.results(analysis.run.kind), {}
    drawn: Dict[str, List[Example]] = {}
    for kind, examples in analysis.examples.items():
        drawn[kind] = []
        for shown in examples[:limit]:
            if shown.index not in known:
                known[shown.index] = analysis.pairs(results, shown.index)
            drawn[kind].append(_draw_example(analysis, known[shown.index], shown))
    return drawn


def _draw_example(analysis: Analysis, pairs: SegmentPairs, shown: ShownFailure) -> Example:
    record = analysis.run.dicts[shown.index]
    _, true_rows, predicted_rows = shown.failure
    parts = (pairs.truth.take(true_rows), pairs.prediction.take(predicted_rows))
    top, left, bottom, right = _area_around(*parts)
    grey = _grey(analysis.run.image(record))[top:bottom, left:right]
    height, width = bottom - top, right - left
    scale = min(EXAMPLE_HEIGHT / height, MAX_EXAMPLE_WIDTH / width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    halves = []
    for part in parts:
        cut = Segmentation.from_masks(
            [_whole(part, i)[top:bottom, left:right] for i in range(len(part.masks))],
            part.segments,
            (height, width),
        )
        colors = [_EXAMPLE_COLORS[min(i, 3)] for i in range(len(part.masks))]
        canvas = _resized(grey, size)
        halves += [
            draw_segmentation(canvas, cut.resized(size), None, colors, opacity=0.5, labels=False),
            np.full((size[0], GAP, 3), 255, np.uint8),
        ]
    picture = np.concatenate(halves[:-1], axis=1)
    name = os.path.basename(record["file_name"])
    return Example(name, _uri(picture), _words(analysis, pairs, shown))


def _words(analysis: Analysis, pairs: SegmentPairs, shown: ShownFailure) -> str:
    """What is true and what is predicted, in words."""
    _, true_rows, predicted_rows = shown.failure
    true = [_name(analysis, pairs.truth.segments[i]) for i in true_rows[:3]]
    predicted = [_name(analysis, pairs.prediction.segments[j]) for j in predicted_rows[:3]]
    words = f"truth {' + '.join(true) or 'nothing'}, predicted {' + '.join(predicted) or 'nothing'}"
    if true_rows and predicted_rows:
        words += f", IoU {pairs.iou[true_rows[0], predicted_rows[0]]:.2f}"
    return words


def _name(analysis: Analysis, segment: Dict) -> str:
    """Of its class, with the score if it has one."""
    name = analysis.name_of[segment["category_id"]]
    if segment.get("iscrowd", 0):
        return f"{name} (crowd)"
    return f"{name} {segment['score']:.2f}" if "score" in segment else name


def _area_around(*parts: Segmentation) -> Tuple[int, int, int, int]:
    """Top, left, bottom, right around segments, with some of what surrounds them."""
    boxes = np.concatenate([part.boxes for part in parts])
    boxes = boxes[(boxes[:, 2] > boxes[:, 0])]
    size = np.array(parts[0].size)
    if not len(boxes):  # segments without a pixel
        return (0, 0, *parts[0].size)
    first, last = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    margin = max(LEAST_CONTEXT, round(CONTEXT * float((last - first).max())))
    first, last = np.maximum(first - margin, 0), np.minimum(last + margin, size)
    return (*first.tolist(), *last.tolist())


# --------------------------------------------------------------------------------------- drawing


def _panel_size(size: Tuple[int, int], side: int) -> Tuple[int, int]:
    """(height, width) of a panel for an image of this (height, width)."""
    scale = min(max(1.0, MIN_LONG_SIDE / max(size)), side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(pixels: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    smooth = cv2.INTER_CUBIC if size[0] > pixels.shape[0] else cv2.INTER_AREA
    return cv2.resize(pixels, size[::-1], interpolation=smooth)


def _grey(pixels: np.ndarray) -> np.ndarray:
    grey = pixels.mean(axis=2, keepdims=True)
    return np.repeat(grey, 3, axis=2).astype(np.uint8)


def _uri(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
