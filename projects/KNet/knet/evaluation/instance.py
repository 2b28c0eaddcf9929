"""Mask AP by COCO's tool, for any data set with things."""

import itertools
import json
import os
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager

from ..data.image_reading import ImageReader
from ..data.run_lengths import encode_mask
from ..data.training_images import load_dicts
from ..errors import UsageError
from .classes import thing_classes
from .coco_ap import has_fast_tool, measure_ap
from .coco_truth import ground_truth_json, reading, restrict_to_dataset
from .derived import derived_dataset
from .images import ImageIds, is_measured
from .outputs import has_json_file, protect

__all__ = ["InstanceEvaluator"]


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator, for instance data sets and for the things of panoptic ones.

    Contiguous thing ids may have gaps (in a panoptic data set stuff may stand between things), the
    ground truth may be in a COCO json, in the data set's dicts or in panoptic PNGs, and json and
    data set may differ in their images. The results are Detectron2's: ``segm`` and ``bbox`` with
    AP, AP50, ... and AP per class, over at most 100 objects an image, as COCO defines it. Of images
    without ground truth the predictions are kept, and not measured.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str,
        *,
        tasks: Optional[Sequence[str]] = ("bbox", "segm"),
        official_tool: bool = False,
        reader: Optional[ImageReader] = None,
        **options,
    ):
        """
        Args:
            dataset_name: registered, with ``annotations`` or panoptic PNGs if it has ground truth.
            output_dir: gets ``coco_instances_results.json``, and ``instances_ground_truth.json``
                (``image_info.json`` without ground truth) where the data set has no COCO json of
                its own.
            tasks: of "segm" and "bbox" (K-Net's boxes are those around its masks); None: what the
                predictions have.
            official_tool: let Detectron2's evaluator encode the masks, and pycocotools measure.
            reader: as the model wants its images; None: as without any key.
            options: of Detectron2's evaluator.

        Raises:
            DatasetError: the ground truth cannot be used, see :mod:`.coco_truth`.
            UsageError: a prediction would be written over the data.
        """
        dicts = load_dicts(dataset_name)  # an instance data set may tell its classes only now
        metadata = MetadataCatalog.get(dataset_name)
        if output_dir:
            protect(output_dir, ["INSTANCE"], dicts, metadata)
        self._official_tool = official_tool
        options = {"use_fast_impl": False, **options}  # Detectron2's differs in the last digit
        self._image_ids = ImageIds(dicts)
        self._measured_ids = None  # all
        if not has_json_file(metadata) and any("pan_seg_file_name" in d for d in dicts):
            self._measured_ids = [d["image_id"] for d in dicts if "pan_seg_file_name" in d]
        json_file = ground_truth_json(dataset_name, dicts, output_dir, reader or ImageReader())
        things = thing_classes(metadata)
        # Detectron2 wants the ids 0..n-1, and COCO's tool gives AP per class in this order
        self._position = {thing.id: i for i, thing in enumerate(things)}
        with (
            derived_dataset(
                dataset_name,
                json_file=json_file,
                thing_classes=[thing.name for thing in things],
                thing_dataset_id_to_contiguous_id={t.dataset_id: i for i, t in enumerate(things)},
            ) as derived,
            reading(json_file),
        ):
            super().__init__(derived, tasks, output_dir=output_dir, **options)
        restrict_to_dataset(self._coco_api, dataset_name, dicts, json_file)
        self._do_evaluation = self._do_evaluation and is_measured(dicts)
        self._evaluated_dataset = dataset_name

    def process(self, inputs: List[Dict], outputs: List[Dict]) -> None:
        """
        Args:
            inputs: with ``file_name``, and ``image_id`` if the data set has it; an image that the
                ground truth does not list is left out.
            outputs: with ``instances`` in the data set's contiguous ids.

        Raises:
            UsageError: a predicted class that is no thing class of the data set.
        """
        for x, output in zip(inputs, outputs):
            x = {**x, "image_id": self._image_ids.of(x)}
            if x["image_id"] not in self._coco_api.imgs or "instances" not in output:
                continue
            instances = self._renumbered(output["instances"].to("cpu"))
            masks = instances.get_fields().get("pred_masks")
            if self._official_tool or masks is None:
                super().process([x], [{"instances": instances}])
                continue
            instances.remove("pred_masks")
            super().process([x], [{"instances": instances}])
            for result, mask in zip(self._predictions[-1]["instances"], np.asarray(masks, bool)):
                result["segmentation"] = encode_mask(mask)

    def evaluate(self, img_ids: Optional[Sequence] = None) -> Dict:
        """
        Args:
            img_ids: of the images to measure; None: all that have ground truth.

        Returns:
            on the main process ``segm`` and ``bbox``; {} where the data set has no ground truth.
        """
        return super().evaluate(self._measured_ids if img_ids is None else img_ids)

    def _eval_predictions(
        self, predictions: List[Dict], img_ids: Optional[Sequence] = None
    ) -> None:
        """Detectron2's, by the fast tool where that can be used."""
        results = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        if not self._is_measured_fast(results):
            super()._eval_predictions(predictions, img_ids=img_ids)
            return
        dataset_ids = list(self._metadata.thing_dataset_id_to_contiguous_id)
        for result in results:
            result["category_id"] = dataset_ids[result["category_id"]]
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            with PathManager.open(path, "w", encoding="utf-8") as f:
                f.write(json.dumps(results))
        for task in sorted(self._tasks):
            found = measure_ap(self._coco_api, results, task, img_ids) if results else None
            names = self._metadata.thing_classes
            self._results[task] = self._derive_coco_results(found, task, class_names=names)

    def _is_measured_fast(self, results: List[Dict]) -> bool:
        if self._official_tool or not self._do_evaluation:
            return False
        tasks, is_usual = set(self._tasks or ()), self._max_dets_per_image == [1, 10, 100]
        is_usual = is_usual and {"bbox", "segm"} >= tasks > set()
        return is_usual and has_fast_tool(self._coco_api, results)

    def _renumbered(self, instances: Instances) -> Instances:
        """The same with the position of each class in place of its contiguous id."""
        classes = instances.pred_classes.tolist()
        unknown = set(classes) - self._position.keys()
        if unknown:
            raise UsageError(
                f"the model predicts the class {min(unknown)}, which the data set "
                f"'{self._evaluated_dataset}' in DATASETS.TEST does not have: evaluate a model of "
                "its classes"
            )
        positions = torch.tensor([self._position[i] for i in classes], dtype=torch.long)
        fields = {**instances.get_fields(), "pred_classes": positions}
        return Instances(instances.image_size, **fields)
