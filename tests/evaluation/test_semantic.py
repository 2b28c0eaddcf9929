"""Mean IoU: as counted by hand and by Detectron2, for label maps and for panoptic PNGs."""

import json
import math
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from knet.data import register_coco_panoptic
from knet.errors import DatasetError, UsageError
from knet.evaluation import SemanticEvaluator
from knet.evaluation.semantic import class_map
from tests.conftest import PanopticFolder
from tests.evaluation.conftest import evaluate, label_truth, register, semantic_output

NUM_SHAPES = 9


def imperfect_labels(record, rng, num_ids):
    """The true labels, moved a little, a stripe of another class."""
    labels = np.roll(label_truth(record, num_ids), (2, -3), (0, 1))
    labels[10:20] = rng.integers(0, num_ids)
    return labels


def iou_by_hand(truths, predictions, ids):
    """{contiguous id: IoU in percent} over the pixels whose truth is a class."""
    truth = np.concatenate([t.ravel() for t in truths])
    prediction = np.concatenate([p.ravel() for p in predictions])
    known = np.isin(truth, ids)
    truth, prediction = truth[known], prediction[known]
    return {
        i: 100 * np.sum((truth == i) & (prediction == i)) / np.sum((truth == i) | (prediction == i))
        for i in ids
        if (truth == i).any()
    }


def as_detectron2_loads_it(file_name, dtype=int):
    """Its own function asks numpy 2 for what that cannot do."""
    with Image.open(file_name) as image:
        return np.array(image, dtype=dtype)


# -------------------------------------------------------------------------------- the same numbers


def test_panoptic_data_by_hand(shapes, tmp_path):
    records, rng = DatasetCatalog.get(shapes.train), np.random.default_rng(0)
    predictions = [imperfect_labels(r, rng, NUM_SHAPES) % NUM_SHAPES for r in records]
    outputs = [semantic_output(p, NUM_SHAPES) for p in predictions]
    evaluator = SemanticEvaluator(shapes.train, str(tmp_path))
    results = evaluate(evaluator, records, outputs)["sem_seg"]
    truths = [label_truth(r, NUM_SHAPES) for r in records]
    expected = iou_by_hand(truths, predictions, range(NUM_SHAPES))
    assert len(expected) == NUM_SHAPES and 10 < np.mean(list(expected.values())) < 90
    names = MetadataCatalog.get(shapes.train).stuff_classes
    assert {i: results[f"IoU-{names[i]}"] for i in expected} == pytest.approx(expected)
    assert results["mIoU"] == pytest.approx(np.mean(list(expected.values())))
    assert results["BoundaryIoU-disk"] > 0, "Detectron2's other measures are there too"


def test_panoptic_and_semantic_data_of_the_same_images_agree(shapes, tmp_path):
    name = shapes.train.replace("panoptic", "semantic")
    panoptic, semantic = DatasetCatalog.get(shapes.train), DatasetCatalog.get(name)
    rng = np.random.default_rng(1)
    outputs = [
        semantic_output(imperfect_labels(r, rng, NUM_SHAPES) % NUM_SHAPES, NUM_SHAPES)
        for r in panoptic
    ]
    ours = evaluate(SemanticEvaluator(name, str(tmp_path / "a")), semantic, outputs)
    from_pngs = evaluate(SemanticEvaluator(shapes.train, str(tmp_path / "b")), panoptic, outputs)
    theirs = evaluate(
        SemSegEvaluator(name, sem_seg_loading_fn=as_detectron2_loads_it), semantic, outputs
    )
    assert theirs["sem_seg"]["mIoU"] < 90
    assert str(ours) == str(from_pngs) == str(theirs)  # NaN included
    files = ("sem_seg_evaluation.pth", "sem_seg_predictions.json")
    assert sorted(os.listdir(tmp_path / "b")) == list(files), "no label map is written"


def test_ground_truth_against_itself(shapes):
    records = DatasetCatalog.get(shapes.train)
    outputs = [semantic_output(label_truth(r, NUM_SHAPES), NUM_SHAPES) for r in records]
    results = evaluate(SemanticEvaluator(shapes.train), records, outputs)["sem_seg"]
    assert results["mIoU"] == results["pACC"] == results["IoU-disk"] == 100.0


def test_real_panoptic_images(real_coco, tmp_path):
    paths = ("val2017", "panoptic_val2017", "annotations/panoptic_val2017.json")
    register_coco_panoptic("real", *(str(real_coco / "coco" / path) for path in paths))
    records, rng = DatasetCatalog.get("real")[:2], np.random.default_rng(2)
    predictions = [imperfect_labels(r, rng, 133) % 133 for r in records]
    outputs = [semantic_output(p, 133) for p in predictions]
    results = evaluate(SemanticEvaluator("real", str(tmp_path)), records, outputs)["sem_seg"]
    expected = iou_by_hand([label_truth(r, 133) for r in records], predictions, range(133))
    assert results["mIoU"] == pytest.approx(np.mean(list(expected.values())))


def test_ids_with_gaps(gappy, tmp_path):
    records, ids = DatasetCatalog.get(gappy), (0, 2, 5)
    truths = [label_truth(r, 6) for r in records]
    predictions = [np.where(t == 5, 2, t) for t in truths]  # every cup is taken for the wall
    outputs = [semantic_output(p, 6) for p in predictions]
    for output in outputs:
        output["sem_seg"][[1, 3, 4]] = 99  # no classes, whatever the model says
    results = evaluate(SemanticEvaluator(gappy, str(tmp_path)), records, outputs)["sem_seg"]
    expected = iou_by_hand(truths, predictions, ids)
    assert expected[0] == 100 and expected[5] == 0 and 50 < expected[2] < 100
    assert [results[f"IoU-{n}"] for n in ("plate", "wall", "cup")] == pytest.approx(
        [expected[i] for i in ids]
    )
    assert results["mIoU"] == pytest.approx(np.mean(list(expected.values())))
    assert [key for key in results if key.startswith("IoU-")] == [
        "IoU-plate",
        "IoU-wall",
        "IoU-cup",
    ]
    kept = json.loads((tmp_path / "sem_seg_predictions.json").read_text())
    assert {p["category_id"] for p in kept} == {2, 7}, "the category ids of the data set's json"


def test_crowd_and_void_are_ignored(tmp_path):
    folder = PanopticFolder(tmp_path, "shelf")
    ids = np.full((40, 64), 9)
    ids[:10], ids[20:30], ids[30:] = 0, 1, 2
    folder.add(ids, {9: (folder.WALL,), 1: (folder.CUP,), 2: (folder.CUP, 1)})
    name = register(folder)
    (record,) = DatasetCatalog.get(name)
    prediction = np.where(ids == 1, 0, 1)  # the wall where nothing is and where the crowd is
    results = evaluate(SemanticEvaluator(name), [record], [semantic_output(prediction, 3)])
    assert results["sem_seg"]["mIoU"] == 100.0
    assert math.isnan(results["sem_seg"]["IoU-plate"])


def test_panoptic_data_without_things(tmp_path):
    folder = PanopticFolder(tmp_path, "walls")
    folder.content["categories"] = [
        {"id": 8, "name": "floor", "isthing": 0},
        {"id": 7, "name": "wall", "isthing": 0},
    ]
    folder.add(np.repeat([[1], [2]], 6, axis=1), {1: (8,), 2: (7,)})
    name = register(folder)
    (record,) = DatasetCatalog.get(name)
    evaluator = SemanticEvaluator(name, str(tmp_path / "out"))
    output = semantic_output(label_truth(record, 2), 2)
    assert evaluate(evaluator, [record], [output])["sem_seg"]["mIoU"] == 100.0
    kept = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    assert [p["category_id"] for p in kept] == [8, 7]


# ------------------------------------------------------------------------------------ label maps


@pytest.fixture
def label_maps(tmp_path):
    """A function: register images of these label maps, 3 classes; gives records."""

    def use(*maps, **metadata):
        records = []
        for i, labels in enumerate(maps):
            path = str(tmp_path / f"{i}.png")
            kind = np.uint16 if labels.ndim == 2 else np.uint8
            Image.fromarray(labels.astype(kind)).save(path)
            records.append({"file_name": f"{i}.jpg", "sem_seg_file_name": path})
        DatasetCatalog.register("maps", lambda: records)
        MetadataCatalog.get("maps").set(stuff_classes=["a", "b", "c"], **metadata)
        return records

    return use


def rows(*values, dtype=np.uint8):
    """A label map (rows, 5) of these labels."""
    return np.repeat(np.array(values, dtype)[:, None], 5, axis=1)


@pytest.mark.parametrize("ignore_label", [255, 0, 100, 1000, -1])
def test_any_ignore_label(label_maps, ignore_label):
    labels = [1, 1, 2, 2, max(ignore_label, 0)]
    records = label_maps(rows(*labels, dtype=np.int32), ignore_label=ignore_label)
    prediction = rows(1, 2, 2, 2, 1)
    results = evaluate(SemanticEvaluator("maps"), records, [semantic_output(prediction, 3)])
    b, c = results["sem_seg"]["IoU-b"], results["sem_seg"]["IoU-c"]
    if ignore_label == -1:  # the last row is of class a then
        assert (b, c) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
        assert results["sem_seg"]["IoU-a"] == 0
    else:
        assert (b, c) == (50.0, pytest.approx(200 / 3))
        assert math.isnan(results["sem_seg"]["IoU-a"])


def test_the_usual_ignore_label_where_metadata_have_none(label_maps):
    records = label_maps(rows(0, 1, 2, 255))
    output = semantic_output(rows(0, 1, 2, 2), 3)
    assert evaluate(SemanticEvaluator("maps"), records, [output])["sem_seg"]["mIoU"] == 100.0


def test_predictions_have_the_ids_of_the_files(label_maps, tmp_path):
    records = label_maps(
        rows(0, 1, 2), ignore_label=255, stuff_dataset_id_to_contiguous_id={7: 0, 4: 1, 9: 2}
    )
    evaluator = SemanticEvaluator("maps", str(tmp_path / "out"))
    evaluate(evaluator, records, [semantic_output(rows(0, 1, 1), 3)])
    kept = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    assert [p["category_id"] for p in kept] == [7, 4]


@pytest.mark.parametrize(
    "labels, sentence",
    [
        (rows(0, 1, 3), r"1\.png has the class id 3, .* 3 classes 0 to 2 and 255"),
        (rows(0, 1), r"1\.png is 5 x 2, its image 1\.jpg is 5 x 3"),
        (np.zeros((3, 5, 3), np.uint8), r"1\.png has 3 channels"),
    ],
)
def test_a_label_map_that_does_not_fit(label_maps, labels, sentence):
    records = label_maps(rows(0, 1, 2), labels, ignore_label=255)
    outputs = [semantic_output(rows(0, 1, 2), 3)] * 2
    with pytest.raises(DatasetError, match=sentence):
        evaluate(SemanticEvaluator("maps"), records, outputs)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_model_of_other_classes(label_maps, num_classes):
    records = label_maps(rows(0, 1))
    output = {"sem_seg": torch.zeros(num_classes, 2, 5)}
    with pytest.raises(UsageError, match=rf"tells {num_classes} classes apart, .*'maps'.* has 3:"):
        evaluate(SemanticEvaluator("maps"), records, [output])


def test_a_label_map_that_is_missing(label_maps):
    (record,) = label_maps(rows(0, 1))
    os.remove(record["sem_seg_file_name"])
    with pytest.raises(DatasetError, match=r"cannot read .*0\.png"):
        evaluate(SemanticEvaluator("maps"), [record], [semantic_output(rows(0, 1), 3)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_the_class_of_a_pixel_is_the_first_of_the_highest(dtype):
    generator = torch.Generator().manual_seed(0)
    for num_classes, values in ((1, 2), (3, 2), (9, 4), (40, 200)):
        scores = torch.randint(0, values, (num_classes, 19, 30), generator=generator).to(dtype)
        labels = class_map(scores)
        assert np.array_equal(labels, scores.double().numpy().argmax(axis=0))


def test_equal_to_detectron2_with_every_key(shapes, tmp_path):
    records, results = DatasetCatalog.get(shapes.train), []
    num_ids = len(MetadataCatalog.get(shapes.train).stuff_classes)
    outputs = [semantic_output(np.roll(label_truth(r, num_ids), 3, 1), num_ids) for r in records]
    for official in (False, True):
        folder = tmp_path / str(official)
        evaluator = SemanticEvaluator(shapes.train, str(folder), official_tool=official)
        results.append(repr(evaluate(evaluator, records, outputs)))
    assert results[0] == results[1] and "BoundaryIoU" in results[0]
    first, second = (tmp_path / f / "sem_seg_predictions.json" for f in ("False", "True"))
    assert first.read_bytes() == second.read_bytes()
