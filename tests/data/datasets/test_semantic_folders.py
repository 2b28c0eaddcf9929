"""Images and label maps of two folders, paired by their names."""

import numpy as np
import pytest
from detectron2.data.datasets import load_sem_seg
from PIL import Image

from knet.data.datasets.semantic_folders import load_semantic_folders
from knet.errors import DatasetError
from tests.data.datasets.folders import SemanticFolder

LABELS = np.zeros((8, 9), np.uint8)


@pytest.fixture
def shelf(tmp_path):
    return SemanticFolder(tmp_path)


def load(folder):
    return load_semantic_folders(str(folder.images), str(folder.labels))


def test_pairs_by_name_whatever_the_ending_and_the_subfolder(shelf):
    names = {"b": ".png", "a": ".JPG", "c": ".tif", "deep/er/a": ".webp", "deep/z.1": ".bmp"}
    for stem, ending in names.items():
        shelf.add(stem, LABELS, ending)
    shelf.add("no_image", LABELS)
    (shelf.images / "no_image.jpg").unlink()
    (shelf.images / "notes.txt").write_text("not an image")
    (shelf.images / ".hidden.png").write_text("not an image")
    records = load(shelf)
    assert [r["image_id"] for r in records] == sorted(names)
    for record in records:
        stem = record["image_id"]
        assert record["file_name"] == str(shelf.images / (stem + names[stem]))
        assert record["sem_seg_file_name"] == str(shelf.labels / f"{stem}.png")


def test_flat_folders_of_jpegs_are_paired_as_by_detectron2(shelf):
    for stem in ("z", "a", "a10", "a9"):
        shelf.add(stem, LABELS)
    theirs = load_sem_seg(str(shelf.labels), str(shelf.images))
    keys = ("file_name", "sem_seg_file_name")
    assert [[r[k] for k in keys] for r in load(shelf)] == [[r[k] for k in keys] for r in theirs]


def test_images_and_labels_in_one_folder(shelf):
    shelf.labels = shelf.images
    for stem in ("a", "b"):
        shelf.add(stem, LABELS)
    assert [r["file_name"] for r in load(shelf)] == [
        str(shelf.images / f"{stem}.jpg") for stem in "ab"
    ]


def test_an_image_without_label_map_is_named(shelf):
    for stem in ("a", "sub/b", "sub/c"):
        shelf.add(stem, LABELS)
    (shelf.labels / "sub" / "b.png").rename(shelf.labels / "b.png")
    with pytest.raises(DatasetError, match=r"sub/b\.jpg has no label map: .*labels/sub/b\.png"):
        load(shelf)


def test_two_images_of_one_name(shelf):
    shelf.add("a", LABELS)
    shelf.add("a", LABELS, ".png")
    with pytest.raises(DatasetError, match=r"a\.png and .*a\.jpg share the label map"):
        load(shelf)


def test_folders_that_are_not_there_or_empty(shelf):
    with pytest.raises(
        DatasetError, match=f"{shelf.labels} does not exist: set .*DETECTRON2_DATASETS"
    ):
        load(shelf)
    shelf.labels.mkdir()
    with pytest.raises(DatasetError, match=f"{shelf.images} does not exist"):
        load(shelf)
    shelf.images.mkdir()
    with pytest.raises(DatasetError, match=f"{shelf.images} has no images"):
        load(shelf)


def test_arrays_are_images_where_there_are_no_others(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "images" / "a.npy", np.zeros((4, 5, 3), np.uint8))
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "labels" / "a.png")
    (found,) = load_semantic_folders(str(tmp_path / "images"), str(tmp_path / "labels"))
    assert found["file_name"].endswith("a.npy") and found["sem_seg_file_name"].endswith("a.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "images" / "a.jpg")
    (found,) = load_semantic_folders(str(tmp_path / "images"), str(tmp_path / "labels"))
    assert found["file_name"].endswith("a.jpg")
