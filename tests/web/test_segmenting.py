"""A visitor's picture made small enough, and results of several visitors at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import knet
from knet.errors import DatasetError
from knet.visualization.segmentation import RESULT_KEYS
from knet.web.segmenting import Segmenter
from tests.tools.demo import make_model_file, write_picture


@pytest.fixture
def segmenter(tiny_options, tmp_path) -> Segmenter:
    file = make_model_file(tiny_options, tmp_path / "model.pth")
    return Segmenter(knet.Predictor(file, device="cpu"), max_side=80, max_pixels=20_000)


def test_a_palette_is_shrunk_as_colours(segmenter, tmp_path):
    picture = write_picture(tmp_path / "a.png", seed=0, size=(100, 160))
    picture.quantize(16).save(tmp_path / "b.png")
    shrunk, size = segmenter.read(str(tmp_path / "b.png"))
    assert size == (100, 160) and shrunk.size == (80, 50)
    wanted = picture.quantize(16).convert("RGB").resize((80, 50), Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(shrunk, int) - np.asarray(wanted, int))
    assert difference.mean() < 3


def test_deep_pictures_give_the_same_again(tiny_options, tmp_path):
    options = {**tiny_options, "INPUT.VALUE_RANGE": (0, 4000)}
    file = make_model_file(options, tmp_path / "model.pth")
    segmenter = Segmenter(knet.Predictor(file, device="cpu"))
    values = np.random.default_rng(0).integers(0, 4000, (6, 9), np.uint16).repeat(9, 0).repeat(9, 1)
    Image.fromarray(values).save(tmp_path / "deep.png")
    source, size = segmenter.read(str(tmp_path / "deep.png"))
    first = segmenter.segment(source, segmenter.defaults, "deep.png", size)
    again = segmenter.segment(first.source, segmenter.defaults, "deep.png", size)
    assert first.original_size == again.image.shape[:2] == (54, 81)
    assert again.segmentation.areas().tolist() == first.segmentation.areas().tolist()


def test_what_is_refused_is_named_without_the_servers_folders(segmenter, tmp_path):
    Image.new("L", (200, 200)).save(tmp_path / "large.png")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("large.png", "empty.png"):
        with pytest.raises(DatasetError, match=name) as caught:
            segmenter.read(str(tmp_path / name))
        assert str(tmp_path) not in str(caught.value)


def test_visitors_with_other_tasks_do_not_disturb_each_other(segmenter, tmp_path):
    picture = write_picture(tmp_path / "a.png", seed=0)
    kinds = list(segmenter.kinds) * 4

    def segment(kind: str):
        settings = replace(segmenter.defaults, kind=kind)
        return segmenter.segment(picture, settings, "a.png", (50, 70))

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(segment, kinds))
    assert [each.settings.kind for each in found] == kinds
    for kind in RESULT_KEYS:
        areas = [f.segmentation.areas().tolist() for f in found if f.settings.kind == kind]
        assert len(areas) == 4 and all(each == areas[0] for each in areas)


def test_thresholds_are_the_models(segmenter, tmp_path):
    picture = write_picture(tmp_path / "a.png", seed=0)

    def things(threshold: float):
        settings = replace(segmenter.defaults, score_threshold=threshold)
        segments = segmenter.segment(picture, settings, "a.png", (50, 70)).segmentation.segments
        return [segment["score"] for segment in segments if segment["isthing"]]

    every = things(0.0)
    middle = sorted(every)[len(every) // 2]
    assert 0 < len(things(middle)) < len(every)
    assert min(things(middle)) >= middle
