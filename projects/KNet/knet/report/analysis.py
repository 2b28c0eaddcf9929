"""One pass over the results of a run: figures, failures, tallies, and which images to show.

Shape shorthand: H x W an image's size, T true segments, P predicted ones.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from ..evaluation.classes import pixel_classes, thing_classes
from ..visualization.results import Results
from ..visualization.segmentation import Segmentation
from .failures import KINDS, Failure, find_failures
from .figures import Figures, Measurement
from .pixel_scores import read_pixel_scores
from .run import Run
from .segment_pairs import SegmentPairs, pair_segments
from .tallies import LEAST_SCORE, Calibration, Confusion, Sizes, segment_classes

__all__ = ["Analysis", "ImageQuality", "ShownFailure", "analyse"]

logger = logging.getLogger(__name__)

EXAMPLES = 4  # of a kind of failure
EXAMPLES_OF_IMAGE = 2  # of these from one image


class ImageQuality(NamedTuple):
    """How well an image was segmented: its number in ``run.dicts``, and 0..1."""

    index: int
    quality: float


class ShownFailure(NamedTuple):
    """A failure to be drawn: the number of its image in ``run.dicts``, and its size in pixels."""

    index: int
    failure: Failure
    area: int


@dataclass
class Analysis:
    """What a report tells of a run.

    Attributes:
        run: it.
        score_threshold: predicted objects below it are left out but for figures and calibration.
        class_names: by the index that the confusion matrices use.
        name_of: class name by contiguous id.
        figures: by kind of result, as the evaluators give them.
        counts: by class name: "objects" (true segments), those "found", and the "wrong"
            predictions, which found none.
        failures: number of each kind.
        examples: by kind of failure, the largest first.
        images: all images that can be measured.
        segments: confusion of segments.
        pixels: that of pixels; None for instances, which overlap.
        calibration: of scores of segments; of pixels where the evaluation kept them.
        sizes: quality by size.
    """

    run: Run
    score_threshold: float
    class_names: List[str]
    name_of: Dict[int, str]
    segments: Confusion
    pixels: Optional[Confusion]
    sizes: Sizes
    calibration: Calibration = field(default_factory=Calibration)
    figures: Dict[str, Figures] = field(default_factory=dict)
    counts: Dict[str, Counter] = field(default_factory=dict)
    failures: Counter = field(default_factory=Counter)
    examples: Dict[str, List[ShownFailure]] = field(default_factory=dict)
    images: List[ImageQuality] = field(default_factory=list)

    def pairs(self, results: Results, index: int) -> SegmentPairs:
        """Those of an image, again.

        Args:
            results: of the run's kind.
            index: of the image in ``run.dicts``.
        """
        d = self.run.with_size(self.run.dicts[index])
        truth, prediction = results.truth(d), results.prediction(d)
        if self.run.kind == "instance":
            prediction = _from_score(prediction, self.score_threshold)
        return pair_segments(truth, prediction, self.run.kind)

    @property
    def totals(self) -> Counter:
        """``counts`` over all classes."""
        return sum(self.counts.values(), Counter())


def analyse(run: Run, score_threshold: Optional[float] = None) -> Analysis:
    """
    Args:
        run: evaluated.
        score_threshold: of predicted objects (0..1); None: MODEL.KNET.TEST.SCORE_THRESHOLD.

    Raises:
        UsageError: the predictions are not of this data set.
        DatasetError: a truth or a prediction cannot be read.
    """
    if score_threshold is None:
        score_threshold = run.cfg.MODEL.KNET.TEST.SCORE_THRESHOLD
    classes = _classes(run)
    names, nothing = [c.name for c in classes], len(classes)
    index = np.full(max((c.id for c in classes), default=-1) + 1, nothing)
    index[[c.id for c in classes]] = np.arange(nothing)
    analysis = Analysis(
        run,
        score_threshold,
        names,
        {c.id: c.name for c in classes},
        Confusion(nothing),
        None if run.kind == "instance" else Confusion(nothing),
        Sizes(objects_alone=run.kind != "semantic"),
        counts={name: Counter() for name in names},
        examples={kind: [] for kind in KINDS},
    )
    for kind in run.kinds:
        results, measurement = run.results(kind), Measurement(kind, run)
        dicts = run.dicts_of(kind)
        for i, dataset_dict in enumerate(dicts):
            d = run.with_size(dataset_dict)
            prediction = results.prediction(d)
            measurement.add(d, prediction)
            if kind == run.kind:
                _add_image(analysis, i, results.truth(d), prediction, index)
        analysis.figures[kind] = measurement.figures()
        if kind == run.kind == "semantic":
            analysis.calibration = read_pixel_scores(run.inference)
        logger.info("Looked at the %s results of %d images", kind, len(dicts))
    return analysis


def _classes(run: Run):
    if run.kind == "instance":
        return thing_classes(run.metadata)
    return pixel_classes(run.metadata, any("pan_seg_file_name" in d for d in run.dicts))


def _add_image(
    analysis: Analysis, i: int, truth: Segmentation, prediction: Segmentation, index: np.ndarray
) -> None:
    kind, nothing = analysis.run.kind, len(analysis.class_names)
    if kind == "instance":  # of the others, hundreds, nothing below counts any
        prediction = _from_score(prediction, min(LEAST_SCORE, analysis.score_threshold))
    pairs = pair_segments(truth, prediction, kind)
    analysis.calibration.add_segments(pairs)
    if kind == "instance":
        pairs = pairs.above(analysis.score_threshold)
    analysis.sizes.add(pairs)
    true, predicted = segment_classes(pairs, index, nothing)
    analysis.segments.add(true, predicted)
    _count_classes(analysis, pairs, index)
    if analysis.pixels is not None:
        true, predicted = (_class_map(each, index, nothing) for each in (truth, prediction))
        labelled = true < nothing
        analysis.pixels.add(true[labelled], predicted[labelled])
    quality = _quality(pairs, kind)
    if quality is not None:
        analysis.images.append(ImageQuality(i, quality))
    for failure in find_failures(pairs):
        analysis.failures[failure.kind] += 1
        shown = ShownFailure(i, failure, _area(pairs, failure))
        _keep_example(analysis.examples[failure.kind], shown)


def _from_score(prediction: Segmentation, least: float) -> Segmentation:
    """The objects of this score and more, which match first: the others take nothing away."""
    scores = [s["score"] for s in prediction.segments]
    return prediction.take([j for j, score in enumerate(scores) if score >= least])


def _count_classes(analysis: Analysis, pairs: SegmentPairs, index: np.ndarray) -> None:
    wrong = ~pairs.is_right & ~pairs.ignored
    for segmentation, rows in (
        (pairs.truth, {"objects": ~pairs.is_crowd, "found": pairs.found}),
        (pairs.prediction, {"wrong": wrong}),
    ):
        for key, chosen in rows.items():
            for j in np.flatnonzero(chosen):
                name = analysis.class_names[index[segmentation.segments[j]["category_id"]]]
                analysis.counts[name][key] += 1


def _class_map(segmentation: Segmentation, index: np.ndarray, nothing: int) -> np.ndarray:
    """(H, W) class index of each pixel; crowd counts as nothing."""
    values = (
        nothing if s.get("iscrowd", 0) else index[s["category_id"]] for s in segmentation.segments
    )
    return segmentation.paint(values, nothing)


def _quality(pairs: SegmentPairs, kind: str) -> Optional[float]:
    """Of an image, 0..1: PQ over all of its segments; semantic: mean IoU of its classes."""
    wrong = int((~pairs.is_right & ~pairs.ignored).sum())
    lost = int((~pairs.found & ~pairs.is_crowd).sum())
    if kind == "semantic":
        of_true = (pairs.iou * pairs.same_class).max(1, initial=0.0)
        extra = int((~pairs.same_class.any(0) & (pairs.inside.sum(0) > 0)).sum())
        return float(of_true.sum() / (len(of_true) + extra)) if len(of_true) else None
    segments = pairs.found.sum() + 0.5 * (wrong + lost)
    return float(pairs.matched_iou.sum() / segments) if segments else None


def _area(pairs: SegmentPairs, failure: Failure) -> int:
    if failure.kind in ("found twice", "nothing there"):
        return int(pairs.prediction.masks[failure.prediction[0]].sum())
    return int(pairs.truth.masks[failure.truth[0]].sum())


def _keep_example(examples: List[ShownFailure], new: ShownFailure) -> None:
    """Keep the largest ones, a few of an image."""
    examples.append(new)
    examples.sort(key=lambda each: -each.area)
    of_image = [k for k, each in enumerate(examples) if each.index == new.index]
    for k in reversed(of_image[EXAMPLES_OF_IMAGE:]):
        del examples[k]
    del examples[EXAMPLES:]
