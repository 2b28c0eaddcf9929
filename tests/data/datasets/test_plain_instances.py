"""COCO instance jsons as tools write them: read in training and in evaluation alike, or told."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from knet.data import register_coco_instances
from knet.data.datasets.plain_instances import plain_instances_json
from knet.data.training_images import load_dicts
from knet.errors import DatasetError
from knet.evaluation import InstanceEvaluator
from knet.evaluation.coco_truth import objects_of
from tests.data.datasets.folders import InstanceFolder, box, rle


@pytest.fixture
def dishes(tmp_path):
    folder = InstanceFolder(tmp_path)
    for _ in range(2):
        folder.add_ordinary()
    return folder


def register(folder):
    folder.write()
    register_coco_instances(folder.name, str(folder.images), str(folder.json_file))


def perfect_results(name, folder):
    """Of predictions that are the truth."""
    evaluator = InstanceEvaluator(name, str(folder))
    evaluator.reset()
    for d in load_dicts(name):
        objects = [(o, mask) for o, mask in objects_of(d) if not o["iscrowd"]]
        found = Instances((d["height"], d["width"]))
        found.pred_masks = torch.from_numpy(np.stack([mask for _, mask in objects]) > 0)
        found.pred_boxes = BitMasks(found.pred_masks).get_bounding_boxes()
        found.scores = torch.full((len(objects),), 0.9)
        found.pred_classes = torch.tensor([o["category_id"] for o, _ in objects])
        evaluator.process([d], [{"instances": found}])
    return evaluator.evaluate()


def count_from_0(content):
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number


def ids_as_text(content):
    for image in content["images"]:
        image["id"] = str(image["id"])
    for category in content["categories"]:
        category["id"] = str(category["id"])
    for annotation in content["annotations"]:
        for key in ("id", "image_id", "category_id"):
            annotation[key] = str(annotation[key])


def numbers_as_text_or_float(content):
    content["images"][0].update(height="40", width=64.0)
    content["annotations"][0]["segmentation"] = [[str(x) for x in box(10, 5, 10, 15)[0]]]
    content["annotations"][1]["category_id"] = 4.0


def every(**values):
    def spoil(content):
        for annotation in content["annotations"]:
            annotation.update(copy.deepcopy(values))

    return spoil


def polygon_alone(content):
    for cup in content["annotations"][::2]:
        cup["segmentation"] = box(10, 5, 10, 15)[0]


WAYS = {
    "annotations from 0": count_from_0,
    "ids as text": ids_as_text,
    "numbers as text or float": numbers_as_text_or_float,
    "null beside the mask": every(bbox=None, area=None, iscrowd=None),
    "area that is none": every(area=[0]),
    "area NaN": every(area=math.nan),
    "boxes of zero": every(bbox=[0, 0, 0, 0]),
    "boxes of NaN": every(bbox=[math.nan] * 4),
    "boxes of no number": every(bbox=[]),
    "iscrowd as text": every(iscrowd="0"),
    "polygon that is not nested": polygon_alone,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_plain_in_another_notation_is_learned_from_and_measured(dishes, tmp_path, way):
    WAYS[way](dishes.content)
    register(dishes)
    records = load_dicts("dishes")
    assert [len(list(objects_of(d))) for d in records] == [2, 2]
    results = perfect_results("dishes", tmp_path / "output")
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("area", [0, [0], None])
@pytest.mark.parametrize("segmentation", [[], None, [[]], [[1.0, 2, 3, 4]]])
def test_an_object_without_a_mask_is_left_out_of_training_and_measuring(
    dishes, tmp_path, segmentation, area
):
    dishes.content["annotations"][0].update(
        area=area, bbox=[19.0, 1.0, 7.0, 0.0], segmentation=segmentation
    )
    register(dishes)
    assert [len(list(objects_of(d))) for d in load_dicts("dishes")] == [1, 2]
    assert perfect_results("dishes", tmp_path / "output")["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    "segmentation, mention",
    [
        ([[1.0, 2, math.nan, 4, 5, 6]], "the coordinate nan, which is no number"),
        ([[1.0, 2, -math.inf, 4, 5, 6]], "the coordinate -inf"),
        ([[1.0, 2, 3, 4e7, 5, 6]], "y = 4e+07, far outside the image of 64 x 40"),
        ([[0.0, 0, 600, 0] * 9000], "an outline of"),
        ([box(1, 1, 5, 5)[0], ["left", 2, 3, 4, 5, 6]], "'left' in place of a number"),
        ([[1.0, None, 3, 4, 5, 6]], "None in place of a number"),
        ([[True, 2, 3, 4, 5, 6]], "True in place of a number"),
        ("1,2,3,4,5,6", "it must be a list of polygons, or an RLE"),
        (7, "is 7: it must be"),
        ([box(1, 1, 5, 5)[0], 7], "7 in place of a polygon"),
        ([[1, 2], [3, 4], [5, 6]], "points in lists of their own"),
        ([[[1, 2], [3, 4], [5, 6]]], "points in lists of their own"),
        ({"size": [40, 64]}, "an RLE without counts"),
        ({"counts": [2560]}, "an RLE without size"),
        ({"size": [64, 40], "counts": [2560]}, "an RLE of 40 x 64 pixels, the image is 64 x 40"),
        ({"size": "40x64", "counts": [2560]}, "an RLE of the size '40x64'"),
        ({"size": [40, 64], "counts": [2000]}, "add up to 2000 pixels instead of 2560"),
        ({"size": [40, 64], "counts": [5000, -2440]}, "neither a text nor a list of whole"),
        ({"size": [40, 64], "counts": "P"}, "cut off"),
        ({"size": [40, 64], "counts": None}, "neither a text nor a list"),
    ],
)
def test_a_mask_that_cannot_be_drawn_is_told_before_loading(dishes, segmentation, mention):
    dishes.content["annotations"][2]["segmentation"] = segmentation
    with pytest.raises(DatasetError) as error:
        register(dishes)
    sentence = str(error.value)
    assert mention in sentence and "\n" not in sentence
    for name in (str(dishes.json_file), "annotation 3 ", "002.png"):
        assert name in sentence


@pytest.mark.parametrize("height", [None, "tall", 0, -40, 40.5, math.nan])
def test_a_size_that_is_none_is_told(dishes, height):
    dishes.content["images"][1]["height"] = height
    with pytest.raises(DatasetError, match=rf"002\.png of {dishes.json_file} has the height"):
        register(dishes)


def test_a_crowd_mark_that_is_none_is_told(dishes):
    dishes.content["annotations"][1]["iscrowd"] = "many"
    with pytest.raises(DatasetError, match=r"annotation 2 .*001\.png.*iscrowd 'many'"):
        register(dishes)


def test_a_plain_json_is_read_as_it_is(dishes):
    dishes.content["annotations"][0]["segmentation"] = rle(np.eye(40, 64))
    dishes.content["annotations"][2]["segmentation"] = box(-3, -5, 60, 80)  # reaches out
    dishes.write()
    assert plain_instances_json(str(dishes.json_file)) == str(dishes.json_file)


def test_a_json_that_was_changed_is_read_again(dishes):
    count_from_0(dishes.content)
    copied = plain_instances_json(str(dishes.write().json_file))
    assert copied != str(dishes.json_file)
    assert [a["id"] for a in json.loads(Path(copied).read_text())["annotations"]] == [1, 2, 3, 4]
    dishes.content["annotations"].pop()
    copied = plain_instances_json(str(dishes.write().json_file))
    assert len(json.loads(Path(copied).read_text())["annotations"]) == 3
