"""Names of outputs: below their folder, one for each source; what must not be written over."""

import os

import portalocker
import pytest

from knet.errors import UsageError
from knet.files import (
    alone_in,
    distinct_names,
    file_name_of,
    output_names,
    refuse_overwriting,
    relative_name,
    replacing,
)


@pytest.mark.parametrize(
    "sources, names",
    [
        (["/data/a/1.jpg", "/data/b/1.jpg"], ["a/1.png", "b/1.png"]),
        (["/data/1.jpg", "/data/1.png", "/data/1-2.bmp"], ["1.png", "1-2.png", "1-2-2.png"]),
        (["/data/Up.jpg", "/data/up.jpg"], ["Up.png", "up-2.png"]),
        (["/data/caf\u00e9.jpg", "/data/cafe\u0301.jpg"], ["caf\u00e9.png", "cafe\u0301-2.png"]),
        (["/data/x/../1.jpg", "/data/2.jpg"], ["1.png", "2.png"]),
        (["one.jpg"], ["one.png"]),
        (["/data/a\\b.jpg", "/data/a:b.jpg"], ["a_b.png", "a_b-2.png"]),
        (["/data/x.png/1.jpg", "/data/x.jpg"], ["x.png/1.png", "x-2.png"]),
        (["/data/x.jpg", "/data/x.png/1.jpg"], ["x.png", "1.png"]),
        ([], []),
    ],
)
def test_each_source_has_a_name_of_its_own(sources, names):
    assert output_names(sources, ".png") == names


@pytest.mark.parametrize(
    "source, name",
    [
        ("/data/a/b.c.jpg", "a/b.c"),
        ("/data/../elsewhere/1.jpg", "1"),
        ("/elsewhere/root/1.jpg", "1"),
        ("/data/\n\x00.jpg", "__"),
        ("/data/.hidden", ".hidden"),
    ],
)
def test_a_name_is_below_the_root_or_stands_alone(source, name):
    made = relative_name(source, "/data")
    assert made == name
    assert relative_name(source, None) == os.path.basename(made)


@pytest.mark.parametrize("text", ["", ".", "..", "/", "../..", "/etc/passwd", "a" * 300, "日" * 99])
def test_a_text_becomes_the_name_of_one_file(tmp_path, text):
    name = file_name_of(text)
    (tmp_path / name).mkdir()
    assert os.listdir(tmp_path) == [name]


def test_long_names_stay_apart(tmp_path):
    stem = "x" * 250
    names = output_names([f"/d/{stem}1.jpg", f"/d/{stem}2.jpg", f"/d/{stem}1.bmp"], ".png")
    assert len(set(names)) == 3
    for name in names:
        (tmp_path / f"{name}.part").touch()


def test_many_of_one_name(tmp_path):
    names = distinct_names(["a"] * 5)
    assert names == ["a", "a-2", "a-3", "a-4", "a-5"]


# ------------------------------------------------------------------------------ writing over


def link(source, target):
    target.symlink_to(source)


def test_new_files_and_files_of_ones_own_may_be_written(tmp_path):
    inputs = [str(tmp_path / "in.png"), str(tmp_path / "absent.png"), "s3://bucket/a.png"]
    (tmp_path / "in.png").touch()
    refuse_overwriting(str(tmp_path / "new"), ["in.png"], inputs, change="--output")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "in.png").touch()
    refuse_overwriting(str(tmp_path / "old"), ["in.png", "b.png"], inputs, change="--output")


@pytest.mark.parametrize(
    "make",
    [
        lambda data, out: link(data, out),
        lambda data, out: (out.mkdir(), os.link(data / "a.png", out / "a.png")),
    ],
    ids=["a folder by another name", "a hard link"],
)
def test_an_input_is_not_written_over(tmp_path, make):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "a.png").touch()
    make(data, out)
    with pytest.raises(UsageError, match=rf"{out}/a\.png .* but is read .*another --output"):
        refuse_overwriting(str(out), ["a.png"], [str(data / "a.png")], change="--output")


@pytest.mark.parametrize(
    "make",
    [
        lambda out, elsewhere: link(elsewhere, out / "sub"),
        lambda out, elsewhere: ((out / "sub").mkdir(), link(elsewhere, out / "sub" / "a.png")),
    ],
    ids=["of a folder", "of a file, to nothing"],
)
def test_a_link_does_not_lead_out(tmp_path, make):
    out = tmp_path / "out"
    out.mkdir()
    make(out, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"sub/a\.png is a link to .*elsewhere"):
        refuse_overwriting(str(out), ["sub/a.png"], [], change="--output")


@pytest.mark.parametrize(
    "make",
    [
        lambda out: out.touch(),
        lambda out: (out.mkdir(), (out / "sub").touch()),
        lambda out: (out / "sub" / "a.png").mkdir(parents=True),
    ],
    ids=["a file called as the folder", "as a folder in it", "a folder called as a file"],
)
def test_folders_and_files_of_the_same_name(tmp_path, make):
    out = tmp_path / "out"
    make(out)
    for folder, output in ((out, "sub/a.png"), (out / "sub", "a.png")):
        with pytest.raises(UsageError, match=r"is (no|a) folder, .* or choose another --output"):
            refuse_overwriting(str(folder), [output], [], change="--output")


def test_two_processes_that_write_one_file_do_not_mix_it(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    with replacing(path) as ours:
        ours.write_text("ours")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with replacing(path) as theirs:
            theirs.write_text("theirs")
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    lock = tmp_path / "lock"
    with (
        alone_in(tmp_path, lock),
        pytest.raises(UsageError, match=f"another run is writing to {tmp_path}: wait"),
        alone_in(tmp_path, lock),
    ):
        pass
    with alone_in(tmp_path, lock):
        pass


def test_a_disk_without_locks_is_used_without(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise portalocker.LockException("no locks available")

    monkeypatch.setattr(portalocker, "lock", unsupported)
    with alone_in(tmp_path, tmp_path / "lock"):
        assert "has no locks: start no other run there" in caplog.text


def test_a_file_takes_the_place_of_another_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("one", "two"):
        with replacing(path) as part:
            part.write_text(text)
        assert path.read_text() == text
    with pytest.raises(OSError, match="full"), replacing(path) as part:
        part.write_text("half")
        raise OSError("the disk is full")
    assert [(file, file.read_text()) for file in path.parent.iterdir()] == [(path, "two")]
