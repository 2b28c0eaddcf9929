"""AP of boxes and masks by hotcoco, a much faster COCO tool that reports pycocotools' figures."""

from importlib.util import find_spec
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

__all__ = ["has_fast_tool", "measure_ap"]

_OF_OBJECT = ("category_id", "area", "bbox", "iscrowd")  # that the tool asks for
_UNUSED = {"bbox": "segmentation", "segm": "bbox"}  # with boxes, a mask's area would be its box's


def has_fast_tool(coco: COCO) -> bool:
    """Can hotcoco measure on this ground truth, with pycocotools' figures?

    To pycocotools, of two objects of one id the last is both.
    """
    return find_spec("hotcoco") is not None and len(coco.anns) == len(coco.dataset["annotations"])


def measure_ap(
    coco: COCO, results: List[Dict], task: str, image_ids: Optional[Sequence[Any]] = None
) -> COCOeval:
    """
    Args:
        coco: the ground truth.
        results: predicted objects as pycocotools' ``loadRes`` takes them, at least one.
        task: "bbox" or "segm".
        image_ids: of the images to measure; None: all.

    Returns:
        pycocotools' ``COCOeval`` with ``stats`` and with ``eval``, which hotcoco has filled: means
        are pycocotools' to the last digit.
    """
    import hotcoco

    # its ids are whole numbers; objects of equal scores count in the order of their images
    ids = np.unique(list(coco.imgs)).tolist()
    numbers = {image_id: number for number, image_id in enumerate(ids, start=1)}
    truth = hotcoco.COCO(
        {
            "images": [
                {key: image[key] for key in ("height", "width") if key in image}
                | {"id": numbers[image["id"]]}
                for image in coco.dataset["images"]
            ],
            "categories": coco.dataset["categories"],
            "annotations": [
                _object(coco, annotation, task)
                | {"id": i, "image_id": numbers[annotation["image_id"]]}
                for i, annotation in enumerate(coco.dataset["annotations"], start=1)
            ],
        }
    )
    unused = _UNUSED[task]
    found = truth.load_res(
        [
            {k: v for k, v in result.items() if k != unused}
            | {"image_id": numbers[result["image_id"]]}
            for result in results
        ]
    )
    evaluation = hotcoco.COCOeval(truth, found, task)
    if image_ids is not None:
        evaluation.params.imgIds = [numbers[i] for i in image_ids if i in numbers]
    evaluation.evaluate()
    evaluation.accumulate()
    summary = COCOeval(iouType=task)
    summary.eval = evaluation.eval
    summary.summarize()
    return summary


def _object(coco: COCO, annotation: Dict, task: str) -> Dict:
    """What is asked of an object; polygons are drawn by pycocotools, as they are for it."""
    wanted = {key: annotation[key] for key in _OF_OBJECT}
    return wanted | {"segmentation": coco.annToRLE(annotation)} if task == "segm" else wanted
