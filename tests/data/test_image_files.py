"""Which image files a user means."""

import os

import pytest

from knet.data.image_files import find_images, image_ids
from knet.errors import UsageError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    names = ("b.JPG", "a.png", "notes.txt", ".DS_Store", "Thumbs.db", "._a.png", "sub/c.tiff")
    for name in (*names, ".hidden/d.png", "results/a.png", "[1].png", "1.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)


def test_a_folder_gives_its_images_and_those_below(photos):
    found = find_images(["photos"], skip_folder=lambda folder: folder.endswith("results"))
    names = ["1.png", "[1].png", "a.png", "b.JPG", "sub/c.tiff"]
    assert found == [os.path.join("photos", name) for name in names]


def test_files_folders_and_patterns_in_their_order_each_once(photos):
    found = find_images(
        ["photos/sub", "photos/*.png", "photos/b.JPG", os.path.abspath("photos/a.png")]
    )
    names = ["sub/c.tiff", "1.png", "[1].png", "a.png", "b.JPG"]
    assert found == [f"photos/{name}" for name in names]


def test_a_pattern_may_reach_into_any_folder(photos):
    assert find_images(["photos/**/c.*"]) == ["photos/sub/c.tiff"]


def test_a_name_that_looks_like_a_pattern_is_a_name_first(photos):
    assert find_images(["photos/[1].png"]) == ["photos/[1].png"]


def test_a_file_is_taken_at_its_word(photos):
    assert find_images(["photos/notes.txt"]) == ["photos/notes.txt"]


@pytest.mark.parametrize(
    "given, sentence",
    [
        ("nowhere.jpg", "nowhere.jpg does not exist"),
        ("photos/*.gif", r"no file matches photos/\*.gif"),
        ("empty", "empty holds no file that ends as an image"),
    ],
)
def test_what_gives_no_image_is_told(photos, given, sentence):
    os.mkdir("empty")
    with pytest.raises(UsageError, match=sentence):
        find_images(["photos", given])


@pytest.mark.parametrize(
    "names, ids",
    [
        (["000139.jpg", "7.png"], [139, 7]),
        (["a/7.jpg", "b/7.jpg"], [1, 2]),
        (["7.jpg", "x.jpg"], [1, 2]),
        (["²1.jpg"], [1]),
        (["9" * 30 + ".jpg"], [1]),
        ([], []),
    ],
)
def test_ids_are_numbers_in_names_or_count(names, ids):
    assert image_ids(names) == ids
