"""Panoptic quality as COCO defines it, per class, with the predictions kept in COCO's format."""

import contextlib
import functools
import io
import json
import logging
import math
import os
import tempfile
from collections import OrderedDict
from typing import Any, Collection, Dict, List, Optional, Tuple

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image
from tabulate import tabulate

from ..data.datasets.coco_panoptic import read_panoptic_json
from ..data.ground_truth import check_truth_size
from ..data.id_map import id_map
from ..data.image_reading import read_image
from ..data.panoptic_rows import check_ids
from ..data.training_images import load_dicts
from ..errors import DatasetError
from .classes import pixel_classes
from .images import ImageIds
from .outputs import PREDICTIONS, png_names, protect
from .panoptic_matching import Matches, add_up, match_segments, misstated
from .panoptic_truth import (
    PanopticFiles,
    annotations_of_dataset,
    areas_of,
    fit_for_tool,
    warn_of_areas,
    with_areas,
)

__all__ = ["PanopticEvaluator"]

logger = logging.getLogger(__name__)


class PanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's panoptic evaluator, in memory and with three things more.

    Each process compares its images as they come; the figures are COCO's tool's to the last digit.
    It reports PQ per class, survives data without a thing or without a stuff segment (COCO's tool
    divides by zero there), and keeps ``panoptic_quality.json`` and, unless told not to, what it
    evaluated: ``predictions.json`` and ``predictions/*.png``, as COCO's server takes them. Of data
    with images that have no ground truth it keeps the predictions always.

    Attributes:
        files: reads the ground truth; several evaluators of the same images may have one.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: Optional[str] = None,
        *,
        keep_predictions: bool = True,
        official_tool: bool = False,
    ):
        """
        Args:
            dataset_name: registered; with ``panoptic_json`` in its metadata if it has ground truth.
            output_dir: gets what is kept; None keeps nothing.
            keep_predictions: write the predictions too.
            official_tool: let COCO's panopticapi compare, by way of files.

        Raises:
            DatasetError: the data set cannot be loaded.
            UsageError: a prediction would be written over the data.
        """
        dicts, metadata = load_dicts(dataset_name), MetadataCatalog.get(dataset_name)
        if output_dir:
            protect(output_dir, ["PANOPTIC"], dicts, metadata)
        super().__init__(dataset_name, output_dir)
        self._official_tool = official_tool
        self.files = PanopticFiles()
        is_whole = all("pan_seg_file_name" in d for d in dicts)
        self._keeps = output_dir is not None and (keep_predictions or not is_whole)
        self._image_ids = ImageIds(dicts)
        self._png_names = dict(zip(self._image_ids.all, png_names(dicts, metadata)))
        self._file_names = dict(zip(self._image_ids.all, (d["file_name"] for d in dicts)))

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self.files.forget()
        self._matches: Dict[Any, Matches] = {}
        self._misstated: Dict[Any, List[int]] = {}

    def process(self, inputs: List[Dict], outputs: List[Dict]) -> None:
        """
        Args:
            inputs: with ``file_name``, and ``image_id`` if the data set has it.
            outputs: with ``panoptic_seg`` in the data set's contiguous ids.

        Raises:
            DatasetError: the ground truth of an image cannot be used.
        """
        for x, output in zip(inputs, outputs):
            image_id, (ids, segments) = self._image_ids.of(x), output["panoptic_seg"]
            if self._keeps or self._official_tool or segments is None:
                super().process([{**x, "image_id": image_id}], [output])
                prediction = self._predictions[-1]
                if segments is None:  # the ids told the classes
                    ids = torch.from_numpy(id_map(read_image(prediction["png_string"])))
                segments = prediction["segments_info"]
            else:
                segments = [self._convert_category_id({**s}) for s in segments]
            if image_id in self._truth:
                truth = self._true_ids(image_id, tuple(ids.shape))  # wanted by COCO's tool too
                true_segments = with_areas(self._truth[image_id]["segments_info"], truth)
                if self._official_tool:
                    self._misstated[image_id] = misstated(true_segments, areas_of(truth))
                else:
                    match = self._match(truth, true_segments, ids.cpu().numpy(), segments)
                    self._matches[image_id] = match
                    self._misstated[image_id] = match.misstated

    def evaluate(self) -> Optional[Dict]:
        """
        Returns:
            on the main process ``{"panoptic_seg": {...}}`` with PQ, SQ, RQ (in percent), the same
            with ``_th`` and ``_st``, and ``PQ-<class>``; NaN for what the data does not have. {}
            where the data set has no ground truth.
        """
        comm.synchronize()
        gathered = comm.gather((self._predictions, self._matches, self._misstated))
        if not comm.is_main_process():
            return None
        predictions = [p for of_process, *_ in gathered for p in of_process]
        matches = {image_id: m for _, by_image, _ in gathered for image_id, m in by_image.items()}
        wrong_areas = {image_id: m for *_, by_image in gathered for image_id, m in by_image.items()}
        with contextlib.ExitStack() as stack:
            if self._keeps or self._official_tool:
                folder = self._output_dir
                if not self._keeps:
                    folder = stack.enter_context(tempfile.TemporaryDirectory())
                self._write(predictions, self._content(predictions), folder)
            if not self._truth:
                return OrderedDict()
            if self._official_tool:
                statistics = self._official_statistics(predictions, folder)
            else:
                statistics = self._statistics(matches)
        warn_of_areas(wrong_areas, self._metadata.panoptic_json)
        quality = _summarise(statistics, self._categories_by_id)
        self._log(quality)
        if self._output_dir:
            with PathManager.open(
                os.path.join(self._output_dir, "panoptic_quality.json"), "w", encoding="utf-8"
            ) as f:
                json.dump(_nan_to_none(quality), f, indent=1, ensure_ascii=False)
        result = OrderedDict()
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
            for key in ("PQ", "SQ", "RQ"):
                result[key + suffix] = quality[group][key]
        for name, row in quality["per_class"].items():
            result[f"PQ-{name}"] = row["PQ"]
        return OrderedDict({"panoptic_seg": result})

    @functools.cached_property
    def _json(self) -> Dict:
        """The content of the panoptic json, with categories; {} where there is none.

        Raises:
            DatasetError: it cannot be used.
        """
        panoptic_json = self._metadata.get("panoptic_json")
        if not panoptic_json:
            return {}
        content = read_panoptic_json(panoptic_json)
        return {**content, "categories": content["categories"] or self._categories()}

    @functools.cached_property
    def _truth(self) -> Dict[Any, Dict]:
        """{image id: annotation}, of all images of the json."""
        return {a["image_id"]: a for a in self._json.get("annotations", ())}

    @functools.cached_property
    def _categories_by_id(self) -> Dict[int, Dict]:
        return {c["id"]: c for c in self._json["categories"]}

    def _content(self, predictions: List[Dict]) -> Dict:
        """What the panoptic json has; images and categories where there is none."""
        if self._json:
            return self._json
        images = []
        for prediction in predictions:
            with Image.open(io.BytesIO(prediction["png_string"])) as png:
                width, height = png.size
            image = {"id": prediction["image_id"], "width": width, "height": height}
            images.append({**image, "file_name": self._file_names[image["id"]]})
        return {"info": {}, "images": images, "annotations": [], "categories": self._categories()}

    def _categories(self) -> List[Dict]:
        return [
            {"id": c.dataset_id, "name": c.name, "isthing": int(c.isthing)}
            for c in pixel_classes(self._metadata, is_panoptic=True)
        ]

    def _write(self, predictions: List[Dict], content: Dict, folder: str) -> None:
        """Write the predictions below ``folder``, as COCO's server takes them."""
        for prediction in predictions:
            # named as the truth: images of two folders may share their base name
            prediction["file_name"] = self._png_names.get(
                prediction["image_id"], prediction["file_name"]
            )
            path = os.path.join(folder, PREDICTIONS, prediction["file_name"])
            PathManager.mkdirs(os.path.dirname(path))
            with PathManager.open(path, "wb") as f:
                f.write(prediction.pop("png_string"))
        with PathManager.open(os.path.join(folder, "predictions.json"), "w", encoding="utf-8") as f:
            json.dump({**content, "annotations": predictions}, f)

    def _true_ids(self, image_id: Any, size: Tuple[int, int]) -> np.ndarray:
        """The id map of an image's truth, of the prediction's size (H, W), all its ids listed.

        Raises:
            DatasetError: it is not as it should be.
        """
        annotation, name = self._truth[image_id], self._file_names[image_id]
        path = os.path.join(self._metadata.panoptic_root, annotation["file_name"])
        ids = self.files.ids(path)
        image = {"file_name": name, "height": size[0], "width": size[1]}
        check_truth_size(ids, image, f"the panoptic PNG {path}")
        check_ids(ids, annotation["segments_info"], path)
        return ids

    def _match(
        self,
        truth: np.ndarray,
        true_segments: List[Dict],
        ids: np.ndarray,
        segments: List[Dict],
    ) -> Matches:
        """Compare an image's prediction (H, W), with category ids of the json, with its truth."""
        panoptic_json = self._metadata.panoptic_json
        unknown = {s["category_id"] for s in segments} - self._categories_by_id.keys()
        if unknown:
            raise DatasetError(
                f"the data set in DATASETS.TEST has a class of the id {min(unknown)}, which "
                f"{panoptic_json} does not list: both must have the same classes"
            )
        return match_segments(truth, true_segments, ids, segments)

    def _annotations(self, predicted: Collection[Any]) -> List[Dict]:
        """The annotations of the data set's images.

        Raises:
            DatasetError: one of them is of an image whose id is not in ``predicted``.
        """
        panoptic_json = self._metadata.panoptic_json
        annotations = annotations_of_dataset(self._json, self._image_ids.all, panoptic_json)
        for annotation in annotations:
            if annotation["image_id"] not in predicted:
                raise DatasetError(
                    f"the image {annotation['image_id']} of {panoptic_json} was not evaluated: all "
                    "images of the data set in DATASETS.TEST must be"
                )
        return annotations

    def _statistics(self, matches: Dict[Any, Matches]):
        """panopticapi's ``PQStat`` of what each image's comparison gave."""
        annotations = self._annotations(matches)
        return add_up([matches[a["image_id"]] for a in annotations])

    def _official_statistics(self, predictions: List[Dict], folder: str):
        """Let COCO's tool compare the predictions below ``folder`` with the truth."""
        from panopticapi.evaluation import pq_compute_multi_core

        by_image, root = {p["image_id"]: p for p in predictions}, self._metadata.panoptic_root
        with (
            tempfile.TemporaryDirectory() as rewritten,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            pairs = [
                (fit_for_tool(annotation, root, rewritten), by_image[annotation["image_id"]])
                for annotation in self._annotations(by_image)
            ]
            return pq_compute_multi_core(
                pairs, root, os.path.join(folder, PREDICTIONS), self._categories_by_id
            )

    @staticmethod
    def _log(quality: Dict) -> None:
        headers = ["", "PQ", "SQ", "RQ", "classes"]
        rows = [
            [group, *(quality[group][k] for k in ("PQ", "SQ", "RQ", "classes"))]
            for group in ("All", "Things", "Stuff")
        ]
        rows += [[name, *row.values()] for name, row in quality["per_class"].items()]
        table = tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".2f")
        logger.info("Panoptic quality (nan: not in this data set):\n%s", table)


def _summarise(statistics, categories: Dict[int, Dict]) -> Dict:
    """Means over all, thing and stuff classes that occur, and each class; in percent."""

    def quality(ids) -> Dict[str, float]:
        occurring = {i: categories[i] for i in ids if _occurs(statistics.pq_per_cat[i])}
        if not occurring:
            return {"PQ": math.nan, "SQ": math.nan, "RQ": math.nan}
        mean, _ = statistics.pq_average(occurring, isthing=None)
        return {key.upper(): 100 * float(mean[key]) for key in ("pq", "sq", "rq")}

    def group(ids) -> Dict:
        return {**quality(ids), "classes": sum(_occurs(statistics.pq_per_cat[i]) for i in ids)}

    things = [i for i, c in categories.items() if c["isthing"]]
    return {
        "All": group(list(categories)),
        "Things": group(things),
        "Stuff": group([i for i in categories if i not in things]),
        "per_class": {c["name"]: quality([i]) for i, c in categories.items()},
    }


def _occurs(statistic) -> bool:
    return statistic.tp + statistic.fp + statistic.fn > 0


def _nan_to_none(value):
    """NaN is no JSON."""
    if isinstance(value, dict):
        return {k: _nan_to_none(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
