"""Results in COCO's formats, read back by COCO's own tools."""

import io
import json

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as mask_util

from knet.data.classes import ModelClass
from knet.errors import UsageError
from knet.results import instance_annotations, label_map, panoptic_png_and_annotation
from tests.results.made import CLASSES, CUP, PLATE, SIZE, WALL, result


def test_a_panoptic_png_holds_the_segments_that_its_annotation_lists():
    made = result()
    png, annotation = panoptic_png_and_annotation(made, CLASSES, file_name="1.png", image_id=5)
    ids = rgb2id(png)
    assert png.dtype == np.uint8 and np.array_equal(ids, made["panoptic_seg"][0].numpy())
    assert (annotation["file_name"], annotation["image_id"]) == ("1.png", 5)
    cup, plate, wall = annotation["segments_info"]
    assert [s["category_id"] for s in (cup, plate, wall)] == [7, 92, 3], "the data set's ids"
    assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids)) - {0}
    assert cup["bbox"] == [5, 10, 10, 10] and cup["area"] == 100 and cup["isthing"] is True
    assert wall["bbox"] == [0, 5, 40, 25] and wall["area"] == (ids == 3).sum()
    json.dumps(annotation)


def test_segment_ids_of_three_bytes_and_segments_without_a_pixel():
    segments = torch.zeros(SIZE, dtype=torch.int32)
    segments[3:5, 6:9] = 70000
    infos = [{"id": i, "isthing": True, "category_id": CUP, "score": 0.5} for i in (2, 70000)]
    png, annotation = panoptic_png_and_annotation(
        {"panoptic_seg": (segments, infos)}, CLASSES, file_name="1.png", image_id=1
    )
    assert np.array_equal(rgb2id(png), segments.numpy())
    (segment,) = annotation["segments_info"]
    assert (segment["id"], segment["bbox"], segment["area"]) == (70000, [6, 3, 3, 2], 6)


def test_instances_are_those_of_the_evaluation_in_the_data_sets_ids():
    made = result()
    found = instance_annotations(made, CLASSES, image_id=5)
    expected = instances_to_coco_json(made["instances"], 5)
    dataset_ids = {CUP: 7, WALL: 3, PLATE: 92}
    for annotation in expected:
        annotation["category_id"] = dataset_ids[annotation["category_id"]]
    assert found == expected
    assert np.array_equal(
        mask_util.decode(found[0]["segmentation"]), made["instances"].pred_masks[0].numpy()
    )
    json.dumps(found)


@pytest.mark.parametrize("threshold, count", [(0.0, 3), (0.5, 2), (0.95, 0)])
def test_weak_instances_are_left_out(threshold, count):
    found = instance_annotations(result(), CLASSES, image_id=1, score_threshold=threshold)
    assert len(found) == count


def test_a_label_map_has_the_data_sets_ids_of_the_highest_scores():
    made = result()
    labels = label_map({"sem_seg": made["sem_seg"]}, CLASSES)
    assert labels.dtype == np.uint8
    assert labels[12, 7] == 7 and labels[23, 25] == 92 and labels[29, 0] == 3
    assert set(np.unique(labels)) <= {3, 7, 92}, "a row of the scores that is no class wins nowhere"


def test_without_semantic_results_a_label_map_is_of_the_segments():
    made = result()
    labels = label_map({"panoptic_seg": made["panoptic_seg"]}, CLASSES)
    expected = np.array([255, 7, 92, 3])[made["panoptic_seg"][0].numpy()]
    assert labels.dtype == np.uint8 and np.array_equal(labels, expected)


@pytest.mark.parametrize("largest, dtype", [(254, np.uint8), (255, np.uint16), (65534, np.uint16)])
def test_a_label_map_has_the_bits_that_its_ids_need(largest, dtype):
    classes = (*CLASSES, ModelClass(4, largest, "large", False))
    segments = torch.tensor([[0, 1]], dtype=torch.int32)
    infos = [{"id": 1, "isthing": False, "category_id": 4}]
    labels = label_map({"panoptic_seg": (segments, infos)}, classes)
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "png")
    read = np.asarray(Image.open(file))
    assert labels.dtype == dtype and read.tolist() == [[np.iinfo(dtype).max, largest]]


def test_ids_that_no_label_map_holds_are_told():
    classes = (*CLASSES, ModelClass(4, 65535, "large", False))
    with pytest.raises(UsageError, match="ids 3 to 65535 do not fit into a label map"):
        label_map(result(), classes)
