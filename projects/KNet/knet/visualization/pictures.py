"""Pictures of results: the image, its ground truth and the prediction side by side.

Works on what an evaluation has left in ``OUTPUT_DIR/inference/<data set>``, panoptic, instance or
semantic, so no model is needed.

Shape shorthand: H x W an image's size, h x w the size it is drawn at, in pixels.
"""

import glob
import os
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..data.image_reading import ImageReader, to_rgb
from ..data.training_images import load_dicts
from ..errors import UsageError
from ..evaluation.outputs import PREDICTIONS, data_files
from ..files import output_names, refuse_overwriting
from .captions import draw_captions
from .colors import Color, class_colors, colors_of_found, object_colors
from .results import RESULTS, find_results
from .segmentation import Segmentation
from .segmentation_panel import draw_segmentation

__all__ = ["draw_contact_sheet", "draw_predictions", "side_by_side"]

ENDINGS = (".png", ".jpg")
# Sizes in pixels of the drawing
MIN_SHORT_SIDE = 320  # smaller images are enlarged, or their labels would cover them
MAX_LONG_SIDE = 800
GAP = 8  # between panels
MASK_OPACITY = 0.7
SHEET_WIDTH = 2000
MAX_ROW_HEIGHT = 400


# ---------------------------------------------------------------------------------- whole pictures


def draw_predictions(
    predictions_folder: str,
    dataset_name: str,
    output_folder: str,
    limit: Optional[int] = None,
    kind: Optional[str] = None,
    score_threshold: float = 0.3,
    labels: bool = True,
    reader: Optional[ImageReader] = None,
    spread: bool = False,
    images: Sequence[str] = (),
    file_names: bool = True,
) -> List[str]:
    """Draw ``image | ground truth | prediction`` of each image of a data set.

    Args:
        predictions_folder: of an evaluation, see :mod:`.results`.
        dataset_name: a registered data set, the one that was evaluated.
        output_folder: gets a ``<image's name>.png`` (``.jpg`` if large) for each image, in folders
            as the images are (see :func:`knet.files.output_names`).
        limit: draw only so many, the first of the data set (see ``spread``); None draws all.
        kind: "panoptic", "instance" or "semantic"; None: the first of these that the folder holds.
        score_threshold: of the instances drawn.
        labels: whether to write the names of classes.
        reader: as the images were read in the evaluation; None: as without any key.
        spread: take ``limit`` images from all over the data set instead.
        images: draw only these, in this order; each the name of its file without folder and ending,
            or the beginning of it.
        file_names: whether to write the name of its file over an image.

    Returns:
        the files written.

    Raises:
        UsageError: the folder has no predictions, the data set is not registered or another one,
            an image is not there, or a picture would be written over what is read.
        DatasetError: a file that cannot be read, or sizes that do not fit.
    """
    kind = find_results(predictions_folder, kind)
    dicts, metadata = _load_dataset(dataset_name, kind), MetadataCatalog.get(dataset_name)
    results = RESULTS[kind](predictions_folder, metadata, score_threshold)
    dicts = [d for d in dicts if d in results and _has_truth(d, kind)]
    if not dicts:
        raise UsageError(
            f"no image of '{dataset_name}' is in {predictions_folder}/{results.FILE}: give the "
            "data set that these predictions were made on"
        )
    if images:
        dicts = [_of_name(name, dicts) for name in images]
    if spread and limit is not None and limit < len(dicts):
        dicts = [dicts[i * len(dicts) // limit] for i in range(limit)]
    names = output_names([d["file_name"] for d in dicts])[:limit]
    refuse_overwriting(
        output_folder,
        [name + ending for name in names for ending in ENDINGS],
        _inputs(dicts, metadata, results.path),
        change="folder for the pictures",
    )
    files = []
    for dataset_dict, name in zip(dicts, names):
        image = to_rgb((reader or ImageReader()).open(dataset_dict["file_name"]))
        height, width = image.shape[:2]
        dataset_dict = {**dataset_dict, "height": height, "width": width}
        pair = results.truth(dataset_dict), results.prediction(dataset_dict)
        title = _stem(dataset_dict) if file_names else "image"
        picture = _compose(image, *pair, metadata, title, kind == "semantic", labels)
        files.append(_save(picture, os.path.join(output_folder, name), image.shape))
    return files


def draw_contact_sheet(files: Sequence[str], path: str, columns: int = 2) -> None:
    """Put pictures on one sheet, its rows about equally wide, the pictures of each of one height.

    Args:
        files: pictures of :func:`draw_predictions`.
        path: file to write, .png or .jpg.
        columns: pictures a row.
    """
    margin = 2 * GAP
    rows = []
    for first in range(0, len(files), columns):
        pictures = []
        for file in files[first : first + columns]:
            with Image.open(file) as picture:
                pictures.append(picture.convert("RGB"))
        width = SHEET_WIDTH - (len(pictures) + 1) * margin
        height = min(MAX_ROW_HEIGHT, round(width / sum(p.width / p.height for p in pictures)))
        sizes = [(round(p.width * height / p.height), height) for p in pictures]
        rows.append([p.resize(size, Image.Resampling.LANCZOS) for p, size in zip(pictures, sizes)])
    sheet_height = margin + sum(row[0].height + margin for row in rows)
    sheet_width = margin + max(sum(p.width + margin for p in row) for row in rows)
    sheet = Image.new("RGB", (sheet_width, sheet_height), "white")
    top = margin
    for row in rows:
        left = margin
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + margin
        top += row[0].height + margin
    sheet.save(path, quality=90)


def _stem(dataset_dict: Dict) -> str:
    return os.path.splitext(os.path.basename(dataset_dict["file_name"]))[0]


def _of_name(name: str, dicts: Sequence[Dict]) -> Dict:
    """The dict of the image that has this name, or whose name begins with it.

    Raises:
        UsageError: there is none, or several.
    """
    found = [d for d in dicts if _stem(d) == name]
    found = found or [d for d in dicts if _stem(d).startswith(name)]
    if len(found) != 1:
        raise UsageError(
            f"{len(found)} images with predictions have the name '{name}': give the name of one "
            "file, without folder and ending"
        )
    return found[0]


def _compose(
    image: np.ndarray,
    truth: Segmentation,
    prediction: Segmentation,
    metadata,
    title: str,
    by_class: bool,
    labels: bool,
) -> np.ndarray:
    """Three panels below their captions: (h + captions, 3 w + 2 GAP, 3) uint8 RGB."""
    if by_class:
        colors = class_colors(truth, metadata), class_colors(prediction, metadata)
    else:
        of_truth = object_colors(truth, metadata)
        colors = of_truth, colors_of_found(truth, of_truth, prediction, metadata)
    captions = (title, "ground truth", "prediction")
    return side_by_side(image, (truth, prediction), colors, captions, metadata, labels)


def side_by_side(
    image: np.ndarray,
    segmentations: Sequence[Segmentation],
    colors: Sequence[Sequence[Color]],
    captions: Sequence[str],
    metadata,
    labels: bool = True,
) -> np.ndarray:
    """The image, and each of P segmentations over it in grey, below their captions.

    Args:
        image: (H, W, 3) uint8 RGB.
        segmentations: P of the same size.
        colors: for each the colours of its segments.
        captions: P + 1.
        metadata: the data set's, with the names of classes.
        labels: whether to write them.

    Returns:
        (h + captions, (P + 1) w + P GAP, 3) uint8 RGB.
    """
    size = _drawing_size(image.shape[:2])
    smooth = cv2.INTER_CUBIC if size[0] > image.shape[0] else cv2.INTER_AREA
    image = cv2.resize(image, size[::-1], interpolation=smooth)
    # over the image in grey, so that void is what has no colour
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    panels = [image] + [
        draw_segmentation(
            grey, each.resized(size), metadata, own, opacity=MASK_OPACITY, labels=labels
        )
        for each, own in zip(segmentations, colors)
    ]
    strips = draw_captions(captions, size[1])
    gap = np.full((len(strips[0]) + size[0], GAP, 3), 255, np.uint8)
    columns = []
    for caption, panel in zip(strips, panels):
        columns += [gap, np.concatenate((caption, panel))]
    return np.concatenate(columns[1:], axis=1)


def _drawing_size(size: Tuple[int, int]) -> Tuple[int, int]:
    """(height, width) to draw an image of this (height, width) at."""
    scale = max(1.0, MIN_SHORT_SIDE / min(size))
    scale = min(scale, MAX_LONG_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _save(picture: np.ndarray, stem: str, image_shape: Tuple[int, ...]) -> str:
    """As PNG, or as JPEG where that of a photograph would be megabytes; returns the file."""
    png, jpg = ENDINGS
    file, options = (
        (stem + png, {}) if min(image_shape[:2]) < MIN_SHORT_SIDE else (stem + jpg, {"quality": 90})
    )
    os.makedirs(os.path.dirname(file), exist_ok=True)
    Image.fromarray(picture).save(file, **options)
    return file


def _inputs(dicts: Sequence[Dict], metadata, results_json: str) -> Iterator[str]:
    """Every file that the pictures are made from."""
    yield from data_files(dicts, metadata)
    yield results_json
    pngs = os.path.join(os.path.dirname(results_json), PREDICTIONS)
    yield from glob.iglob(os.path.join(glob.escape(pngs), "**", "*.png"), recursive=True)


def _load_dataset(name: str, kind: str) -> List[Dict]:
    """The dicts of a data set that has ground truth of a kind.

    Raises:
        UsageError: it is not registered, or has none.
        DatasetError: it cannot be loaded.
    """
    if name not in DatasetCatalog.list():
        raise UsageError(
            f"the data set '{name}' is not registered: correct its name, or describe it in "
            "DATASETS.CUSTOM"
        )
    dicts = load_dicts(name)
    if dicts and not any(_has_truth(d, kind) for d in dicts):
        raise UsageError(
            f"the data set '{name}' has no {kind} truth, but the predictions are {kind}: give the "
            "data set that they were made on"
        )
    return dicts


def _has_truth(dataset_dict: Dict, kind: str) -> bool:
    return any(key in dataset_dict for key in RESULTS[kind].TRUTH_KEYS)
