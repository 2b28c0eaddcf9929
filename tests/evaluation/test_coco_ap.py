"""AP by hotcoco is pycocotools', of whatever pycocotools takes."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from knet.data.run_lengths import encode_mask
from knet.evaluation.coco_ap import has_fast_tool, measure_ap

pytest.importorskip("hotcoco")


def mask(left):
    pixels = np.zeros((20, 30), bool)
    pixels[4:14, left : left + 8] = True
    return pixels


def ground_truth(image_id=1, category_id=1, **of_image):
    image = {"id": image_id, "height": 20, "width": 30, **of_image}
    entry = {
        "id": 1,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": encode_mask(mask(10)),
        "area": 80,
        "bbox": [10, 4, 8, 10],
        "iscrowd": 0,
    }
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [image],
        "categories": [{"id": category_id, "name": "cell"}],
        "annotations": [entry],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def found(coco, **more):
    (image_id,), (category_id,) = coco.imgs, coco.cats
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "segmentation": encode_mask(mask(left)),
            "bbox": [left, 4, 8, 10],
            "score": 1 - left / 100,
            **more,
        }
        for left in (8, 11)
    ]


def official(coco, results, task):
    unused = {"bbox": "segmentation", "segm": "bbox"}[task]
    results = [{k: v for k, v in each.items() if k != unused} for each in results]
    evaluation = COCOeval(coco, coco.loadRes(results), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(
    "ids", [{}, {"category_id": -3}, {"image_id": "a"}, {"height": None, "width": None}]
)
def test_figures_are_pycocotools(task, ids):
    coco = ground_truth(**ids)
    results = found(coco, id="of another tool")
    assert has_fast_tool(coco, results)
    with contextlib.redirect_stdout(io.StringIO()):
        ours, theirs = (tool(coco, results, task) for tool in (measure_ap, official))
    assert 0 < ours.stats[0] < 1
    assert ours.stats.tolist() == theirs.stats.tolist()
    assert np.array_equal(ours.eval["precision"], theirs.eval["precision"])


def test_scores_that_are_nan_are_left_to_pycocotools():
    coco = ground_truth()
    assert not has_fast_tool(coco, found(coco, score=float("nan")))
