"""tools/demo.py: pictures, folders, videos and a camera in, drawn results and files out."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from knet.data.image_reading import read_image
from knet.engine.main import load_config
from knet.errors import DatasetError
from knet.video import Frame, VideoReader, write_video
from tests.conftest import DEMO_CONFIG, REPO, pairs
from tests.tools.demo import (
    PROGRAM,
    Shown,
    camera,
    load_program,
    make_model_file,
    write_picture,
)

EVERYTHING = ("--save", "coco-panoptic", "coco-instances", "labels", "table")


@pytest.fixture
def program():
    return load_program()


@pytest.fixture
def model_file(tiny_options, tmp_path):
    """A K-Net whose random kernels find something."""
    return make_model_file(tiny_options, tmp_path / "model_final.pth")


@pytest.fixture
def photos(tmp_path):
    """A folder of six pictures in two folders."""
    names = ("a.jpg", "b.png", "c.jpg", "sub/a.jpg", "sub/d.bmp", "sub/e.jpg")
    for i, name in enumerate(names):
        write_picture(tmp_path / "photos" / name, i)
    return str(tmp_path / "photos")


def tree(folder):
    """The content of each file but the state of the run."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    files = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: content for name, content in files.items() if not name.startswith(".knet")}


# ------------------------------------------------------------------------------------- pictures


def test_a_folder_is_drawn_into_a_folder(program, model_file, photos, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--weights", model_file, "--input", photos, "--output", str(out)]
    assert program.main(words) == 0
    assert set(tree(out)) == {"a.jpg", "b.png", "c.jpg", "sub/a.jpg", "sub/d.png", "sub/e.jpg"}
    before, after = (read_image(f"{folder}/b.png").astype(int) for folder in (photos, out))
    assert before.shape == after.shape and np.abs(before - after).mean() > 5
    captured = capsys.readouterr()
    assert captured.out == f"6 of 6 pictures are done, in {out}\n"
    assert "pictures/s" not in captured.err, "no bar where there is no terminal"


def test_the_same_command_again_does_nothing_again(
    program, model_file, photos, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    words = ["--weights", model_file, "--input", photos, "--output", str(out), *EVERYTHING]
    assert program.main(words) == 0
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(program, "load_predictor", None)  # not even the model is loaded
    assert program.main(words) == 0
    assert capsys.readouterr().out.endswith(f"all 6 pictures are done already, in {out}\n")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_results_for_programs_without_pictures(program, model_file, photos, tmp_path):
    out = tmp_path / "out"
    words = ["--weights", model_file, "--input", photos, "--output", str(out), "--no-pictures"]
    assert program.main([*words, *EVERYTHING]) == 0
    top = {path.name for path in out.iterdir()} - {".knet"}
    assert top == {
        *("panoptic", "panoptic.json", "instances.json", "images.json", "labels", "table.csv")
    }
    panoptic = json.loads((out / "panoptic.json").read_text())
    assert len(panoptic["annotations"]) == 6
    assert len(json.loads((out / "instances.json").read_text())) > 6
    with open(out / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    segments = sum(len(a["segments_info"]) for a in panoptic["annotations"])
    assert len(rows) == segments > 6


def test_each_file_of_a_run_that_was_killed_is_that_of_a_whole_run(
    program, model_file, photos, tmp_path
):
    words = ["--weights", model_file, "--input", photos, *EVERYTHING]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert program.main([*words, "--output", str(whole)]) == 0
    command = [sys.executable, str(PROGRAM), *words, "--output", str(out)]
    env = {**os.environ, "PYTHONPATH": str(REPO / "projects" / "KNet")}
    journal = out / ".knet" / "journal.jsonl"
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n")):
            time.sleep(0.01)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert not (out / "panoptic.json").exists() and 0 < len(tree(out)) < len(tree(whole))
    kept = journal.read_bytes()
    assert program.main([*words, "--output", str(out)]) == 0
    assert tree(out) == tree(whole)
    done = kept[: kept.rindex(b"\n") + 1]
    assert journal.read_bytes().startswith(done), "what was done is not done again"
    assert journal.read_bytes().count(b"\n") == 6
    assert list(out.rglob("*part*")) == []


def test_ctrl_c_says_how_to_go_on(model_file, photos, tmp_path, interruptible):
    for i in range(60):
        write_picture(tmp_path / "photos" / f"more{i}.jpg", i)
    out = tmp_path / "out"
    command = [sys.executable, str(PROGRAM), "--weights", model_file, "--input", photos]
    env = {**os.environ, "PYTHONPATH": str(REPO / "projects" / "KNet")}
    with subprocess.Popen(
        [*command, "--output", str(out)], env=env, stderr=subprocess.PIPE, text=True
    ) as run:
        while run.poll() is None and not (out / "a.jpg").exists():
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        told = run.stderr.read()
    assert run.returncode == 130
    assert told.endswith("demo.py: stopped, the same command goes on from here\n"), told
    assert "Traceback" not in told


def test_broken_files_are_named_and_the_rest_is_done(
    program, model_file, photos, tmp_path, capsys, caplog
):
    broken = Path(photos) / "broken.jpg"
    broken.write_text("no picture")
    (Path(photos) / "notes.txt").write_text("no picture either")
    out = tmp_path / "out"
    words = ["--weights", model_file, "--input", photos, "--output", str(out)]
    assert program.main(words) == 3
    captured = capsys.readouterr()
    assert captured.out == f"6 of 7 pictures are done, in {out}\n"
    first = f"see {out}/failures.csv; the first: cannot read the image {broken}: it is empty, cut"
    assert f"1 could not be done, {first}" in captured.err
    assert str(broken) in (out / "failures.csv").read_text() and str(broken) in caplog.text
    assert "notes" not in (out / "failures.csv").read_text()
    write_picture(broken, 0)
    assert program.main(words) == 0
    assert (out / "broken.jpg").exists() and not (out / "failures.csv").exists()


def test_where_nothing_can_be_read_the_status_says_so(program, model_file, tmp_path, capsys):
    (tmp_path / "a.jpg").touch()
    words = ["--weights", model_file, "--input", str(tmp_path / "a.jpg")]
    assert program.main([*words, "--output", str(tmp_path / "out")]) == 1
    assert program.main([*words, "--output", str(tmp_path / "a.png")]) == 1
    assert "cannot read the image" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("name", ["street.png", "street.jpg", "new/street.JPEG"])
def test_one_picture_into_a_file(program, model_file, photos, tmp_path, capsys, name):
    out = tmp_path / "out" / name
    words = ["--weights", model_file, "--input", f"{photos}/b.png", "--output", str(out)]
    assert program.main(words) == 0
    assert read_image(str(out)).shape == (50, 70, 3)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert program.main(words) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_options_of_drawing_change_the_pictures(program, model_file, photos, tmp_path):
    pictures = []
    variants = [
        [],
        ["--kind", "instance"],
        ["--kind", "semantic"],
        ["--opacity", "0.9"],
        ["--kind", "instance", "--confidence-threshold", "0.9"],
        ["--kind", "instance", "--no-overlap", "--confidence-threshold", "0.4"],
    ]
    for i, more in enumerate(variants):
        out = tmp_path / f"{i}.png"
        words = ["--weights", model_file, "--input", f"{photos}/b.png", "--output", str(out)]
        assert program.main([*words, *more]) == 0
        pictures.append(out.read_bytes())
    assert len(set(pictures)) == len(variants)


def test_a_model_makes_only_the_results_that_are_asked_for(program, model_file, monkeypatch):
    predictors = []
    load = program.load_predictor
    monkeypatch.setattr(program, "load_predictor", lambda args: predictors.append(load(args)))
    for words, made in (
        ([], {"panoptic"}),
        (["--kind", "instance"], {"instance"}),
        (["--save", "labels", "table"], {"panoptic", "semantic"}),
        (["--save", "coco-instances", "--kind", "semantic"], {"instance", "semantic"}),
    ):
        args = program.parse_args(["--weights", model_file, "--input", "x", *words])
        predictor = load(args)
        program.drawing_options(predictor, args)
        switches = predictor.model.postprocessor
        kinds = ("panoptic", "instance", "semantic")
        assert {kind for kind in kinds if getattr(switches, f"{kind}_on")} == made


def test_detectron2s_way_to_name_the_weights(program, model_file, photos, tmp_path, tiny_options):
    out = str(tmp_path / "out.png")
    config = tmp_path / "config.yaml"
    config.write_text(load_config(DEMO_CONFIG, pairs(tiny_options)).dump())
    words = ["--config-file", str(config), "--input", f"{photos}/b.png", "--output", out]
    words += ["--opts", "MODEL.KNET.TEST.SCORE_THRESHOLD", "0.1", "MODEL.WEIGHTS", model_file]
    assert program.main(words) == 0


# ------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([], "give one of --input, --video-input and --webcam"),
        (["--input", "a.png", "--webcam"], "give one of --input, --video-input and --webcam"),
        (["--input", "nowhere.png", "--output", "out"], "nowhere.png does not exist"),
        (["--input", "https://x.org/a.png"], "a.png is an address: download it, and give the file"),
        (["--input", "*.gif", "--output", "out"], "no file matches *.gif"),
        (["--input", "empty", "--output", "out"], "empty holds no file that ends as an image"),
        (["--input", "a.png", "b.png", "--output", "out.jpg"], "out.jpg is one picture"),
        (["--input", "a.png", "--output", "a.png"], "a.png exists already"),
        (["--input", "a.png", "--output", "photos"], "photos holds files of something else"),
        (["--input", "photos", "--output", "./photos/"], "is the folder of the pictures"),
        (["--input", "a.png", "--output", "notes.txt"], "notes.txt is a file"),
        (["--input", "a.png", "--output", "o.gif"], "o.gif must end in .jpg, .jpeg, .png to be"),
        (["--input", "a.png", "--output", "o.mp4"], "or give a folder"),
        (["--input", "a.png", "--save", "table"], "--save needs a folder to write to"),
        (["--input", "a.png", "--output", "o.png", "--save", "table"], "o.png is one picture"),
        (["--input", "a.png", "--output", "out", "--no-pictures"], "leaves nothing to write"),
        (["--input", "a.png", "--opacity", "50"], "--opacity is 50.0: give a number from 0 to 1"),
        (["--input", "a.png", "--confidence-threshold", "-1"], "--confidence-threshold is -1.0"),
        (["--input", "a.png", "--workers", "0"], "--workers is 0: give 1 or more"),
        (["--input", "a.png", "--batch-size", "0"], "--batch-size is 0: give 1 or more"),
        (
            ["--input", "a.png", "--weights", "none.pth"],
            "none.pth does not exist: correct --weights",
        ),
        (
            ["--input", "a.png", "--weights", "photos"],
            "photos is a folder: name a file in it as --weights",
        ),
        (["--input", "a.png", "--weights", "."], "as --weights, such as model.pth"),
        (["--input", "a.png", "--opts", "MODEL.WEIGHTS", "a.pth"], "name the weights twice"),
        (["--video-input", "none.mp4", "--output", "out"], "none.mp4 does not exist"),
        (["--video-input", "a.png", "--output", "out.avi"], "out.avi must end in .mp4 or .webm"),
        (["--video-input", "v.mp4", "--output", "v.mp4"], "v.mp4 exists already"),
        (["--video-input", "v.mp4", "--output", "."], "v.mp4 exists already"),
        (["--video-input", "v.mp4", "--output", "out"], "cannot read the video v.mp4"),
        (["--video-input", "v.mp4", "--output", "o", "--save", "labels"], "--save is for pictures"),
        (["--input", "a.png", "--output", "o", "--config-file", "c.yaml"], "no config 'c.yaml'"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence_before_the_model_is_loaded(
    program, tmp_path, monkeypatch, capsys, words, sentence
):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "a.png", "b.png"):
        write_picture(tmp_path / name, 0)
    for name in ("notes.txt", "v.mp4", "model.pth"):
        (tmp_path / name).write_text("text")
    (tmp_path / "empty").mkdir()
    before = tree(tmp_path)
    monkeypatch.setattr(program, "load_predictor", None)
    if "--weights" not in words:
        words = ["--weights", "model.pth", *words]
    assert program.main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("demo.py: ") and sentence in captured.err
    assert captured.err.count("\n") == 1
    assert tree(tmp_path) == before


def test_without_weights_a_sentence_says_to_give_them(program, capsys):
    assert program.main(["--input", "a.png"]) == 1
    assert capsys.readouterr().err == "demo.py: no weights: give --weights FILE\n"


def test_after_a_start_with_a_wrong_option_the_right_one_is_taken(
    program, model_file, photos, tmp_path, capsys
):
    out = tmp_path / "out"
    words = ["--weights", model_file, "--input", f"{photos}/a.jpg", "--output", str(out)]
    assert program.main([*words, "--opts", "MODEL.KNET.NONE", "1"]) == 1
    assert "MODEL.KNET.NONE is no key" in capsys.readouterr().err
    assert program.main(words) == 0


def test_a_disk_that_cannot_be_written_is_told_in_a_sentence(
    program, model_file, photos, tmp_path, capsys
):
    (tmp_path / "file").touch()
    words = ["--weights", model_file, "--input", photos, "--output", str(tmp_path / "file" / "x")]
    assert program.main(words) == 1
    told = capsys.readouterr().err
    assert told.startswith("demo.py: cannot write the results: ") and told.count("\n") == 1


def test_results_of_other_weights_or_options_are_not_mixed(
    program, model_file, photos, tmp_path, tiny_options, capsys
):
    other = make_model_file(tiny_options, tmp_path / "other.pth", seed=1)
    out = tmp_path / "out"
    words = ["--input", f"{photos}/a.jpg", "--output", str(out)]
    assert program.main(["--weights", model_file, *words]) == 0
    before = tree(out)
    for more, flags in (
        (["--weights", other], "--weights"),
        (["--weights", model_file, "--kind", "instance", "--opacity", "0.1"], "--kind, --opacity"),
    ):
        capsys.readouterr()
        assert program.main([*more, *words]) == 1
        told = capsys.readouterr().err
        assert f"{out} holds results of other settings ({flags}): give another --output" in told
    assert tree(out) == before


def test_a_kind_of_result_that_the_model_does_not_make(
    program, model_file, photos, monkeypatch, capsys
):
    load = program.load_predictor

    def semantic(args):
        predictor = load(args)
        del predictor.model.postprocessor  # as models of other architectures
        return predictor

    monkeypatch.setattr(program, "load_predictor", semantic)
    words = ["--weights", model_file, "--input", f"{photos}/a.jpg", "--output", "x.jpg"]
    assert program.main([*words, "--kind", "panoptic"]) == 1
    assert "makes semantic results alone" in capsys.readouterr().err


# ----------------------------------------------------------------------------- videos and cameras


@pytest.fixture
def video(tmp_path):
    """Five frames of 50 x 70 at 10 a second, which move."""
    pytest.importorskip("av", reason="PyAV is not installed")
    picture = np.asarray(write_picture(tmp_path / "frame.png", 0, (50, 80)))
    frames = [Frame(picture[:, i : i + 70], Fraction(i, 10)) for i in range(5)]
    write_video(str(tmp_path / "drive.mp4"), frames, 10)
    return str(tmp_path / "drive.mp4")


@pytest.mark.parametrize("output", ["out", "new/drawn.webm"])
def test_a_video_is_drawn_into_a_video(program, model_file, video, tmp_path, capsys, output):
    out = tmp_path / output
    words = ["--weights", model_file, "--video-input", video, "--output", str(out)]
    assert program.main(words) == 0
    written = out / "drive.mp4" if output == "out" else out
    assert capsys.readouterr().out == f"5 frames are drawn, without sound, in {written}\n"
    with VideoReader(video) as before, VideoReader(str(written)) as after:
        assert before.rate == after.rate
        before, after = list(before), list(after)
    assert [f.time for f in after] == pytest.approx([f.time for f in before], abs=0.002)
    for ours, theirs in zip(before, after):
        assert np.abs(ours.image.astype(int) - theirs.image).mean() > 5, "it is drawn"
    assert list(written.parent.iterdir()) == [written]


def test_nothing_is_left_of_a_video_that_is_damaged(
    program, model_file, video, tmp_path, monkeypatch, capsys
):
    def damaged(self):
        yield Frame(read_image(str(tmp_path / "frame.png")), Fraction(0))
        raise DatasetError("the video is damaged")

    monkeypatch.setattr(VideoReader, "__iter__", damaged)
    words = ["--weights", model_file, "--video-input", video, "--output", str(tmp_path / "out")]
    assert program.main(words) == 1
    assert capsys.readouterr().err == "demo.py: the video is damaged\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_without_output_results_are_shown_until_the_window_is_closed(
    program, model_file, photos, video, monkeypatch
):
    monkeypatch.setattr(program, "Window", Shown)
    monkeypatch.setattr(program, "camera_frames", camera)
    for words in (["--input", photos], ["--video-input", video], ["--webcam"]):
        assert program.main(["--weights", model_file, *words]) == 0
        assert [picture.shape for picture in Shown.pictures] == [(50, 70, 3)] * 3


def test_ctrl_c_ends_a_camera_and_keeps_what_it_has_shown(
    program, model_file, tmp_path, monkeypatch, capsys, interruptible
):
    pytest.importorskip("av", reason="PyAV is not installed")

    def interrupted():
        for i, frame in enumerate(camera()):
            yield frame
            if i == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(program, "camera_frames", interrupted)
    out = tmp_path / "camera.mp4"
    assert program.main(["--weights", model_file, "--webcam", "--output", str(out)]) == 0
    with VideoReader(str(out)) as reader:
        assert len(list(reader)) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_real_pictures_are_drawn(program, model_file, real_data, tmp_path):
    out = tmp_path / "out"
    words = ["--weights", model_file, "--input", str(real_data / "photos"), "--output", str(out)]
    assert program.main([*words, *EVERYTHING]) == 0
    for path in (real_data / "photos").glob("*.jpg"):
        assert read_image(str(path)).shape == read_image(str(out / path.name)).shape
