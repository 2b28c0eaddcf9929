"""AP of boxes and masks by hotcoco, a much faster COCO tool that reports pycocotools' figures."""

from importlib.util import find_spec
from typing import Any, Dict, Iterable, List, Optional, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

__all__ = ["has_fast_tool", "measure_ap"]

_OF_OBJECT = ("area", "bbox", "iscrowd")  # that the tool asks for
# with a box, a predicted mask's area would be its box's
_OF_RESULT = {"bbox": ("score", "bbox"), "segm": ("score", "segmentation")}


def has_fast_tool(coco: COCO, results: List[Dict]) -> bool:
    """Can hotcoco measure these results on this ground truth, with pycocotools' figures?

    To pycocotools, of two objects of one id the last is both; scores that are NaN it has too.
    """
    return (
        find_spec("hotcoco") is not None
        and len(coco.anns) == len(coco.dataset["annotations"])
        and not np.isnan([result["score"] for result in results]).any()
    )


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

    # its ids are numbers from 0 on; objects of equal scores count in the order of their images
    images, categories = _numbers(coco.imgs), _numbers(coco.cats)

    def renumbered(entry: Dict) -> Dict:
        return {
            "image_id": images[entry["image_id"]],
            "category_id": categories[entry["category_id"]],
        }

    truth = hotcoco.COCO(
        {
            "images": [{"id": number} for number in images.values()],
            "categories": [{"id": i, "name": str(i)} for i in categories.values()],
            "annotations": [
                {"id": i, **renumbered(annotation), **_object(coco, annotation, task)}
                for i, annotation in enumerate(coco.dataset["annotations"], start=1)
            ],
        }
    )
    found = truth.load_res(
        [{**renumbered(result), **{k: result[k] for k in _OF_RESULT[task]}} for result in results]
    )
    evaluation = hotcoco.COCOeval(truth, found, task)
    if image_ids is not None:
        evaluation.params.imgIds = [images[i] for i in image_ids if i in images]
    evaluation.evaluate()
    evaluation.accumulate()
    summary = COCOeval(iouType=task)
    summary.eval = evaluation.eval
    summary.summarize()
    return summary


def _numbers(ids: Iterable[Any]) -> Dict[Any, int]:
    """1, 2, ... by the order that pycocotools gives ids."""
    return {each: number for number, each in enumerate(np.unique(list(ids)).tolist(), start=1)}


def _object(coco: COCO, annotation: Dict, task: str) -> Dict:
    """What is asked of an object; polygons are drawn by pycocotools, as they are for it."""
    wanted = {key: annotation[key] for key in _OF_OBJECT}
    return wanted | {"segmentation": coco.annToRLE(annotation)} if task == "segm" else wanted
