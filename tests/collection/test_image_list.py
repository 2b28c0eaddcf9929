"""Which images a collection has, and their ids."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from knet.collection.image_list import list_images
from knet.errors import UsageError


def listed(*inputs, column="image", output="results"):
    table = list_images([str(each) for each in inputs], column, str(output))
    return list(zip(table["image_id"].to_pylist(), table["image"].to_pylist()))


def write_list(path, **columns):
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pa.csv.write_csv(table, path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg", "deep/c.png", "notes.md", "results/coco/a.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "images"


def test_a_folder_gives_its_images_but_not_the_results_below_it(folder):
    found = listed(folder, output=folder / "results")
    assert found == [(1, f"{folder}/a.jpg"), (2, f"{folder}/b.png"), (3, f"{folder}/deep/c.png")]


def test_an_image_that_is_named_twice_is_taken_once_and_paths_are_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert listed("b.png", "*.png", folder / "deep" / ".." / "b.png") == [(1, f"{folder}/b.png")]


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.parquet"])
def test_paths_of_a_list_start_at_its_folder(tmp_path, name):
    path = tmp_path / name
    if name == "list.txt":
        path.write_text("\ufeffx/2.jpg\n\n/data/1.jpg\r\n", encoding="utf-8")
    else:
        write_list(path, image=["x/2.jpg", "/data/1.jpg"])
    # they need not exist, and number themselves
    assert listed(path) == [(2, f"{tmp_path}/x/2.jpg"), (1, "/data/1.jpg")]


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_list_may_give_ids_and_name_its_columns(tmp_path, name):
    path = write_list(tmp_path / name, file=["/1.jpg", "/2.jpg"], image_id=[70, 7], other=[0.5, 1])
    assert listed(path, column="file") == [(70, "/1.jpg"), (7, "/2.jpg")]


def test_names_that_are_the_same_number_are_no_ids(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("/a/1.jpg\n/b/01.jpg")
    assert [image_id for image_id, _ in listed(path)] == [1, 2]


@pytest.mark.parametrize(
    "columns, sentence",
    [
        ({"file": ["a"]}, "has no column 'image' but file: name the one"),
        ({"image": ["a", "b"], "image_id": [1, 1]}, "image_id 1 is that of several images"),
        ({"image": ["a", "a"], "image_id": [1, 2]}, "/a is listed as 1 and as 2"),
        ({"image": ["a", "b"], "image_id": [1, None]}, "None as 'image_id' in row 2"),
        ({"image": ["a"], "image_id": ["x"]}, "'x' as 'image_id' in row 1: ids are whole numbers"),
        ({"image": ["a", None]}, "None as 'image' in row 2: paths are texts"),
        ({"image": pa.array([], pa.string())}, "is empty: give one with images"),
    ],
)
def test_a_list_that_cannot_be_is_told_in_a_sentence(tmp_path, columns, sentence):
    path = write_list(tmp_path / "list.parquet", **columns)
    with pytest.raises(UsageError, match=sentence):
        listed(path)


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.parquet"])
def test_a_list_that_is_none_is_told_in_a_sentence(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe\x00,\n\x00")
    with pytest.raises(UsageError, match=f"cannot read the list {path}|has no column 'image'"):
        listed(path)


def test_ids_for_some_images_alone_are_told_in_a_sentence(folder, tmp_path):
    path = write_list(tmp_path / "list.csv", image=["a"], image_id=[5])
    with pytest.raises(UsageError, match="1 of 4 images have an image_id: give one to all"):
        listed(folder / "a.jpg", folder / "b.png", folder / "deep", path)


def test_inputs_that_are_not_there_are_told_in_a_sentence(tmp_path):
    with pytest.raises(UsageError, match="/none does not exist"):
        listed(tmp_path / "none")
    with pytest.raises(UsageError, match="no file matches"):
        listed(tmp_path / "*.jpg")
    with pytest.raises(UsageError, match="holds no file that ends as an image's does"):
        listed(tmp_path)


def test_a_name_that_is_no_text_is_told_in_a_sentence(tmp_path):
    (tmp_path / os.fsdecode(b"m\xfcnchen.jpg")).touch()
    with pytest.raises(UsageError, match=r"m\\udcfcnchen.jpg' is not in UTF-8: rename that file"):
        listed(tmp_path)
