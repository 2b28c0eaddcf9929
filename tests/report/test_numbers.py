"""The numbers of a report are those of the evaluators, and those that can be counted by hand."""

import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from knet.engine.main import load_config
from knet.errors import UsageError
from knet.evaluation import InstanceEvaluator, inference_folder
from knet.report.analysis import analyse
from knet.report.pictures import ERRORS, error_map
from knet.report.run import open_run
from knet.report.segment_pairs import pair_segments
from knet.report.tallies import Calibration, Confusion, Sizes, segment_classes
from tests.conftest import DEMO_CONFIG
from tests.data.datasets.folders import InstanceFolder, box
from tests.evaluation.conftest import evaluate, label_truth, make_instances
from tests.report.scenes import CUP, PLATE, WALL, make_run, part, scene


def overall(results):
    return {k: v for k, v in results.items() if "-" not in k}


def of_classes(results, figure):
    start = f"{figure}-"
    return {k[len(start) :]: v for k, v in results.items() if k.startswith(start)}


def same(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    for key, value in theirs.items():
        assert ours[key] == value or (math.isnan(ours[key]) and math.isnan(value)), key


def test_figures_are_those_of_the_evaluation(shapes, tmp_path):
    results = make_run(tmp_path, shapes.val)
    for kind in ("panoptic", "instance", "semantic"):
        analysis = analyse(open_run(str(tmp_path), kind=kind), score_threshold=0.5)
        for each, key, figure in (
            ("panoptic", "panoptic_seg", "PQ"),
            ("instance", "segm", "AP"),
            ("semantic", "sem_seg", "IoU"),
        ):
            figures = analysis.figures[each]
            same(figures.overall, overall(results[key]))
            ours = {name: row[figure] for name, row in figures.classes.items()}
            same(ours, of_classes(results[key], figure))
        assert 5 < results["panoptic_seg"]["PQ"] < 95 and 5 < results["segm"]["AP50"] < 95


def test_counts_make_the_recognition_quality(shapes, tmp_path):
    make_run(tmp_path, shapes.val, kinds=["panoptic"])
    analysis = analyse(open_run(str(tmp_path)))
    path = f"{inference_folder(str(tmp_path), shapes.val)}/panoptic_quality.json"
    with open(path) as f:
        kept = json.load(f)["per_class"]
    for name, counts in analysis.counts.items():
        lost = counts["objects"] - counts["found"]
        whole = counts["found"] + 0.5 * (lost + counts["wrong"])
        if kept[name]["RQ"] is None:
            assert whole == 0
        else:
            assert 100 * counts["found"] / whole == pytest.approx(kept[name]["RQ"], abs=1e-9)
    totals, failures = analysis.totals, analysis.failures
    lost = sum(n for kind, n in failures.items() if kind not in ("found twice", "nothing there"))
    assert lost == totals["objects"] - totals["found"] > 0
    # the confusion of segments counts the same ones
    segments = analysis.segments.counts
    assert segments[:-1].sum() == totals["objects"]
    assert segments.diagonal().sum() == totals["found"]
    assert analysis.calibration.count == totals["found"] + totals["wrong"]


def test_pixels_are_counted_as_the_evaluator_counts_them(shapes, tmp_path):
    results = make_run(tmp_path, shapes.val, kinds=["semantic"])
    analysis = analyse(open_run(str(tmp_path)))
    counts = analysis.pixels.counts[:-1, :-1]
    right = counts.diagonal()
    with np.errstate(invalid="ignore"):
        iou = 100 * right / (counts.sum(0) + counts.sum(1) - right)
    assert np.nanmean(iou) == pytest.approx(results["sem_seg"]["mIoU"])
    assert 100 * right.sum() / counts.sum() == pytest.approx(results["sem_seg"]["pACC"])
    num_ids = len(MetadataCatalog.get(shapes.val).stuff_classes)
    true = [label_truth(record, num_ids) for record in DatasetCatalog.get(shapes.val)]
    assert counts.sum() == sum((labels < num_ids).sum() for labels in true)
    # and the quality of an image is the mean IoU of its classes
    for image, labels in zip(sorted(analysis.images), true):
        predicted = np.roll(np.where(labels < num_ids, labels, 0), (3, 5), (0, 1))
        predicted[predicted == num_ids] = 0
        inside = labels < num_ids
        ious = []
        for i in set(labels[inside]) | set(predicted[inside]):
            a, b = labels[inside] == i, predicted[inside] == i
            ious.append((a & b).sum() / (a | b).sum())
        assert image.quality == pytest.approx(np.mean(ious))


def test_calibration_by_hand():
    calibration = Calibration()
    calibration.add(np.array([0.95, 0.92, 1.0, 0.31]), np.array([True, False, True, True]))
    first, *_, last = calibration.bins
    assert first.count == 0 and last == (3, pytest.approx(2.87 / 3), pytest.approx(2 / 3))
    by_hand = (3 * abs(2.87 / 3 - 2 / 3) + 1 * (1 - 0.31)) / 4
    assert calibration.error == pytest.approx(by_hand)
    assert calibration.bias == pytest.approx((2.87 + 0.31 - 3) / 4)
    pairs = pair_segments(
        scene(part(CUP, 10, 10, 20, 20)),
        scene(part(CUP, 10, 10, 20, 20, score=0.8), part(PLATE, 30, 30, 39, 39, score=0.02)),
        "panoptic",
    )
    of_segments = Calibration()
    of_segments.add_segments(pairs)  # the wall has no score, the plate one too low
    assert of_segments.count == 1 and of_segments.error == pytest.approx(0.2)


def test_confusion_and_sizes_by_hand():
    truth = scene(part(CUP, 0, 0, 10, 10), part(CUP, 20, 0, 30, 10), part(PLATE, 0, 40, 20, 60))
    prediction = scene(
        part(CUP, 0, 0, 10, 8), part(PLATE, 20, 0, 30, 10), part(CUP, 30, 50, 40, 60)
    )
    pairs = pair_segments(truth, prediction, "panoptic")
    confusion = Confusion(3)
    confusion.add(*segment_classes(pairs, np.array([0, 1, 2]), 3))
    expected = np.zeros((4, 4), int)
    expected[CUP, CUP] = expected[CUP, PLATE] = expected[PLATE, 3] = expected[3, CUP] = 1
    expected[WALL, WALL] = 1
    assert (confusion.counts == expected).all()
    assert Counter(confusion.most_frequent(9)) == {(0, 1, 1): 1, (1, 3, 1): 1, (3, 0, 1): 1}
    sizes = Sizes(objects_alone=True)
    sizes.add(pairs)
    small, large = sizes.bins
    assert small == (8, 16, 2, 0.5, pytest.approx(0.8)) and large[:4] == (16, 32, 1, 0.0)


def test_error_map_by_hand():
    truth = scene(part(CUP, 0, 0, 10, 10), part(PLATE, 0, 40, 20, 60), wall=False)
    prediction = scene(
        part(CUP, 0, 0, 10, 8), part(CUP, 0, 40, 5, 60), part(PLATE, 5, 40, 10, 60), wall=False
    )
    names = [*ERRORS, ""]  # -1: nothing to tell
    panoptic = error_map(pair_segments(truth, prediction, "panoptic"), "panoptic")
    places = {(5, 5): "right", (5, 9): "missing", (2, 50): "class", (7, 50): "segment"}
    for (y, x), expected in {**places, (35, 5): ""}.items():
        assert names[panoptic[y, x]] == expected
    semantic = error_map(pair_segments(truth, prediction, "semantic"), "semantic")
    assert names[semantic[7, 50]] == "right"
    more = scene(part(CUP, 30, 0, 40, 8), wall=False)
    instance = error_map(pair_segments(truth, more, "instance"), "instance")
    assert names[instance[35, 5]] == "extra" and names[instance[5, 5]] == "missing"


def test_a_single_class_has_the_figures_of_all(tmp_path):
    folder = InstanceFolder(tmp_path)
    folder.content["categories"] = [{"id": folder.CUP, "name": "cup"}]
    folder.add(
        [{"category_id": folder.CUP, "bbox": [5, 10, 15, 10], "segmentation": box(10, 5, 10, 15)}]
    )
    folder.add()  # without any object
    folder.write()
    register_coco_instances("cups", {}, str(folder.json_file), str(folder.images))
    mask = np.zeros((40, 64), bool)
    mask[10:20, 5:18] = True
    outputs = [
        make_instances([mask], [0], [0.9], mask.shape),
        make_instances([], [], [], mask.shape),
    ]
    inference = inference_folder(str(tmp_path), "cups")
    records = DatasetCatalog.get("cups")
    results = evaluate(InstanceEvaluator("cups", inference), records, outputs)
    cfg = load_config(DEMO_CONFIG, ["DATASETS.TEST", ("cups",)])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    analysis = analyse(open_run(str(tmp_path)))
    ((name, figures),) = analysis.figures["instance"].classes.items()
    assert name == "cup" and figures["AP"] == results["segm"]["AP"] > 70
    assert analysis.totals == Counter(objects=1, found=1)
    # of the second image nothing can be said
    assert analysis.images == [(0, pytest.approx(130 / 150))]


def test_a_run_whose_data_lay_elsewhere(shapes, tmp_path):
    """Semantic results name their images by paths, which another machine had others for."""
    results = make_run(tmp_path, shapes.val, kinds=["semantic"])
    path = Path(inference_folder(str(tmp_path), shapes.val), "sem_seg_predictions.json")
    kept = json.loads(path.read_text())
    for entry in kept:
        entry["file_name"] = "/elsewhere/" + os.path.basename(entry["file_name"])
    path.write_text(json.dumps(kept))
    figures = analyse(open_run(str(tmp_path))).figures["semantic"]
    same(figures.overall, overall(results["sem_seg"]))
    # of two images of one name neither is taken
    again = [{**entry, "file_name": "/other" + entry["file_name"]} for entry in kept]
    path.write_text(json.dumps(kept + again))
    with pytest.raises(UsageError, match="has nothing of 3 images"):
        analyse(open_run(str(tmp_path)))


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_an_image_without_results_is_told(shapes, tmp_path, kind):
    make_run(tmp_path, shapes.val, kinds=[kind])
    file, key = {
        "panoptic": ("predictions.json", "image_id"),
        "semantic": ("sem_seg_predictions.json", "file_name"),
    }[kind]
    path = Path(inference_folder(str(tmp_path), shapes.val), file)
    kept = json.loads(path.read_text())
    entries = kept["annotations"] if kind == "panoptic" else kept
    entries[:] = [each for each in entries if each[key] != entries[0][key]]
    path.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match="has nothing of 1 images"):
        analyse(open_run(str(tmp_path)))
