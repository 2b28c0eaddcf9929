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

from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from ..errors import DatasetError

__all__ = ["PanopticEvaluator"]

logger = logging.getLogger(__name__)


class PanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's panoptic evaluator, with three things more.

    It reports PQ per class, survives data without a thing or without a stuff segment (COCO's tool
    divides by zero there), and keeps what it evaluated: ``predictions.json`` and
    ``predictions/*.png``, as COCO's server takes them, and ``panoptic_quality.json``.
    """

    def evaluate(self) -> Optional[Dict]:
        """
        Returns:
            on the main process ``{"panoptic_seg": {...}}`` with PQ, SQ, RQ (in percent), the same
            with ``_th`` and ``_st``, and ``PQ-<class>``; NaN for what the data does not have.
        """
        comm.synchronize()
        predictions = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = list(itertools.chain.from_iterable(predictions))
        with contextlib.ExitStack() as stack:
            folder = self._output_dir or stack.enter_context(tempfile.TemporaryDirectory())
            quality = self._panoptic_quality(predictions, folder)
        self._log(quality)
        if self._output_dir:
            with PathManager.open(
                os.path.join(self._output_dir, "panoptic_quality.json"), "w"
            ) as f:
                json.dump(_nan_to_none(quality), f, indent=1)
        result = OrderedDict()
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
            for key in ("PQ", "SQ", "RQ"):
                result[key + suffix] = quality[group][key]
        for name, row in quality["per_class"].items():
            result[f"PQ-{name}"] = row["PQ"]
        return OrderedDict({"panoptic_seg": result})

    def _panoptic_quality(self, predictions: List[Dict], folder: str) -> Dict:
        """Write the predictions below ``folder`` and let COCO's tool compare them."""
        from panopticapi.evaluation import pq_compute_multi_core

        with PathManager.open(self._metadata.panoptic_json) as f:
            ground_truth = json.load(f)
        by_image = {p["image_id"]: p for p in predictions}
        pairs = []
        for annotation in ground_truth["annotations"]:
            if annotation["image_id"] not in by_image:
                raise DatasetError(
                    f"the image {annotation['image_id']} of {self._metadata.panoptic_json} was not "
                    "evaluated: the data set in DATASETS.TEST must load every annotation of it"
                )
            pairs.append((annotation, by_image[annotation["image_id"]]))
        png_folder = os.path.join(folder, "predictions")
        for annotation, prediction in pairs:
            # named as the truth: images of two folders may share their base name
            prediction["file_name"] = annotation["file_name"]
            path = os.path.join(png_folder, annotation["file_name"])
            PathManager.mkdirs(os.path.dirname(path))
            with PathManager.open(path, "wb") as f:
                f.write(prediction.pop("png_string"))
        with PathManager.open(os.path.join(folder, "predictions.json"), "w") as f:
            json.dump({**ground_truth, "annotations": predictions}, f)
        categories = {c["id"]: c for c in ground_truth["categories"]}
        with contextlib.redirect_stdout(io.StringIO()):
            statistics = pq_compute_multi_core(
                pairs, self._metadata.panoptic_root, png_folder, categories
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
