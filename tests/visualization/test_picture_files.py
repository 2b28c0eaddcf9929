"""Pictures of results: one for each image, none over what is read."""

import os
import shutil

import pytest
from detectron2.data import DatasetCatalog

from knet.errors import UsageError
from knet.evaluation import PanopticEvaluator
from knet.visualization import draw_predictions
from tests.evaluation.conftest import evaluate, panoptic_truth, register


@pytest.fixture
def predicted(pottery, tmp_path):
    """Images a/1.png and b/1.png; perfect predictions in the folder "out"."""
    for image, annotation, place in zip(
        pottery.content["images"], pottery.content["annotations"], "ab"
    ):
        for folder, entry in ((pottery.images, image), (pottery.pngs, annotation)):
            (folder / place).mkdir()
            shutil.move(folder / entry["file_name"], folder / place / "1.png")
            entry["file_name"] = f"{place}/1.png"
    name = register(pottery)
    records = DatasetCatalog.get(name)
    evaluator = PanopticEvaluator(name, str(tmp_path / "out"))
    evaluate(evaluator, records, [panoptic_truth(r) for r in records])
    return pottery


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_of_one_name_in_two_folders_have_two_pictures(predicted, tmp_path):
    for _ in range(2):  # the second time over the first
        files = draw_predictions(str(tmp_path / "out"), predicted.name, str(tmp_path / "pictures"))
        assert files == [str(tmp_path / "pictures" / place / "1.png") for place in "ab"]
        assert all(map(os.path.isfile, files))


@pytest.mark.parametrize("folder", ["pottery_images", "pottery_panoptic", "out/predictions"])
def test_a_picture_is_not_written_over_what_is_read(predicted, tmp_path, folder):
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"but is read .* choose another folder"):
        draw_predictions(str(tmp_path / "out"), predicted.name, str(tmp_path / folder))
    assert contents(tmp_path) == before
