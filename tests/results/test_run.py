"""Predictions over many images: every image once, the files about all of them, failures."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools.coco import COCO

from knet.data.image_reading import read_image
from knet.results.run import predict_images
from knet.results.run_folder import RunFolder
from knet.results.writers import (
    InstanceFiles,
    LabelFiles,
    PanopticFiles,
    PictureFiles,
    TableFiles,
)
from tests.results.made import CLASSES, SIZE, MadePredictor, result, write_image


def run(out, sources, predictor=None, kind="panoptic", stop_after=None):
    """Everything that can be written; returns the failures."""
    predictor = predictor or MadePredictor()
    count = 0

    def progress():
        nonlocal count
        count += 1
        if count == stop_after:
            raise KeyboardInterrupt

    with RunFolder(str(out), {}, ["panoptic", "labels"]) as folder:
        files = [
            PictureFiles(folder, lambda image, result: 255 - image),
            PanopticFiles(folder, CLASSES),
            InstanceFiles(folder, CLASSES),
            LabelFiles(folder, CLASSES),
            TableFiles(folder, CLASSES, kind, score_threshold=0.45),
        ]
        return predict_images(predictor, folder, folder.add(sources), files, progress=progress)


@pytest.fixture
def sources(tmp_path):
    names = ("a.jpg", "b.png", "sub/a.png", "sub/c.webp")
    return [write_image(tmp_path / "in" / name, i) for i, name in enumerate(names)]


def tree(folder):
    """The content of each file but the state of the run."""
    files = (path for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: content for name, content in files.items() if not name.startswith(".knet")}


def test_what_is_written_of_each_image(tmp_path, sources):
    assert run(tmp_path / "out", sources) == []
    names = set(tree(tmp_path / "out"))
    assert names == {
        *("a.jpg", "b.png", "sub/a.png", "sub/c.png"),
        *(
            f"{kind}/{n}.png"
            for kind in ("panoptic", "labels")
            for n in ("a", "b", "sub/a", "sub/c")
        ),
        *("panoptic.json", "instances.json", "images.json", "table.csv"),
    }
    assert np.array_equal(read_image(str(tmp_path / "out" / "b.png")), np.full((*SIZE, 3), 254))
    labels = Image.open(tmp_path / "out" / "labels" / "b.png")
    assert labels.mode == "L" and np.asarray(labels)[12, 8] == 7


def test_the_panoptic_json_and_its_pngs_belong_together(tmp_path, sources):
    run(tmp_path / "out", sources)
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [i["file_name"] for i in content["images"]] == [
        "a.jpg",
        "b.png",
        "sub/a.png",
        "sub/c.webp",
    ]
    assert content["images"][1] == {"id": 2, "file_name": "b.png", "width": 40, "height": 30}
    assert {"id": 7, "name": "cup", "isthing": 1, "color": [200, 30, 30]} in content["categories"]
    for i, annotation in enumerate(content["annotations"]):
        assert annotation["image_id"] == content["images"][i]["id"]
        png = read_image(str(tmp_path / "out" / "panoptic" / annotation["file_name"]))
        segments = {s["id"]: s for s in annotation["segments_info"]}
        assert set(np.unique(rgb2id(png))) - {0} == segments.keys()
        assert segments[1]["bbox"] == [5 + i, 10, 10, 10]


def test_cocos_tool_reads_the_instances(tmp_path, sources, capsys):
    run(tmp_path / "out", sources)
    images = COCO(str(tmp_path / "out" / "images.json"))
    images.dataset.setdefault("info", {})
    found = images.loadRes(str(tmp_path / "out" / "instances.json"))
    assert Counter(a["image_id"] for a in found.anns.values()) == dict.fromkeys((1, 2, 3, 4), 3)
    (cup,) = found.loadAnns(found.getAnnIds(imgIds=[3], catIds=[7]))
    assert np.array_equal(found.annToMask(cup), result(2)["instances"].pred_masks[0].numpy())


@pytest.mark.parametrize(
    "kind, expected",
    [
        (
            "panoptic",
            [
                ["cup", "7", "0.9", "100", "5", "10", "10", "10", "4"],
                ["plate, deep", "92", "0.5", "36", "20", "22", "12", "3", "2"],
                ["wall", "3", "0.7", "864", "0", "5", "40", "25", "8"],
            ],
        ),
        (
            "instance",
            [
                ["cup", "7", "0.9", "100", "5", "10", "10", "10", "4"],
                ["plate, deep", "92", "0.5", "36", "20", "22", "12", "3", "2"],
            ],
        ),
        (
            "semantic",
            [
                ["wall", "3", "", "864", "0", "5", "40", "25", ""],
                ["cup", "7", "", "300", "0", "0", "40", "20", ""],
                ["plate, deep", "92", "", "36", "20", "22", "12", "3", ""],
            ],
        ),
    ],
)
def test_the_table_has_a_row_for_each_thing_found(tmp_path, sources, kind, expected):
    run(tmp_path / "out", sources[:1], kind=kind)
    with open(tmp_path / "out" / "table.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert ",".join(header) == "file,image_id,class,class_id,score,area,x,y,width,height,kernel"
    assert [row[2:] for row in rows] == expected
    assert {tuple(row[:2]) for row in rows} == {("a.jpg", "1")}


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path, sources, stop_after
):
    run(tmp_path / "whole", sources)
    first, second = MadePredictor(), MadePredictor()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", sources, first, stop_after=stop_after)
    assert not (tmp_path / "out" / "panoptic.json").exists()
    run(tmp_path / "out", sources, second)
    assert first.seen + second.seen == sources, "each image once"
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_images_that_come_later_join_the_files_about_all(tmp_path, sources):
    run(tmp_path / "out", sources[:2])
    predictor = MadePredictor()
    run(tmp_path / "out", sources, predictor)
    assert predictor.seen == sources[2:]
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert len(content["annotations"]) == 4


def test_an_image_that_has_changed_is_done_again_and_counts_once(tmp_path, sources):
    run(tmp_path / "out", sources)
    write_image(tmp_path / "in" / "b.png", 9)
    run(tmp_path / "out", sources)
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    boxes = [a["segments_info"][0]["bbox"][0] for a in content["annotations"]]
    assert boxes == [5, 14, 7, 8]


def test_a_broken_image_is_named_and_the_others_are_done(tmp_path, sources, caplog):
    broken = tmp_path / "in" / "broken, too.jpg"
    broken.write_text("no image")
    failures = run(tmp_path / "out", [sources[0], str(broken), sources[1]])
    assert [file for file, _ in failures] == [str(broken)] and str(broken) in caplog.text
    with open(tmp_path / "out" / "failures.csv", newline="") as file:
        header, (file, error) = csv.reader(file)
    assert header == ["file", "error"] and file == str(broken) and "cannot read" in error
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == ["a.png", "b.png"]

    write_image(broken)  # mended
    predictor = MadePredictor()
    assert run(tmp_path / "out", [sources[0], str(broken), sources[1]], predictor) == []
    assert predictor.seen == [str(broken)]
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_an_image_that_the_model_cannot_take_is_named_and_the_others_are_done(tmp_path, sources):
    class Faulty(MadePredictor):
        def stream(self, images, workers=1):
            for item in super().stream(images):
                if item.source == sources[1]:
                    raise RuntimeError("shapes differ")
                yield item

    ((file, error),) = run(tmp_path / "out", sources, Faulty())
    assert file == sources[1] and "shapes differ" in error
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert len(content["annotations"]) == 3


def test_names_of_other_encodings_reach_the_table(tmp_path):
    source = write_image(tmp_path / "in" / "Straße, \udcff Süd\n.png")
    run(tmp_path / "out", [source])
    with open(tmp_path / "out" / "table.csv", newline="", encoding="utf-8") as file:
        row = list(csv.reader(file))[1]
    assert row[0] == "Straße, \\udcff Süd\n.png"
