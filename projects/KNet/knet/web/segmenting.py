"""One picture of a visitor -> what the model finds in it, small enough to be kept for the visit."""

import io
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
from PIL import Image

from ..data.image_reading import ImageReader, ImageSource
from ..errors import DatasetError, UsageError
from ..predictor import Predictor
from ..results.coco import instance_annotations, label_map
from ..results.kinds import KINDS, choose_results
from ..results.predictions import predict_alone
from ..visualization.segmentation import Segmentation, read_result

__all__ = ["Found", "Segmenter", "Settings"]


@dataclass(frozen=True)
class Settings:
    """What the model is asked for.

    Attributes:
        kind: "panoptic", "instance" or "semantic".
        score_threshold: things below it (0..1) are left out.
        overlap_threshold: of panoptic results, see
            :func:`knet.modeling.inference.merge_panoptic`.
    """

    kind: str
    score_threshold: float
    overlap_threshold: float

    def changes_result(self, other: "Settings") -> bool:
        """Whether the model has to run again: instances are only filtered by their score."""
        if self.kind == "panoptic":
            return self != other
        return self.kind != other.kind


@dataclass(frozen=True)
class Found:
    """The result for one picture.

    Attributes:
        name: the picture's file name.
        source: of the predictor, to run the model again.
        original_size: its height and width before it was shrunk.
        image: (H, W, 3) uint8 RGB, as the model saw it.
        segmentation: all segments, below the threshold too.
        settings: that the model had.
        seconds: that it took.
        content: for files: of "panoptic" the result itself; of "instance" {"annotations"} of
            COCO; of "semantic" {"labels"}, the map (H, W) of the data set's ids.
    """

    name: str
    source: ImageSource
    original_size: Tuple[int, int]
    image: np.ndarray
    segmentation: Segmentation
    settings: Settings
    seconds: float
    content: Dict


class Segmenter:
    """A predictor for several visitors, one at a time.

    Attributes:
        predictor: results are made as it makes them.
        kinds: of results that the model makes, the usual one first.
        names: of the classes, by contiguous id.
        defaults: settings to start with.
        has_thresholds: whether the model takes those of the settings.
    """

    def __init__(self, predictor: Predictor, max_side: int = 1600, max_pixels: int = 50_000_000):
        """
        Args:
            predictor: its model's choice of results is changed with each call.
            max_side: pixels; larger pictures are shrunk, since results take 1 kB a pixel.
            max_pixels: larger pictures are refused before they are decoded.
        """
        self.predictor = predictor
        self.names = {each.id: each.name for each in predictor.classes}
        self.max_side, self.max_pixels = max_side, max_pixels
        self._reader = ImageReader.from_config(predictor.cfg)
        self._switches = getattr(predictor.model, "postprocessor", None)
        self.has_thresholds = self._switches is not None
        self._lock = threading.Lock()
        if self._switches is None:
            self.kinds = (choose_results(predictor.model),)
        else:
            on = tuple(kind for kind in KINDS if getattr(self._switches, f"{kind}_on"))
            if not on:
                raise UsageError("all of MODEL.KNET.TEST.*_ON are False: switch one of them on")
            self.kinds = on
        test = predictor.cfg.MODEL.KNET.TEST
        self.defaults = Settings(self.kinds[0], test.SCORE_THRESHOLD, test.OVERLAP_THRESHOLD)

    def read(self, path: str) -> Tuple[ImageSource, Tuple[int, int]]:
        """A visitor's file, made as small as the limits ask.

        Returns:
            a source for :meth:`segment`, and its height and width before it was shrunk.

        Raises:
            DatasetError: it cannot be read, or is too large.
        """
        file = io.BytesIO(Path(path).read_bytes())
        file.name = os.path.basename(path)  # for sentences: not where the server keeps it
        opened = self._reader.open(file, self.max_pixels)
        if not isinstance(opened, Image.Image):  # more than 8 bits: the predictor scales the file
            height, width = opened.shape[:2]
            if max(height, width) > self.max_side:
                raise DatasetError(
                    f"{file.name} is {width} x {height} of more than 8 bits a channel: give one of "
                    f"at most {self.max_side} pixels a side, larger ones with 8 bits"
                )
            return file.getvalue(), (height, width)
        size = (opened.height, opened.width)
        if max(size) > self.max_side:
            if opened.mode in ("P", "1"):  # whose values cannot be mixed
                opened = opened.convert("RGB")
            opened.thumbnail((self.max_side, self.max_side), Image.Resampling.BICUBIC)
        return opened, size

    def segment(
        self, source: ImageSource, settings: Settings, name: str, original_size: Tuple[int, int]
    ) -> Found:
        """Run the model.

        Args:
            source: as :meth:`read` gives it.
            settings: of the result.
            name: of the picture, for files.
            original_size: as :meth:`read` gives it.

        Raises:
            DatasetError: the model cannot take the picture, e.g. for want of memory.
        """
        start = time.perf_counter()
        with self._lock:
            self._set(settings)
            prediction = predict_alone(self.predictor, source)
        if prediction.error is not None:
            raise prediction.error
        image, result = prediction.image, prediction.result
        segmentation = read_result(result, settings.kind, image.shape[:2])
        seconds = time.perf_counter() - start
        content = self._content(result, settings.kind)
        return Found(name, source, original_size, image, segmentation, settings, seconds, content)

    def _set(self, settings: Settings) -> None:
        choose_results(self.predictor.model, settings.kind)
        if self._switches is not None:
            self._switches.score_threshold = settings.score_threshold
            self._switches.overlap_threshold = settings.overlap_threshold

    def _content(self, result: Dict, kind: str) -> Dict:
        """What files are made of; scores of all classes or masks of all instances are too much."""
        classes = self.predictor.classes
        if kind == "instance":
            return {"annotations": instance_annotations(result, classes, image_id=1)}
        if kind == "semantic":
            return {"labels": label_map(result, classes)}
        ids, segments = result["panoptic_seg"]
        return {"panoptic_seg": (ids.cpu(), segments)}
