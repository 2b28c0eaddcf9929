"""The cheap check before each training: all files, ids, a few sizes."""

import os
import shutil

import pytest

from knet.data.checks.before_training import check_before_training
from knet.data.checks.files import missing_files
from knet.data.image_reading import ImageReader
from knet.engine.checks import check_datasets
from knet.errors import DatasetError, UsageError
from tests.conftest import PanopticFolder
from tests.data.checks.checking import config_of, ordinary
from tests.data.checks.spoiling import image_of, oriented
from tests.data.datasets.folders import InstanceFolder, SemanticFolder


@pytest.fixture
def two(tmp_path):
    """Training and test data of eight images each."""
    return [ordinary(PanopticFolder, tmp_path, name, count=8) for name in ("train", "val")]


def test_missing_files_of_training_and_test_are_told_together(two):
    train, val = two
    check_datasets(config_of(train, val))
    for path in (*sorted(train.images.iterdir())[1:6], *sorted(val.pngs.iterdir())[3:5]):
        path.unlink()
    with pytest.raises(DatasetError) as error:
        check_datasets(config_of(train, val))
    told = str(error.value)
    assert "7 files do not exist (5 of 'train' and 2 of 'val')" in told
    assert str(train.images / "002.png") in told and str(train.images / "006.png") in told
    assert "004.png, ..." not in told and told.count(".png") == 5


def test_training_data_are_not_asked_for_in_an_evaluation(two):
    train, val = two
    image_of(train).unlink()
    check_datasets(config_of(train, val), eval_only=True)
    image_of(val).unlink()
    with pytest.raises(DatasetError, match="1 file does not exist"):
        check_datasets(config_of(train, val), eval_only=True)


def test_training_images_that_may_be_unreadable(two):
    train, val = two
    image_of(train).unlink()
    cfg = config_of(train, val)
    cfg.DATALOADER.MAX_UNREADABLE = 1
    check_datasets(cfg)
    image_of(val).unlink()  # a result of some images would mislead
    with pytest.raises(DatasetError, match="1 file does not exist"):
        check_datasets(cfg)


def test_an_image_of_another_size_than_its_json_says(tmp_path):
    folder = ordinary(InstanceFolder, tmp_path, "dishes")
    folder.content["images"][1].update(width=65)
    folder.content["annotations"] = folder.content["annotations"][:2]
    folder.write()
    with pytest.raises(DatasetError, match=r"002\.png is 64 x 40, its json says 65 x 40"):
        check_datasets(config_of(folder))


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
@pytest.mark.parametrize("size, upright", [((64, 40), True), ((40, 64), False)])
def test_a_picture_that_its_exif_turns(tmp_path, size, upright, ending):
    folder = ordinary(InstanceFolder, tmp_path, "dishes")
    oriented(folder, 6, size, turned=True, ending=ending)
    folder.write()
    cfg = config_of(folder)
    cfg.INPUT.EXIF_ORIENTATION = upright
    check_datasets(cfg)
    cfg.INPUT.EXIF_ORIENTATION = not upright
    with pytest.raises(DatasetError, match=r"its json says .*EXIF orientation 6"):
        check_datasets(cfg)


def test_a_file_that_is_no_picture_is_left_to_the_training(tmp_path):
    folder = ordinary(SemanticFolder, tmp_path, "shelf")
    image_of(folder).write_text("404")
    check_datasets(config_of(folder))


def test_an_id_of_two_images_is_told(tmp_path, caplog):
    path = tmp_path / "1.png"
    path.touch()
    check_before_training({"mine": [{"file_name": str(path), "image_id": 5}] * 2}, ImageReader())
    assert "1 image ids of 'mine' stand for several images (5, ...)" in caplog.text


def test_missing_files_are_those_that_do_not_exist(tmp_path, monkeypatch):
    """Links, folders of no name, what is a folder itself; addresses are left alone."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("a/b")
    for name in ("here.png", "a/b/1.png"):
        open(name, "w").close()
    os.symlink("here.png", "link.png")
    os.symlink("nowhere.png", "broken.png")
    paths = ["here.png", "./here.png", "a/b/1.png", "a/../here.png", "link.png"]
    gone = ["broken.png", "a/b", "a/b/2.png", "c/1.png"]
    addresses = ["http://localhost:1/x.png", "s3://bucket/x.png"]
    assert missing_files([*paths, *gone, *addresses, *gone]) == gone
    shutil.rmtree("a")
    assert missing_files(paths) == ["a/b/1.png", "a/../here.png"]


def test_results_to_compare_with_need_a_test_set(two):
    cfg = config_of(*two)
    cfg.TEST.EXPECTED_RESULTS = [["panoptic_seg", "PQ", 50.0, 1.0]]
    check_datasets(cfg)
    cfg.DATASETS.TEST = ()
    with pytest.raises(UsageError, match=r"TEST\.EXPECTED_RESULTS .* DATASETS\.TEST is empty"):
        check_datasets(cfg)
