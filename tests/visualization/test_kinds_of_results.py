"""Pictures of instance and of semantic results, from what their evaluators leave."""

import json
import os

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from knet.errors import DatasetError, UsageError
from knet.evaluation import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from knet.visualization import draw_predictions
from knet.visualization.captions import CAPTION_HEIGHT
from knet.visualization.pictures import GAP
from knet.visualization.text import PlainTextVisualizer
from tests.conftest import PanopticFolder
from tests.evaluation.conftest import (
    evaluate,
    instance_truth,
    label_truth,
    make_instances,
    panoptic_truth,
    register,
    semantic_output,
)

NUM_SHAPES = 9


def panels(file):
    """The three panels of a picture, without captions: each (h, w, 3)."""
    picture = np.asarray(Image.open(file).convert("RGB"))[CAPTION_HEIGHT:]
    width = (picture.shape[1] - 2 * GAP) // 3
    return [picture[:, i * (width + GAP) :][:, :width] for i in range(3)]


def coloured(pixels):
    """(h, w) bool: where something is drawn over the grey image."""
    return pixels.max(axis=-1) > pixels.min(axis=-1)


@pytest.fixture
def labels(monkeypatch):
    """The texts of the segments, which are not drawn."""
    texts = []
    monkeypatch.setattr(
        PlainTextVisualizer, "draw_text", lambda self, text, *args, **kwargs: texts.append(text)
    )
    return texts


@pytest.fixture
def shelf(tmp_path):
    """A panoptic data set of one image, (40, 64): a cup, a plate, a crowd of cups, wall, void."""
    folder = PanopticFolder(tmp_path, "shelf")
    ids = np.full((40, 64), 9)
    ids[:4], ids[5:20, 5:25], ids[22:38, 5:25], ids[5:38, 35:60] = 0, 1, 2, 3
    segments = {9: (folder.WALL,), 1: (folder.CUP,), 2: (folder.PLATE,), 3: (folder.CUP, 1)}
    folder.add(ids, segments)
    return register(folder)


def mask_of(record, row):
    """The mask of one of a record's segments."""
    ids, segments = panoptic_truth(record)["panoptic_seg"]
    return (ids == segments[row]["id"]).numpy()


# -------------------------------------------------------------------------------------- instances


def test_true_instances_look_as_the_truth_does(shapes, tmp_path, labels):
    records = DatasetCatalog.get(shapes.val)
    outputs = [instance_truth(r) for r in records]
    evaluate(InstanceEvaluator(shapes.val, str(tmp_path / "out")), records, outputs)
    files = draw_predictions(str(tmp_path / "out"), shapes.val, str(tmp_path / "pictures"))
    assert len(files) == len(records) == 3
    without_crowd = 0
    for file, record in zip(files, records):
        _, truth, prediction = panels(file)
        assert coloured(truth).any() and not coloured(truth).all(), "stuff is not drawn"
        if not any(segment["iscrowd"] for segment in record["segments_info"]):
            assert (truth == prediction).all()
            without_crowd += 1
    assert without_crowd == 2
    names = MetadataCatalog.get(shapes.val).thing_classes
    assert {text for text in labels if "%" in text} <= {f"{name} 100%" for name in names}
    of_truth = sorted(f"{t} 100%" for t in labels if "%" not in t and "crowd" not in t)
    assert sorted(text for text in labels if "%" in text) == of_truth


def test_an_instance_data_set_gives_the_same_pictures(shapes, tmp_path, labels):
    name = shapes.val.replace("panoptic", "instance")
    panoptic, instance = DatasetCatalog.get(shapes.val), DatasetCatalog.get(name)
    to_instance_ids = {i: n for n, i in enumerate((1, 3, 5, 6, 8))}
    pictures = []
    for data, records in ((shapes.val, panoptic), (name, instance)):
        outputs = [instance_truth(r) for r in panoptic]
        if data == name:
            for output in outputs:
                output["instances"].pred_classes.apply_(to_instance_ids.get)
        folder = tmp_path / data
        evaluate(InstanceEvaluator(data, str(folder)), records, outputs)
        (file,) = draw_predictions(str(folder), data, str(folder / "pictures"), limit=1)
        pictures.append(np.asarray(Image.open(file)))
    assert (pictures[0] == pictures[1]).all()


def test_weak_and_overlapping_instances(shelf, tmp_path, labels):
    (record,) = DatasetCatalog.get(shelf)
    cup, plate = mask_of(record, 1), mask_of(record, 2)
    above = np.zeros_like(cup)
    above[8:16, 10:20] = True  # within the cup
    weak = np.zeros_like(cup)
    weak[30:36, 40:50] = True
    masks, classes = [above, weak, cup, plate], [2, 0, 0, 2]
    outputs = [make_instances(masks, classes, [0.5, 0.29, 0.9, 0.6], (40, 64))]
    evaluate(InstanceEvaluator(shelf, str(tmp_path / "out")), [record], outputs)

    def draw(**options):
        del labels[:]
        files = draw_predictions(str(tmp_path / "out"), shelf, str(tmp_path / "p"), **options)
        return panels(files[0])

    _, truth, prediction = draw()
    assert sorted(labels) == ["cup", "cup (crowd)", "cup 90%", "plate", "plate 50%", "plate 60%"]
    scale = prediction.shape[0] / 40
    at = {name: (int(y * scale), int(x * scale)) for name, (y, x) in POINTS.items()}
    assert coloured(truth)[at["weak"]] and not coloured(prediction)[at["weak"]]
    assert (prediction[at["above"]] != prediction[at["cup"]]).any(), "both are seen"
    assert not coloured(prediction)[at["void"]]
    _, _, prediction = draw(score_threshold=0.2)
    assert "cup 29%" in labels and coloured(prediction)[at["weak"]]
    _, _, prediction = draw(score_threshold=0.95)
    assert not coloured(prediction).any(), "the picture is drawn all the same"


POINTS = {"weak": (33, 45), "above": (12, 15), "cup": (6, 15), "void": (2, 2)}


# ---------------------------------------------------------------------------------------- semantic


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_true_labels_look_as_the_truth_does(shapes, tmp_path, labels, kind):
    name = shapes.val.replace("panoptic", kind)
    truths = [label_truth(r, NUM_SHAPES) for r in DatasetCatalog.get(shapes.val)]
    records = DatasetCatalog.get(name)
    assert len(records) == len(truths)
    outputs = [semantic_output(t, NUM_SHAPES) for t in truths]
    evaluate(SemanticEvaluator(name, str(tmp_path / "out")), records, outputs)
    (file,) = draw_predictions(str(tmp_path / "out"), name, str(tmp_path / "pictures"), limit=1)
    _, truth, prediction = panels(file)
    known = np.asarray(
        Image.fromarray((truths[0] < NUM_SHAPES).astype(np.uint8)).resize(
            truth.shape[1::-1], Image.Resampling.NEAREST
        )
    ).astype(bool)
    inside = cv2.erode(known.astype(np.uint8), np.ones((7, 7))).astype(bool)
    assert not inside.all(), "a crowd is ignored"
    assert (coloured(truth) >= inside).all() and coloured(prediction).all()
    same = (truth == prediction).all(axis=-1)
    assert same[inside].mean() > 0.98, "but for outlines beside what is ignored"
    assert set(labels) <= set(MetadataCatalog.get(name).stuff_classes)


def test_crowd_and_void_have_no_class(shelf, tmp_path, labels):
    (record,) = DatasetCatalog.get(shelf)
    everywhere = semantic_output(np.ones((40, 64), int), 3)  # the wall
    evaluate(SemanticEvaluator(shelf, str(tmp_path / "out")), [record], [everywhere])
    (file,) = draw_predictions(str(tmp_path / "out"), shelf, str(tmp_path / "pictures"))
    _, truth, prediction = panels(file)
    scale = truth.shape[0] / 40
    assert not coloured(truth)[: int(3 * scale)].any()
    crowd = slice(int(7 * scale), int(36 * scale)), slice(int(37 * scale), int(58 * scale))
    assert not coloured(truth)[crowd].any() and coloured(prediction).all()
    assert sorted(labels) == ["cup", "plate", "wall", "wall"]


# ----------------------------------------------------------------------------- several, none, wrong


@pytest.fixture
def all_kinds(shelf, tmp_path):
    """A folder with results of each kind of the shelf: all true."""
    (record,) = DatasetCatalog.get(shelf)
    folder = str(tmp_path / "out")
    output = {
        **panoptic_truth(record),
        **instance_truth(record),
        **semantic_output(label_truth(record, 3), 3),
    }
    for evaluator in (PanopticEvaluator, InstanceEvaluator, SemanticEvaluator):
        evaluate(evaluator(shelf, folder), [record], [output])
    return folder


@pytest.mark.parametrize(
    "kind, expected",
    [
        (None, ["cup", "cup", "plate", "wall"]),  # as panoptic
        ("panoptic", ["cup", "cup", "plate", "wall"]),
        ("instance", ["cup 100%", "plate 100%"]),
        ("semantic", ["cup", "plate", "wall"]),
    ],
)
def test_a_folder_with_several_kinds(all_kinds, shelf, tmp_path, labels, kind, expected):
    draw_predictions(all_kinds, shelf, str(tmp_path / "pictures"), kind=kind)
    of_truth = {None: 4, "panoptic": 4, "instance": 3, "semantic": 3}[kind]
    assert sorted(labels[of_truth:]) == expected


def test_a_kind_that_the_folder_does_not_hold(all_kinds, shelf, tmp_path):
    os.remove(os.path.join(all_kinds, "sem_seg_predictions.json"))
    with pytest.raises(UsageError, match=r"holds no sem_seg_predictions\.json: give the folder"):
        draw_predictions(all_kinds, shelf, str(tmp_path / "pictures"), kind="semantic")


@pytest.mark.parametrize("kind, other", [("instance", "semantic"), ("semantic", "instance")])
def test_a_data_set_without_such_truth(all_kinds, shapes, tmp_path, kind, other):
    name = shapes.val.replace("panoptic", other)
    with pytest.raises(UsageError, match=f"'{name}' has no {kind} truth"):
        draw_predictions(all_kinds, name, str(tmp_path / "pictures"), kind=kind)


@pytest.mark.parametrize("kind", ["instance", "semantic"])
def test_results_that_do_not_fit_the_data_set(all_kinds, shelf, tmp_path, kind):
    files = {"instance": "coco_instances_results.json", "semantic": "sem_seg_predictions.json"}
    path = os.path.join(all_kinds, files[kind])
    with open(path) as f:
        content = json.load(f)

    def draw_with(change):
        changed = json.loads(json.dumps(content))
        changed = change(changed) or changed
        with open(path, "w") as f:
            json.dump(changed, f)
        draw_predictions(all_kinds, shelf, str(tmp_path / "pictures"), kind=kind)

    with pytest.raises(UsageError, match=rf"{files[kind]} has the category 77, .*'shelf'"):
        draw_with(lambda c: c[0].update(category_id=77))
    with pytest.raises(DatasetError, match=r"a mask of 8 x 50 for .*001\.png, which is 64 x 40"):
        draw_with(lambda c: c[0]["segmentation"].update(size=[50, 8]))
    with pytest.raises(UsageError, match="no image of 'shelf'"):
        draw_with(lambda c: [entry.update(image_id=99, file_name="x") for entry in c] and None)
    with pytest.raises(UsageError, match=rf"{files[kind]} is no json of predictions"):
        draw_with(lambda c: {"predictions": c})
