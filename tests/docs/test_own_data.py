"""docs/own_data.md: each form as the page has it, config and files, is read without a fault."""

import json

import cv2
import numpy as np
import pytest
import yaml
from panopticapi.utils import id2rgb
from PIL import Image

from knet.data.checks import check_data
from knet.engine.main import load_config
from tests.conftest import REPO
from tests.docs.pages import blocks

PAGE = REPO / "docs" / "own_data.md"
CONFIGS = [block.text for block in blocks(PAGE, "yaml")]
INSTANCES, PANOPTIC = (json.loads(block.text) for block in blocks(PAGE, "json"))


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_json(content, *paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def instances(root):
    for i, split in enumerate(("train", "val")):
        picture(root / "cells" / split / "a.jpg", i)
        write_json(INSTANCES, root / f"cells/annotations/instances_{split}.json")


def panoptic(root):
    ids = np.zeros((480, 640), int)
    ids[:30, :30], ids[100:140, :100] = 7, 8
    for i, split in enumerate(("train", "val")):
        picture(root / "street" / split / "a.jpg", i)
        (root / f"street/panoptic_{split}").mkdir()
        Image.fromarray(id2rgb(ids)).save(root / f"street/panoptic_{split}/a.png")
        write_json(PANOPTIC, root / f"street/annotations/panoptic_{split}.json")


def label_maps(root):
    labels = np.arange(480)[:, None].repeat(640, 1) // 160
    for i, split in enumerate(("train", "val")):
        picture(root / "fields/images" / split / "a.jpg", i)
        (root / f"fields/labels/{split}").mkdir(parents=True)
        cv2.imwrite(str(root / f"fields/labels/{split}/a.png"), labels.astype(np.uint8))


@pytest.mark.parametrize("i, write", enumerate((instances, panoptic, label_maps)))
def test_a_form(i, write, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write(tmp_path)
    content = yaml.safe_load(CONFIGS[i])
    content["_BASE_"] = str(REPO / "configs" / content["_BASE_"])
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    report = check_data(load_config(str(tmp_path / "own.yaml")))
    assert report.summary().startswith("2 images") and " 0 errors" in report.summary(), str(
        report.table()
    )


def test_every_form_is_tried():
    assert len(CONFIGS) == 3
