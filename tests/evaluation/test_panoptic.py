"""Panoptic quality: Detectron2's to the last digit, and more where Detectron2 gives up."""

import json
import logging
import math
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image

from knet.data import register_coco_panoptic
from knet.errors import DatasetError
from knet.evaluation import PanopticEvaluator
from tests.conftest import PanopticFolder
from tests.evaluation import conftest
from tests.evaluation.conftest import panoptic_truth as truth
from tests.evaluation.conftest import register


def imperfect(record, rng, classes):
    """The ground truth, moved a little, with segments lost, of another class or made up."""
    ids, segments = truth(record)["panoptic_seg"]
    ids = torch.roll(ids, (int(rng.integers(-4, 5)), int(rng.integers(-4, 5))), (0, 1))
    kept = []
    for segment in segments:
        chance = rng.random()
        if chance < 0.2 or not (ids == segment["id"]).any():
            ids[ids == segment["id"]] = 0
            continue
        if chance < 0.4:
            segment["category_id"], segment["isthing"] = classes[rng.integers(len(classes))]
        kept.append(segment)
    ids[:12, :12] = 2**24 - 1
    kept = [s for s in kept if (ids == s["id"]).any()]
    kept.append({"id": 2**24 - 1, "category_id": classes[0][0], "isthing": classes[0][1]})
    return {"panoptic_seg": (ids, kept)}


def evaluate(evaluator, records, outputs):
    return conftest.evaluate(evaluator, records, outputs)["panoptic_seg"]


def classes_of(name):
    """[(contiguous id, is it a thing)]"""
    metadata = MetadataCatalog.get(name)
    things = [(i, True) for i in metadata.thing_dataset_id_to_contiguous_id.values()]
    return things + [(i, False) for i in metadata.stuff_dataset_id_to_contiguous_id.values()]


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_detectron2_to_the_last_digit(shapes, tmp_path, seed):
    records = DatasetCatalog.get(shapes.train)
    rng, classes = np.random.default_rng(seed), classes_of(shapes.train)
    outputs = [imperfect(record, rng, classes) for record in records]
    theirs = evaluate(COCOPanopticEvaluator(shapes.train), records, outputs)
    ours = evaluate(PanopticEvaluator(shapes.train, str(tmp_path)), records, outputs)
    assert 5 < theirs["PQ"] < 95 and theirs["PQ_th"] != theirs["PQ_st"]
    assert {key: ours[key] for key in theirs} == theirs
    names = MetadataCatalog.get(shapes.train).stuff_classes
    assert set(ours) - set(theirs) == {f"PQ-{name}" for name in names}
    per_class = [ours[f"PQ-{name}"] for name in names]
    assert np.nanmean(per_class) == pytest.approx(ours["PQ"], rel=1e-12)


def test_equal_to_detectron2_on_real_images(real_coco, tmp_path):
    coco = real_coco / "coco"
    register_coco_panoptic(
        "real",
        str(coco / "val2017"),
        str(coco / "panoptic_val2017"),
        str(coco / "annotations" / "panoptic_val2017.json"),
    )
    records = DatasetCatalog.get("real")
    rng, classes = np.random.default_rng(0), classes_of("real")
    outputs = [imperfect(record, rng, classes) for record in records]
    theirs = evaluate(COCOPanopticEvaluator("real"), records, outputs)
    ours = evaluate(PanopticEvaluator("real", str(tmp_path)), records, outputs)
    assert theirs["PQ"] > 5
    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize("keep", [True, False])
def test_cocos_tool_itself_reports_the_same(shapes, tmp_path, keep):
    records = DatasetCatalog.get(shapes.train)
    rng, classes = np.random.default_rng(5), classes_of(shapes.train)
    outputs = [imperfect(record, rng, classes) for record in records]
    reported = []
    for official in (False, True):
        folder = str(tmp_path / str(official))
        options = {"keep_predictions": keep, "official_tool": official}
        evaluator = PanopticEvaluator(shapes.train, folder, **options)
        reported.append(repr(evaluate(evaluator, records, outputs)))
        files = {"panoptic_quality.json", *(("predictions", "predictions.json") if keep else ())}
        assert set(os.listdir(folder)) == files
    assert reported[0] == reported[1]


def test_a_png_of_another_size_than_its_image_is_told(pottery):
    name = register(pottery)
    records = DatasetCatalog.get(name)
    ids, segments = truth(records[0])["panoptic_seg"]
    with pytest.raises(DatasetError, match=r"PNG .*001\.png is 64 x 40, its image .* is 62 x 40"):
        evaluate(PanopticEvaluator(name), records[:1], [{"panoptic_seg": (ids[:, 2:], segments)}])


@pytest.mark.parametrize("official", [False, True])
def test_a_png_that_is_none_or_has_an_id_without_segment_is_told(pottery, official):
    lost = pottery.content["annotations"][1]["segments_info"].pop()["id"]
    name = register(pottery)
    records = DatasetCatalog.get(name)
    outputs = [truth(r) for r in records]
    for _, segments in (o["panoptic_seg"] for o in outputs):
        segments.append({"id": lost, "category_id": 0, "isthing": True})
    evaluator = PanopticEvaluator(name, official_tool=official)
    with pytest.raises(DatasetError, match=rf"segment id {lost}, which the json's segments_info"):
        evaluate(evaluator, records[1:], outputs[1:])
    path = records[0]["pan_seg_file_name"]
    open(path, "wb").close()
    with pytest.raises(DatasetError, match=os.path.basename(path)):
        evaluate(evaluator, records[:1], outputs[:1])


def test_ground_truth_against_itself(shapes, tmp_path):
    records = DatasetCatalog.get(shapes.train)
    results = evaluate(
        PanopticEvaluator(shapes.train, str(tmp_path)),
        records,
        [truth(r) for r in records],
    )
    assert {v for v in results.values() if not math.isnan(v)} == {100.0}
    assert results["PQ"] == results["PQ_th"] == results["PQ_st"] == 100.0


def test_what_is_kept_can_be_evaluated_again(shapes, tmp_path):
    records = DatasetCatalog.get(shapes.val)
    rng, classes = np.random.default_rng(3), classes_of(shapes.val)
    outputs = [imperfect(record, rng, classes) for record in records]
    evaluate(PanopticEvaluator(shapes.val, str(tmp_path)), records, outputs)
    content = json.loads((tmp_path / "predictions.json").read_text())
    by_image = {a["image_id"]: a for a in content["annotations"]}
    metadata = MetadataCatalog.get(shapes.val)
    to_dataset = {
        v: k
        for k, v in {
            **metadata.thing_dataset_id_to_contiguous_id,
            **metadata.stuff_dataset_id_to_contiguous_id,
        }.items()
    }
    for record, output in zip(records, outputs):
        annotation = by_image[record["image_id"]]
        png = np.asarray(Image.open(tmp_path / "predictions" / annotation["file_name"]))
        ids, segments = output["panoptic_seg"]
        assert np.array_equal(rgb2id(png), ids.numpy())
        assert {(s["id"], s["category_id"]) for s in annotation["segments_info"]} == {
            (s["id"], to_dataset[s["category_id"]]) for s in segments
        }


def test_without_a_folder_nothing_is_kept(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = DatasetCatalog.get(shapes.val)
    results = evaluate(PanopticEvaluator(shapes.val), records, [truth(r) for r in records])
    assert results["PQ"] == 100.0 and os.listdir(tmp_path) == []


# ---------------------------------------------------------------- where COCO's tool would divide


def one_kind(tmp_path, keep):
    """The name of a set of two images of which only these categories are left."""
    folder = PanopticFolder(tmp_path, "one_kind")
    folder.add_ordinary(2)
    for annotation in folder.content["annotations"]:
        annotation["segments_info"] = [
            s for s in annotation["segments_info"] if s["category_id"] in keep
        ]
        path = folder.pngs / annotation["file_name"]
        ids = rgb2id(np.asarray(Image.open(path)))
        listed = [s["id"] for s in annotation["segments_info"]]
        Image.fromarray(id2rgb(np.where(np.isin(ids, listed), ids, 0))).save(path)
    folder.content["categories"] = [c for c in folder.CATEGORIES if c["id"] in keep]
    return register(folder)


def as_nan(value):
    return "nan" if math.isnan(value) else value


@pytest.mark.parametrize(
    "keep, expected",
    [
        ((PanopticFolder.WALL,), (100.0, "nan", 100.0)),
        ((PanopticFolder.CUP, PanopticFolder.PLATE), (100.0, 100.0, "nan")),
        ((), ("nan", "nan", "nan")),
    ],
    ids=["no things", "no stuff", "nothing"],
)
def test_data_without_a_kind_of_segment(tmp_path, keep, expected):
    name = one_kind(tmp_path, keep)
    records = DatasetCatalog.get(name)
    outputs = [truth(record) for record in records]
    results = evaluate(PanopticEvaluator(name, str(tmp_path / "out")), records, outputs)
    assert tuple(as_nan(results[key]) for key in ("PQ", "PQ_th", "PQ_st")) == expected
    content = json.loads((tmp_path / "out" / "panoptic_quality.json").read_text())
    kept = tuple(content[group]["PQ"] for group in ("All", "Things", "Stuff"))
    assert kept == tuple(None if value == "nan" else value for value in expected)


def test_a_class_that_never_occurs_is_no_zero(pottery, tmp_path, caplog):
    pottery.content["categories"].append({"id": 50, "name": "vase", "isthing": 1})
    name = register(pottery)
    records = DatasetCatalog.get(name)
    with caplog.at_level(logging.INFO, logger="knet"):
        results = evaluate(
            PanopticEvaluator(name, str(tmp_path / "out")),
            records,
            [truth(r) for r in records],
        )
    assert math.isnan(results["PQ-vase"]) and results["PQ"] == 100.0
    content = json.loads((tmp_path / "out" / "panoptic_quality.json").read_text())
    assert content["per_class"]["vase"] == {"PQ": None, "SQ": None, "RQ": None}
    assert content["Things"]["classes"] == 2 and content["All"]["classes"] == 3
    assert "vase" in caplog.text and "plate" in caplog.text


def test_a_class_that_is_only_predicted_counts_as_wrong(pottery):
    pottery.content["categories"].append({"id": 50, "name": "vase", "isthing": 1})
    name = register(pottery)
    records = DatasetCatalog.get(name)
    outputs = [truth(record) for record in records]
    for output in outputs:
        cup = next(s for s in output["panoptic_seg"][1] if s["category_id"] == 0)
        cup["category_id"] = 3  # the vase
    results = evaluate(PanopticEvaluator(name), records, outputs)
    assert results["PQ-vase"] == 0.0 and results["PQ-wall"] == 100.0
    assert results["PQ-cup"] == pytest.approx(100 * 2 / (2 + 0.5 * 2))


def test_a_prediction_of_nothing_but_void(shapes, tmp_path):
    records = DatasetCatalog.get(shapes.val)
    void = [
        {"panoptic_seg": (torch.zeros(r["height"], r["width"], dtype=torch.int32), [])}
        for r in records
    ]
    ours = evaluate(PanopticEvaluator(shapes.val, str(tmp_path)), records, void)
    theirs = evaluate(COCOPanopticEvaluator(shapes.val), records, void)
    assert ours["PQ"] == theirs["PQ"] == 0.0


# ------------------------------------------------------------------------- data that is not whole


def test_an_image_that_was_not_evaluated_is_named(pottery):
    name = register(pottery)
    records = DatasetCatalog.get(name)[:1]
    with pytest.raises(DatasetError, match=r"image 2 of .*pottery\.json.*DATASETS\.TEST"):
        evaluate(PanopticEvaluator(name), records, [truth(records[0])])


def test_images_of_one_name_in_two_folders_are_two(tmp_path):
    folder = PanopticFolder(tmp_path, "streets")
    for place, column in (("left", 5), ("right", 30)):
        ids = np.full((40, 64), 1)
        ids[10:30, column : column + 20] = 2
        folder.add(ids, {1: (folder.WALL,), 2: (folder.CUP,)}, stem=f"{place}/0001")
    name = register(folder)
    records = DatasetCatalog.get(name)
    results = evaluate(
        PanopticEvaluator(name, str(tmp_path / "out")),
        records,
        [truth(r) for r in records],
    )
    assert results["PQ"] == 100.0


@pytest.mark.parametrize("no", ["0", False, 0.0])
def test_stuff_that_a_json_marks_in_another_notation_is_no_thing(pottery, tmp_path, no):
    pottery.content["categories"][1]["isthing"] = no
    name = register(pottery)
    records = DatasetCatalog.get(name)
    outputs = [truth(record) for record in records]
    for output in outputs:  # without the wall
        ids, segments = output["panoptic_seg"]
        wall = next(s for s in segments if not s["isthing"])
        ids[ids == wall["id"]] = 0
        output["panoptic_seg"] = (ids, [s for s in segments if s is not wall])
    results = evaluate(PanopticEvaluator(name, str(tmp_path)), records, outputs)
    assert (results["PQ_th"], results["PQ_st"]) == (100.0, 0.0)
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert [c["isthing"] for c in content["categories"]] == [1, 0, 1]


@pytest.mark.parametrize("key", ["iscrowd", "area"])
def test_segments_without_a_key_that_cocos_tool_reads(pottery, key):
    # training does not need it: either the evaluation does without, or somebody says so
    for annotation in pottery.content["annotations"]:
        for segment in annotation["segments_info"]:
            del segment[key]
    try:
        name = register(pottery)
        records = DatasetCatalog.get(name)
        results = evaluate(PanopticEvaluator(name), records, [truth(r) for r in records])
    except DatasetError as error:
        assert key in str(error) and str(pottery.json_file) in str(error)
    else:
        assert results["PQ"] == 100.0


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_areas_that_are_not_those_of_the_png_are_told(pottery, caplog, factor):
    segment = pottery.content["annotations"][1]["segments_info"][0]
    segment["area"] = int(factor * segment["area"])
    name = register(pottery)
    records = DatasetCatalog.get(name)
    outputs = [truth(r) for r in records]
    results = []
    for official in (False, True):
        caplog.clear()
        evaluator = PanopticEvaluator(name, official_tool=official)
        results.append(evaluate(evaluator, records, outputs))
        (told,) = [r.getMessage() for r in caplog.records if "PQ is wrong" in r.getMessage()]
        assert str(pottery.json_file) in told and "of 1 segments in 1 images" in told
        assert f"the segment {segment['id']} of the image" in told
    assert results[0] == pytest.approx(results[1], nan_ok=True)


@pytest.mark.parametrize("official", [False, True])
def test_areas_a_little_off_or_of_crowd_are_not_told(pottery, caplog, official):
    for annotation in pottery.content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["area"] += 2
        segment.update(iscrowd=1, area=1)  # its area counts for nothing
    name = register(pottery)
    records = DatasetCatalog.get(name)
    evaluator = PanopticEvaluator(name, official_tool=official)
    evaluate(evaluator, records, [truth(r) for r in records])
    assert "PQ is wrong" not in caplog.text
