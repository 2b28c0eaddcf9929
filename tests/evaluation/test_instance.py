"""Mask AP: COCO's own numbers, whatever the data set's ids and wherever its ground truth is."""

import contextlib
import copy
import io
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from knet.data import register_coco_panoptic
from knet.data.image_reading import ImageReader
from knet.errors import DatasetError, UsageError
from knet.evaluation import InstanceEvaluator, coco_ap
from knet.evaluation.coco_truth import check_ground_truth
from tests.conftest import PanopticFolder
from tests.evaluation.conftest import (
    evaluate,
    imperfect_instances,
    instance_truth,
    make_instances,
    register,
)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def thing_ids(name):
    return list(MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id.values())


def imperfect(name, seed=0):
    rng = np.random.default_rng(seed)
    return [imperfect_instances(r, rng, thing_ids(name)) for r in DatasetCatalog.get(name)]


def check(name):
    check_ground_truth(name, DatasetCatalog.get(name))


def by_pycocotools(truth, results, task="segm"):
    """{metric: percent} and {category id: AP} of two json files, by COCO's tool alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth))
        truth.dataset.setdefault("info", {})
        results = json.loads(results.read_text())
        for result in results if task == "segm" else ():
            del result["bbox"]
        tool = COCOeval(truth, truth.loadRes(results), task)
        tool.evaluate()
        tool.accumulate()
        tool.summarize()
    per_class = {}
    for i, category in enumerate(tool.params.catIds):
        precision = tool.eval["precision"][:, :, i, 0, -1]
        precision = precision[precision > -1]
        per_class[category] = 100 * precision.mean() if precision.size else math.nan
    metrics = {k: math.nan if v < 0 else 100 * v for k, v in zip(METRICS, tool.stats)}
    return metrics, per_class


def without_json(name, **changes):
    """The same data set under another name, its metadata without the json of its objects."""
    metadata = MetadataCatalog.get(name).as_dict()
    content = {k: v for k, v in metadata.items() if k not in ("name", "json_file")}
    DatasetCatalog.register(f"{name}_bare", lambda: DatasetCatalog.get(name))
    MetadataCatalog.get(f"{name}_bare").set(**content, **changes)
    return f"{name}_bare"


# -------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("tool", ["hotcoco", "pycocotools"])
def test_equal_to_cocos_tool(shapes, tmp_path, tool, monkeypatch):
    if tool != "hotcoco":
        monkeypatch.setattr(coco_ap, "find_spec", lambda name: None)
    records, metadata = DatasetCatalog.get(shapes.train), MetadataCatalog.get(shapes.train)
    evaluator = InstanceEvaluator(shapes.train, str(tmp_path))
    results = evaluate(evaluator, records, imperfect(shapes.train))
    for task in ("segm", "bbox"):
        metrics, per_class = by_pycocotools(
            metadata.json_file, tmp_path / "coco_instances_results.json", task
        )
        assert 5 < metrics["AP"] < 95
        for key, value in metrics.items():
            assert str(results[task][key]) == str(float(value)), key
        for category, contiguous_id in metadata.thing_dataset_id_to_contiguous_id.items():
            ours = results[task][f"AP-{metadata.thing_classes[contiguous_id]}"]
            assert str(ours) == str(float(per_class[category]))
    assert set(results) == {"bbox", "segm"}


def test_equal_to_detectron2_on_an_instance_data_set(shapes, tmp_path):
    panoptic, name = shapes.val, shapes.val.replace("panoptic", "instance")
    to_instance_ids = {i: n for n, i in enumerate(sorted(thing_ids(panoptic)))}
    outputs = imperfect(panoptic)
    for output in outputs:
        output["instances"].pred_classes.apply_(to_instance_ids.get)
    records = DatasetCatalog.get(name)
    ours = evaluate(InstanceEvaluator(name, str(tmp_path)), records, outputs)
    tool = COCOEvaluator(name, ("bbox", "segm"), output_dir=None, use_fast_impl=False)
    theirs = evaluate(tool, records, outputs)
    assert theirs["segm"]["AP"] > 5
    assert str(ours) == str(theirs)  # NaN included


def test_ground_truth_against_itself(shapes, tmp_path):
    records = DatasetCatalog.get(shapes.train)
    outputs = [instance_truth(r) for r in records]
    results = evaluate(InstanceEvaluator(shapes.train, str(tmp_path)), records, outputs)
    for task in ("segm", "bbox"):
        values = [value for value in results[task].values() if not math.isnan(value)]
        assert values == pytest.approx([100.0] * len(values)) and len(values) > 5
        assert results[task]["AP"] == pytest.approx(100.0)


def test_equal_to_cocos_tool_on_real_images(real_data, real_coco, tmp_path):
    coco, theirs = real_coco / "coco", real_data / "coco" / "annotations"
    paths = ("val2017", "panoptic_val2017", "annotations/panoptic_val2017.json")
    results = []
    # four of the sixty images of COCO's own json
    for name, json_file in (("pngs", None), ("json", str(theirs / "instances_val2017.json"))):
        register_coco_panoptic(name, *(str(coco / path) for path in paths), json_file)
        evaluator = InstanceEvaluator(name, str(tmp_path / name))
        results.append(evaluate(evaluator, DatasetCatalog.get(name), imperfect(name)))
    metrics, _ = by_pycocotools(
        tmp_path / "pngs" / "instances_ground_truth.json",
        tmp_path / "pngs" / "coco_instances_results.json",
    )
    assert metrics["AP"] > 1
    assert {k: results[0]["segm"][k] for k in METRICS} == pytest.approx(metrics, nan_ok=True)
    assert str(results[0]) == str(results[1])


def test_real_instances_whose_json_has_no_info(real_data, tmp_path):
    folder = real_data / "nuclei"
    json_file = folder / "annotations" / "instances_val.json"
    register_coco_instances("nuclei", {}, str(json_file), str(folder / "val"))
    outputs, rng = [], np.random.default_rng(0)
    for record in DatasetCatalog.get("nuclei")[:15]:
        masks = [
            np.roll(mask_util.decode(a["segmentation"]), int(rng.integers(-2, 3)), 0)
            for a in record["annotations"]
        ]
        classes, scores = [0] * len(masks), rng.random(len(masks)).tolist()
        size = (record["height"], record["width"])
        outputs.append(make_instances(masks, classes, scores, size))
    evaluator = InstanceEvaluator("nuclei", str(tmp_path))
    results = evaluate(evaluator, DatasetCatalog.get("nuclei"), outputs)
    metrics, _ = by_pycocotools(json_file, tmp_path / "coco_instances_results.json")
    assert 2 < metrics["AP"] < 95
    assert {k: results["segm"][k] for k in METRICS} == pytest.approx(metrics, nan_ok=True)


# -------------------------------------------------------------------------- where the truth is from


@pytest.mark.parametrize("changes", [{}, {"json_file": None}, {"json_file": "nowhere.json"}])
def test_truth_from_the_pngs_is_that_of_the_json(shapes, tmp_path, changes):
    records, outputs = DatasetCatalog.get(shapes.train), imperfect(shapes.train)
    json_file = MetadataCatalog.get(shapes.train).json_file
    of_json = evaluate(InstanceEvaluator(shapes.train, str(tmp_path / "a")), records, outputs)
    assert not (tmp_path / "a" / "instances_ground_truth.json").exists()
    bare = without_json(shapes.train, **changes)
    of_pngs = evaluate(InstanceEvaluator(bare, str(tmp_path / "b")), records, outputs)
    assert str(of_pngs) == str(of_json)
    written, given = (
        json.loads(Path(path).read_text())
        for path in (tmp_path / "b" / "instances_ground_truth.json", json_file)
    )
    keys = ("image_id", "category_id", "segmentation", "area", "bbox", "iscrowd")
    assert [[a[k] for k in keys] for a in written["annotations"]] == [
        [a[k] for k in keys] for a in given["annotations"]
    ]


def test_a_crowd_in_a_png_stays_one(tmp_path):
    folder = PanopticFolder(tmp_path, "shelf")
    ids = np.full((40, 64), 9)
    ids[5:15, 5:15], ids[20:, 20:] = 1, 2
    segments = {9: (folder.WALL,), 1: (folder.CUP,), 2: (folder.CUP, 1), 3: (folder.PLATE,)}
    folder.add(ids, segments)  # the plate has no pixel
    name = register(folder)
    (record,) = DatasetCatalog.get(name)
    (cup,) = instance_truth(record)["instances"].pred_masks.numpy()[:1]
    in_crowd, elsewhere = np.zeros((2, 40, 64), bool)
    in_crowd[25:30, 30:35], elsewhere[5:15, 30:40] = True, True
    for extra, expected in ((in_crowd, 100.0), (elsewhere, 50.0)):
        output = make_instances([cup, extra], [0, 0], [0.6, 0.9], (40, 64))
        results = evaluate(InstanceEvaluator(name, str(tmp_path / "out")), [record], [output])
        assert results["segm"]["AP-cup"] == pytest.approx(expected), "a crowd forgives"
    truth = json.loads((tmp_path / "out" / "instances_ground_truth.json").read_text())
    told = [(a["category_id"], a["iscrowd"], a["area"], a["bbox"]) for a in truth["annotations"]]
    assert told == [(3, 0, 100, [5, 5, 10, 10]), (3, 1, 20 * 44, [20, 20, 44, 20])]


def test_ids_with_gaps_and_classes_in_any_order(gappy, tmp_path):
    records = DatasetCatalog.get(gappy)
    outputs = [instance_truth(r) for r in records]
    results = evaluate(InstanceEvaluator(gappy, str(tmp_path / "a")), records, outputs)
    assert results["segm"]["AP-cup"] == results["segm"]["AP-plate"] == pytest.approx(100.0)
    assert outputs[0]["instances"].pred_classes.tolist() == [5, 5, 0], "left as it was"
    # every plate is missed: the category ids do not rise with the contiguous ones
    for output in outputs:
        output["instances"] = output["instances"][output["instances"].pred_classes == 5]
    results = evaluate(InstanceEvaluator(gappy, str(tmp_path / "b")), records, outputs)
    assert results["segm"]["AP-cup"] == pytest.approx(100.0)
    assert results["segm"]["AP-plate"] == 0.0
    kept = json.loads((tmp_path / "b" / "coco_instances_results.json").read_text())
    assert {r["category_id"] for r in kept} == {3}, "the category id of the data set's json"


@pytest.mark.parametrize("form", ["polygons", "rle", "counts", "bitmap"])
def test_a_data_set_registered_in_python(tmp_path, form):
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 5:25] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    segmentation = {
        "polygons": [[5, 10, 25, 10, 25, 20, 5, 20]],
        "rle": {"size": rle["size"], "counts": rle["counts"].decode()},
        "counts": {"size": [40, 50], "counts": _counts(mask)},
        "bitmap": mask,
    }[form]
    crowd = np.zeros((40, 50), np.uint8)
    crowd[30:] = 1
    annotations = [
        {"category_id": 1, "segmentation": segmentation},
        {"category_id": 1, "segmentation": crowd, "iscrowd": 1},
    ]
    if form == "rle":
        annotations[0].update(bbox=[5, 10, 25, 20], bbox_mode=BoxMode.XYXY_ABS)
    record = {"file_name": "a.png", "image_id": "a", "height": 40, "width": 50}
    DatasetCatalog.register("mine", lambda: copy.deepcopy([{**record, "annotations": annotations}]))
    MetadataCatalog.get("mine").set(thing_classes=["cat", "dog"])
    in_crowd = np.zeros_like(mask)
    in_crowd[32:36, 4:8] = 1
    output = make_instances([mask, in_crowd], [1, 1], [0.5, 0.9], (40, 50))
    results = evaluate(InstanceEvaluator("mine", str(tmp_path / "out")), [record], [output])
    assert results["segm"]["AP"] == results["bbox"]["AP-dog"] == pytest.approx(100.0)
    assert math.isnan(results["segm"]["AP-cat"])
    # the data set changes: what the first evaluation has written is not taken for its truth
    annotations[1]["iscrowd"] = 0
    results = evaluate(InstanceEvaluator("mine", str(tmp_path / "out")), [record], [output])
    assert results["segm"]["AP"] == pytest.approx(25.0, abs=1), "half of them, and a false one"


def test_sizes_that_the_data_do_not_tell(tmp_path):
    """Are those of the images as the model reads them."""
    np.save(tmp_path / "a.npy", np.zeros((40, 50, 5), np.uint8))
    record = {"file_name": str(tmp_path / "a.npy"), "image_id": 1}
    polygon = {"category_id": 0, "segmentation": [[5, 10, 25, 10, 25, 20, 5, 20]]}
    DatasetCatalog.register("bands", lambda: [{**record, "annotations": [dict(polygon)]}])
    MetadataCatalog.get("bands").set(thing_classes=["field"])
    mask = np.zeros((40, 50), bool)
    mask[10:20, 5:25] = True
    output = make_instances([mask], [0], [0.9], (40, 50))
    evaluator = InstanceEvaluator("bands", str(tmp_path / "out"), reader=ImageReader("RAW"))
    assert evaluate(evaluator, [record], [output])["segm"]["AP"] == pytest.approx(100.0)


def _counts(mask):
    """Uncompressed RLE: lengths of the runs, column by column, zeros first."""
    pixels = mask.T.ravel()
    ends = np.flatnonzero(np.diff(pixels)) + 1
    return np.diff(np.concatenate(([0], ends, [pixels.size]))).tolist()


def test_a_json_without_what_cocos_tool_reads(shapes, tmp_path):
    name = shapes.val.replace("panoptic", "instance")
    metadata = MetadataCatalog.get(name)
    DatasetCatalog.get(name)  # writes its files, if no test before has
    content = json.loads(Path(metadata.json_file).read_text())
    del content["info"], content["licenses"]
    for annotation in content["annotations"]:
        del annotation["area"], annotation["bbox"]
        if not annotation["iscrowd"]:
            del annotation["iscrowd"]
    path = tmp_path / "bare.json"
    path.write_text(json.dumps(content))
    register_coco_instances("bare", {}, str(path), metadata.image_root)
    outputs = [instance_truth(r) for r in DatasetCatalog.get(shapes.val)]
    to_instance_ids = {i: n for n, i in enumerate(sorted(thing_ids(shapes.val)))}
    for output in outputs:
        output["instances"].pred_classes.apply_(to_instance_ids.get)
    check("bare")
    evaluator = InstanceEvaluator("bare", str(tmp_path / "out"))
    results = evaluate(evaluator, DatasetCatalog.get("bare"), outputs)
    complete = InstanceEvaluator(name, str(tmp_path / "complete"))
    expected = evaluate(complete, DatasetCatalog.get(name), outputs)
    assert results["segm"]["AP"] == pytest.approx(100.0)
    assert str(results) == str(expected)


# ------------------------------------------------------------------ json and data set do not agree


@pytest.fixture
def own_json(pottery, tmp_path):
    """A function: change COCO content of pottery's objects, make it its json, give its name."""
    name = register(pottery)
    InstanceEvaluator(name, str(tmp_path / "truth"))
    content = json.loads((tmp_path / "truth" / "instances_ground_truth.json").read_text())

    def use(change):
        changed = copy.deepcopy(content)
        change(changed)
        (tmp_path / "own.json").write_text(json.dumps(changed))
        MetadataCatalog.remove(name)
        DatasetCatalog.remove(name)
        paths = (pottery.images, pottery.pngs, pottery.json_file, tmp_path / "own.json")
        register_coco_panoptic(name, *map(str, paths))
        return name

    return use


def test_images_that_only_one_of_them_has(own_json, tmp_path, caplog):
    def change(content):
        content["images"][0]["id"] = 77
        for annotation in content["annotations"]:
            annotation["image_id"] = {1: 77, 2: 2}[annotation["image_id"]]

    name = own_json(change)
    records = DatasetCatalog.get(name)
    outputs = [instance_truth(r) for r in records]
    outputs[0]["instances"].pred_masks[:] = True  # wrong, but nobody can tell
    with caplog.at_level(logging.WARNING, logger="knet"):
        results = evaluate(InstanceEvaluator(name, str(tmp_path / "out")), records, outputs)
    assert results["segm"]["AP"] == pytest.approx(100.0)
    assert "1 of 2 images" in caplog.text and "own.json" in caplog.text


def test_a_json_with_the_stuff_classes_too(own_json, tmp_path):
    def change(content):
        content["categories"].insert(0, {"id": 7, "name": "wall"})
        content["annotations"].append({**content["annotations"][0], "id": 99, "category_id": 7})

    name = own_json(change)
    records = DatasetCatalog.get(name)
    outputs = [instance_truth(r) for r in records]
    results = evaluate(InstanceEvaluator(name, str(tmp_path / "out")), records, outputs)
    assert results["segm"]["AP"] == pytest.approx(100.0)
    assert [key for key in results["segm"] if "-" in key] == ["AP-plate", "AP-cup"]


def all_images(key, value):
    return lambda content: [image.update({key: value}) for image in content["images"]]


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda c: c.pop("categories"), r"own\.json is no COCO instances json"),
        (all_images("id", 55), r"own\.json has no image of .*'pottery'"),
        (all_images("width", 9), r"own\.json .*64 x 40 pixels, the image is 9 x 40"),
        (lambda c: [x.update(id=40 + x["id"]) for x in c["categories"]], r"category ids.*\[2, 3\]"),
        (
            lambda c: [x.update(id=5 - x["id"]) for x in c["categories"]],
            r"the category 3 the name plate, .* it is cup",
        ),
    ],
)
def test_a_json_of_something_else(own_json, change, sentence):
    with pytest.raises(DatasetError, match=sentence):
        check(own_json(change))


def test_a_file_that_is_no_json(own_json, tmp_path):
    name = own_json(lambda content: None)
    check(name)
    (tmp_path / "own.json").write_text("no json")
    for use in (check, lambda name: InstanceEvaluator(name, str(tmp_path / "out"))):
        with pytest.raises(DatasetError, match=r"own\.json is no COCO instances json"):
            use(name)


@pytest.mark.parametrize("ids", [{}, {"image_id": 4}], ids=["none", "the same"])
def test_images_without_an_id_of_their_own(ids):
    image = {"file_name": "a.png", "height": 4, "width": 4, "annotations": [{}], **ids}
    DatasetCatalog.register("mine", lambda: [image, {**image, "file_name": "b.png"}])
    MetadataCatalog.get("mine").set(thing_classes=["cat"])
    with pytest.raises(DatasetError, match="'mine' need an 'image_id' each"):
        check("mine")


def test_an_object_of_a_class_without_name(tmp_path):
    mask = np.ones((4, 4), np.uint8)
    image = {"file_name": "a.png", "image_id": 1, "height": 4, "width": 4}
    image["annotations"] = [{"category_id": 3, "segmentation": mask}]
    DatasetCatalog.register("mine", lambda: [image])
    MetadataCatalog.get("mine").set(thing_classes=["cat"])
    with pytest.raises(DatasetError, match=r"a\.png has an object of the class 3, .*'mine'"):
        InstanceEvaluator("mine", str(tmp_path))


def test_a_predicted_class_that_the_data_does_not_have(pottery, tmp_path):
    name = register(pottery)
    record = DatasetCatalog.get(name)[0]
    output = make_instances([np.ones((40, 64))], [1], [0.5], (40, 64))  # the wall
    with pytest.raises(UsageError, match=r"class 1, .*'pottery' in DATASETS\.TEST"):
        evaluate(InstanceEvaluator(name, str(tmp_path)), [record], [output])


def test_a_model_that_finds_nothing(pottery, tmp_path):
    name = register(pottery)
    records = DatasetCatalog.get(name)
    outputs = [make_instances([], [], [], (40, 64)) for _ in records]
    results = evaluate(InstanceEvaluator(name, str(tmp_path)), records, outputs)
    assert math.isnan(results["segm"]["AP"]) and math.isnan(results["bbox"]["AP"])


def test_detectron2s_catalogs_stay_as_they_were(pottery, tmp_path):
    name = register(pottery)
    before = (DatasetCatalog.list(), MetadataCatalog.list(), MetadataCatalog.get(name).as_dict())
    InstanceEvaluator(name, str(tmp_path))
    after = (DatasetCatalog.list(), MetadataCatalog.list(), MetadataCatalog.get(name).as_dict())
    assert after == before
