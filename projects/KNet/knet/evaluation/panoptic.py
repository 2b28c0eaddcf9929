"""Panoptic quality by COCO's tool, per class, with the predictions kept in COCO's format."""

import contextlib
import io
import itertools
import json
import logging
import math
import os
import tempfile
from collections import OrderedDict
from typing import Dict, List, Optional

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image
from tabulate import tabulate

from ..data.datasets.coco_panoptic import read_panoptic_json
from ..data.training_images import load_dicts
from ..errors import DatasetError
from .classes import pixel_classes
from .images import ImageIds
from .outputs import PREDICTIONS, png_names, protect
from .panoptic_truth import annotations_of_dataset, fit_for_tool

__all__ = ["PanopticEvaluator"]

logger = logging.getLogger(__name__)


class PanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's panoptic evaluator, with three things more.

    It reports PQ per class, survives data without a thing or without a stuff segment (COCO's tool
    divides by zero there), and keeps what it evaluated: ``predictions.json`` and
    ``predictions/*.png``, as COCO's server takes them, and ``panoptic_quality.json``. Of images
    without ground truth it keeps the predictions alone.
    """

    def __init__(self, dataset_name: str, output_dir: Optional[str] = None):
        """
        Args:
            dataset_name: registered; with ``panoptic_json`` in its metadata if it has ground truth.
            output_dir: gets what is kept; None keeps nothing.

        Raises:
            DatasetError: the data set cannot be loaded.
            UsageError: a prediction would be written over the data.
        """
        dicts, metadata = load_dicts(dataset_name), MetadataCatalog.get(dataset_name)
        if output_dir:
            protect(output_dir, ["PANOPTIC"], dicts, metadata)
        super().__init__(dataset_name, output_dir)
        self._image_ids = ImageIds(dicts)
        self._png_names = dict(zip(self._image_ids.all, png_names(dicts, metadata)))
        self._file_names = dict(zip(self._image_ids.all, (d["file_name"] for d in dicts)))

    def process(self, inputs: List[Dict], outputs: List[Dict]) -> None:
        """
        Args:
            inputs: with ``file_name``, and ``image_id`` if the data set has it.
            outputs: with ``panoptic_seg`` in the data set's contiguous ids.
        """
        for x, output in zip(inputs, outputs):
            super().process([{**x, "image_id": self._image_ids.of(x)}], [output])

    def evaluate(self) -> Optional[Dict]:
        """
        Returns:
            on the main process ``{"panoptic_seg": {...}}`` with PQ, SQ, RQ (in percent), the same
            with ``_th`` and ``_st``, and ``PQ-<class>``; NaN for what the data does not have. {}
            where the data set has no ground truth.
        """
        comm.synchronize()
        predictions = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = list(itertools.chain.from_iterable(predictions))
        with contextlib.ExitStack() as stack:
            folder = self._output_dir or stack.enter_context(tempfile.TemporaryDirectory())
            content = self._content(predictions)
            self._write(predictions, content, folder)
            if not content["annotations"]:
                return OrderedDict()
            quality = self._panoptic_quality(predictions, content, folder)
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

    def _content(self, predictions: List[Dict]) -> Dict:
        """What the panoptic json has; images and categories where it lacks them or there is none.

        Raises:
            DatasetError: the json cannot be used.
        """
        panoptic_json, images = self._metadata.get("panoptic_json"), []
        if panoptic_json:
            content = read_panoptic_json(panoptic_json)
            return {**content, "categories": content["categories"] or self._categories()}
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

    def _panoptic_quality(self, predictions: List[Dict], ground_truth: Dict, folder: str) -> Dict:
        """Let COCO's tool compare the predictions below ``folder`` with the truth."""
        from panopticapi.evaluation import pq_compute_multi_core

        by_image = {p["image_id"]: p for p in predictions}
        panoptic_json, root = self._metadata.panoptic_json, self._metadata.panoptic_root
        annotations = annotations_of_dataset(ground_truth, self._image_ids.all, panoptic_json)
        for annotation in annotations:
            if annotation["image_id"] not in by_image:
                raise DatasetError(
                    f"the image {annotation['image_id']} of {panoptic_json} was not evaluated: all "
                    "images of the data set in DATASETS.TEST must be"
                )
        categories = {c["id"]: c for c in ground_truth["categories"]}
        with (
            tempfile.TemporaryDirectory() as rewritten,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            pairs = [
                (fit_for_tool(annotation, root, rewritten), by_image[annotation["image_id"]])
                for annotation in annotations
            ]
            statistics = pq_compute_multi_core(
                pairs, root, os.path.join(folder, PREDICTIONS), categories
            )
        return _summarise(statistics, categories)

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
