"""Panoptic ground truth as tools write it: COCO's tool gets what training reads."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from knet.data import load_coco_panoptic_json
from knet.data.ground_truth import read_panoptic_rows
from knet.data.training_images import load_dicts
from knet.engine.checks import check_datasets
from knet.errors import DatasetError
from knet.evaluation import PanopticEvaluator
from tests.evaluation.conftest import evaluate, register


def truth(record):
    """The ground truth, as training reads it, as ``panoptic_seg``."""
    rows = torch.from_numpy(read_panoptic_rows(record).astype(np.int32))
    info = [
        {"id": i, "isthing": bool(s["isthing"]), "category_id": s["category_id"]}
        for i, s in enumerate(record["segments_info"], start=1)
    ]
    return {"panoptic_seg": (rows, info)}


def perfect(folder):
    """PQ of the truth as prediction."""
    name = register(folder.write())
    records = load_dicts(name)
    outputs = [truth(record) for record in records]
    return evaluate(PanopticEvaluator(name), records, outputs)["panoptic_seg"]["PQ"]


def save_with_palette(path):
    with Image.open(path) as png:
        indexed = png.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
        assert (np.asarray(indexed.convert("RGB")) == np.asarray(png)).all()
    indexed.save(path)


def test_pngs_with_a_palette(pottery):
    for path in pottery.pngs.glob("*.png"):
        save_with_palette(path)
    before = {path: path.read_bytes() for path in pottery.pngs.glob("*.png")}
    assert perfect(pottery) == pytest.approx(100)
    assert {path: path.read_bytes() for path in pottery.pngs.glob("*.png")} == before


def test_grey_pngs(pottery):
    """As training reads them: R = G = B."""
    ids = np.full((40, 64), 2)
    ids[:20] = 1
    pottery.add(ids * 65793, {65793: (pottery.CUP,), 2 * 65793: (pottery.WALL,)})
    Image.fromarray(ids.astype(np.uint8)).save(pottery.pngs / "003.png")
    assert perfect(pottery) == pytest.approx(100)


@pytest.mark.parametrize("area", [0, None, "some", -3])
def test_areas_that_are_none(pottery, area):
    for annotation in pottery.content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["area"] = area
    assert perfect(pottery) == pytest.approx(100)


def test_numbers_as_text_or_float(pottery):
    for annotation in pottery.content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
        for segment in annotation["segments_info"]:
            segment.update(id=str(segment["id"]), category_id=float(segment["category_id"]))
            segment["iscrowd"] = "0"
    for image in pottery.content["images"]:
        image.update(id=float(image["id"]), height="40")
    assert perfect(pottery) == pytest.approx(100)


@pytest.mark.parametrize(
    "spoil, mention",
    [
        (lambda a: a.update(segments_info=None), "segments_info of image 1"),
        (lambda a: a["segments_info"][0].update(iscrowd="many"), "the iscrowd 'many'"),
        (lambda a: a["segments_info"][0].update(id="x"), "a segment of the id x"),
    ],
)
def test_what_is_none_is_told(pottery, spoil, mention):
    spoil(pottery.content["annotations"][0])
    with pytest.raises(DatasetError, match=mention) as error:
        load_dicts(register(pottery.write()))
    assert str(pottery.json_file) in str(error.value)


# ------------------------------------------------------------ a data set of some images of its json


@pytest.fixture
def some(pottery):
    """The name of a data set of two images of four; its image ids may be changed."""
    pottery.add_ordinary(2)
    whole = register(pottery.write())
    metadata = MetadataCatalog.get(whole).as_dict()
    paths = (str(pottery.json_file), str(pottery.images), str(pottery.pngs))
    DatasetCatalog.register("some", lambda: load_coco_panoptic_json(*paths, metadata)[:2])
    MetadataCatalog.get("some").set(**{k: v for k, v in metadata.items() if k != "name"})
    return "some"


def test_pq_restricts_itself_to_the_images_of_both(some, caplog):
    records = load_dicts(some)
    outputs = [truth(record) for record in records]
    with caplog.at_level(logging.WARNING, logger="knet"):
        results = evaluate(PanopticEvaluator(some), records, outputs)
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert "2 of 4 images" in caplog.text and "PQ leaves them out" in caplog.text


def test_images_that_the_json_does_not_have_are_told_before_training(some, tiny_config, caplog):
    tiny_config.DATASETS.TRAIN = tiny_config.DATASETS.TEST = (some,)
    check_datasets(tiny_config)
    records = load_dicts(some)
    DatasetCatalog.pop(some)
    DatasetCatalog.register(some, lambda: [{**d, "image_id": f"x{d['image_id']}"} for d in records])
    with pytest.raises(DatasetError, match=r"pottery\.json has no annotation .*image_id"):
        check_datasets(tiny_config)
