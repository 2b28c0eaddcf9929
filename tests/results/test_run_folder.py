"""The folder of a run: names and numbers of images, what is done, what belongs to it."""

import json
import os

import pytest

from knet.errors import UsageError
from knet.results.run_folder import STATE, RunFolder
from tests.results.made import write_image


def paths(root, *names):
    return [write_image(root / name) for name in names]


def add(folder, sources, **options):
    with RunFolder(str(folder), {}, **options) as run:
        return run.add(sources)


def finish_one(run, tmp_path):
    (image,) = run.add(paths(tmp_path / "in", "1.jpg"))
    run.finish(image, {})


def stems(images):
    return [image.stem for image in images]


def test_folders_of_the_images_are_kept(tmp_path):
    names = ["a/1.jpg", "b/1.jpg", "c.d.jpg", "a.jpg"]
    images = add(tmp_path / "out", paths(tmp_path / "in", *names))
    assert stems(images) == ["a/1", "b/1", "c.d", "a"]
    assert [image.file_name for image in images] == names


@pytest.mark.parametrize(
    "names",
    [
        ("1.jpg", "1.png", "1.JPG", "1-2.png"),
        ("a/1.jpg", "A/1.png", "a.jpg/1.jpg", "a.png"),
        ("panoptic/1.jpg", "Panoptic_/1.jpg", ".knet/run.json.jpg", "x/panoptic/1.jpg"),
        ("x" * 250 + ".jpg", "x" * 249 + "y.jpg", " .jpg", "...x.jpg"),
    ],
)
def test_no_output_has_the_place_of_another_or_of_the_runs_own_files(tmp_path, names):
    sources = paths(tmp_path / "in", *names)
    images = add(tmp_path / "out", sources, reserved=["panoptic"])
    files = [f"{stem}{end}".lower() for stem in stems(images) for end in (".jpg", ".png")]
    assert len(set(files)) == 2 * len(names)
    folders = {os.path.dirname(file) for file in files}
    assert not folders & set(files)
    assert not {file.split("/")[0] for file in files if "/" in file} & {"panoptic", STATE}
    out = str(tmp_path / "out")
    assert all(os.path.normpath(f"{out}/{file}").startswith(f"{out}/") for file in files)
    for file in files:  # they can be made
        with RunFolder(out, {}, ["panoptic"]) as run:
            run.write(file, lambda path: path.touch())


def test_absolute_names_and_names_with_dots_stay_in_the_folder(tmp_path, monkeypatch):
    (elsewhere,) = paths(tmp_path / "elsewhere", "1.jpg")
    paths(tmp_path / "here", "1.jpg")
    (tmp_path / "here" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "here" / "sub")
    images = add(tmp_path / "out", [elsewhere, "../1.jpg", "../../here/sub/../1.jpg"])
    assert stems(images) == ["elsewhere/1", "here/1"], "a file given twice is one image"


def test_ids_are_the_numbers_that_names_are(tmp_path):
    sources = paths(tmp_path / "in", "000000000139.jpg", "000000000285.jpg")
    images = add(tmp_path / "out", sources)
    assert [image.id for image in images] == [139, 285]


@pytest.mark.parametrize("names", [("7.jpg", "b.jpg"), ("a/7.jpg", "b/7.jpg"), ("7.jpg", "٣.jpg")])
def test_other_images_are_counted(tmp_path, names):
    images = add(tmp_path / "out", paths(tmp_path / "in", *names))
    assert [image.id for image in images] == [1, 2]


def test_images_that_come_later_change_no_name_and_no_id(tmp_path):
    sources = paths(tmp_path / "in", "1.jpg", "b/1.jpg", "a/1.jpg", "5.jpg")
    with RunFolder(str(tmp_path / "out"), {}) as run:
        first = run.add(sources[1:3])
        run.finish(first[0], {})
    assert stems(first) == ["b/1", "a/1"]
    both = add(tmp_path / "out", sources)
    assert both[1:3] == first
    assert len({image.id for image in both}) == len(set(stems(both))) == 4


def test_a_finished_image_is_done_until_its_file_or_a_result_changes(tmp_path):
    (source,) = paths(tmp_path / "in", "1.jpg")
    out = tmp_path / "out"
    with RunFolder(str(out), {}) as run:
        (image,) = run.add([source])
        assert not run.is_done(image)
        run.write("1.png", lambda path: path.write_text("result"))
        run.finish(image, {"width": 3})
        assert run.is_done(image)
    with RunFolder(str(out), {}) as run:
        assert run.is_done(image) and [r["width"] for _, r in run.records()] == [3]
        (out / "1.png").unlink()
        assert not run.is_done(image)
        run.write("1.png", lambda path: path.write_text("result"))
        assert run.is_done(image)
    os.utime(source, (1, 1))
    with RunFolder(str(out), {}) as run:
        assert not run.is_done(image)


def test_an_image_that_changes_while_it_is_read_is_not_done(tmp_path):
    (source,) = paths(tmp_path / "in", "1.jpg")
    with RunFolder(str(tmp_path / "out"), {}) as run:
        (image,) = run.add([source])
        assert not run.is_done(image)
        os.utime(source, (1, 1))
        run.finish(image, {})
    with RunFolder(str(tmp_path / "out"), {}) as run:
        assert not run.is_done(image)


def test_a_run_is_complete_while_its_files_about_all_images_are_there(tmp_path):
    with RunFolder(str(tmp_path / "out"), {}) as run:
        assert not run.is_complete
        run.write("all.json", lambda path: path.touch())
        run.mark_complete()
        assert run.is_complete
        (tmp_path / "out" / "all.json").unlink()
        assert not run.is_complete


def test_a_line_that_was_being_written_is_left_out(tmp_path):
    sources = paths(tmp_path / "in", "1.jpg", "2.jpg")
    out = tmp_path / "out"
    with RunFolder(str(out), {}) as run:
        images = run.add(sources)
        run.finish(images[0], {"width": 1})
        run.finish(images[1], {"width": 2})
    journal = out / STATE / "journal.jsonl"
    whole = journal.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        journal.write_bytes(whole[:length])
        with RunFolder(str(out), {}) as run:
            assert [run.is_done(image) for image in images] == [True, False]
            run.finish(images[1], {"width": 2})
            assert [r["width"] for _, r in run.records()] == [1, 2]
        assert journal.read_bytes() == whole


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with RunFolder(str(tmp_path / "out"), {}) as run:

        def fail(path):
            path.write_text("half")
            raise OSError("the disk is full")

        with pytest.raises(OSError, match="full"):
            run.write("sub/1.txt", fail)
        assert not list((tmp_path / "out").rglob("*.txt"))


def test_results_of_other_settings_are_not_mixed_in(tmp_path):
    out = str(tmp_path / "out")
    with RunFolder(out, {"--weights": "a", "--opacity": 0.5}) as run:
        finish_one(run, tmp_path)
    with RunFolder(out, {"--weights": "a", "--opacity": 0.5}):
        pass
    with (
        pytest.raises(UsageError, match=r"other settings \(--opacity, --weights\): give another"),
        RunFolder(out, {"--weights": "b", "--opacity": 0.7}),
    ):
        pass


def test_a_start_that_came_to_nothing_binds_no_other(tmp_path):
    out = str(tmp_path / "out")
    with RunFolder(out, {"--opts": ["WRONG"]}) as run:
        run.add(paths(tmp_path / "in", "7.jpg"))
    with RunFolder(out, {"--opts": []}) as run:
        (image,) = run.add(paths(tmp_path / "others", "7.jpg"))
        assert image.id == 7 and image.stem == "7"
        finish_one(run, tmp_path)
    with RunFolder(out, {"--opts": []}):
        pass


def test_a_folder_of_something_else_is_not_written_into(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".DS_Store").touch()
    with RunFolder(str(mine), {}):
        pass
    theirs = tmp_path / "theirs"
    (theirs / "photos").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds files of something else"):
        RunFolder(str(theirs), {})
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(str(tmp_path / "file"), {})
    assert not (theirs / STATE).exists()


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with RunFolder(str(tmp_path / "out"), {}):
        second = RunFolder(str(tmp_path / "out"), {})
        with pytest.raises(UsageError, match="another run is writing"):
            second.__enter__()


def test_settings_are_for_people_to_read(tmp_path):
    with RunFolder(str(tmp_path / "out"), {"--kind": "panoptic"}):
        pass
    assert json.loads((tmp_path / "out" / STATE / "run.json").read_text()) == {"--kind": "panoptic"}
