"""The programs that draw: the demo's folder, and errors told in one sentence."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

import knet_cli
from knet.errors import UsageError
from knet.evaluation import InstanceEvaluator, SemanticEvaluator
from knet.visualization import draw_contact_sheet
from tests.conftest import pairs
from tests.data.datasets.folders import InstanceFolder, rle
from tests.evaluation.conftest import evaluate, instance_truth, label_truth, semantic_output

SHAPES = "shapes_panoptic_val"
RESULTS = ("PANOPTIC", "INSTANCE", "SEMANTIC")


def load(name):
    """The module of a program of projects/KNet/tools."""
    return importlib.import_module(f"knet.commands.{name}")


def test_the_demo_starts_anew_in_its_own_folder(tmp_path):
    start_clean = load("train_shapes").start_clean
    folder = tmp_path / "out [1]"  # a name that glob would read otherwise
    start_clean(str(folder))
    (folder / "inference").mkdir()
    for name in ("metrics.json", "model_final.pth", "last_checkpoint", "inference/a", "notes.txt"):
        (folder / name).touch()
    start_clean(str(folder))
    left = sorted(path.name for path in folder.iterdir())
    assert left == [".knet_demo", "notes.txt"], "a user's own file stays"


def test_the_demo_touches_no_other_folder(tmp_path):
    program = load("train_shapes")
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(UsageError, match="give another --output"):
        program.start_clean(str(tmp_path))
    with pytest.raises(UsageError, match="give another --output"):
        program.start_clean(str(tmp_path / "model_final.pth"))
    with pytest.raises(UsageError, match=r"cannot be written .*: give another --output"):
        program.start_clean(str(tmp_path / "model_final.pth" / "run"))
    assert [path.name for path in tmp_path.iterdir()] == ["model_final.pth"]


def test_the_demo_of_a_full_folder_ends_in_one_sentence(tmp_path, capsys):
    (tmp_path / "model_final.pth").touch()
    assert load("train_shapes").main(["--output", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and str(tmp_path) in captured.err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--predictions", "nowhere", "--dataset", SHAPES], "nowhere holds no predictions.json"),
        (
            ["--predictions", "p", "--dataset", "x"],
            "'x' is not registered: correct its name, or give",
        ),
        (["--predictions", "p", "--dataset", "x", "--limit", "0"], "--limit is 0"),
        (["--predictions", "p", "--dataset", "x", "--config-file", "c.yaml"], "c.yaml does not"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    program = load("draw_results")
    monkeypatch.setattr(program, "setup_logger", lambda **_: None)  # it would outlive the test
    monkeypatch.chdir(tmp_path)
    assert program.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "result, figure",
    [("PANOPTIC", r"PQ \d"), ("INSTANCE", r"mask AP \d"), ("SEMANTIC", r"mIoU \d")],
)
def test_the_demo_ends_with_the_figure_of_its_task(tiny_options, capsys, result, figure):
    options = {
        **tiny_options,
        **{f"MODEL.KNET.TEST.{kind}_ON": kind == result for kind in RESULTS},
        "MODEL.KNET.TEST.SCORE_THRESHOLD": 0.0,
        "SOLVER.MAX_ITER": 20,  # the first whose losses are kept
    }
    output = Path(options.pop("OUTPUT_DIR"))
    assert load("train_shapes").main(["--output", str(output), *pairs(options)]) == 0
    *_, told, _, command = capsys.readouterr().out.strip().splitlines()
    (name,) = tiny_options["DATASETS.TEST"]
    assert re.fullmatch(rf"{figure}[\d.]* on {name}, pictures in {re.escape(str(output))}", told)
    assert len(list((output / "pictures").iterdir())) == 3
    assert (output / "results.png").is_file() and (output / "losses.png").is_file()

    (picture, *_) = sorted((output / "pictures").iterdir())  # the last line says how to try another
    words = {"PICTURE": str(picture), "FOLDER": str(output / "tried")}
    python, *arguments = [words.get(word, word) for word in shlex.split(command)]
    assert Path(python).absolute() == Path(sys.executable)
    assert arguments[:2] == ["-m", "knet"] and knet_cli.main(arguments[2:]) == 0
    assert [path.name for path in (output / "tried").glob("[!.]*")] == [picture.name]


def test_results_of_each_kind_are_drawn_by_the_program(shapes, tmp_path, capsys):
    (record,) = DatasetCatalog.get(shapes.val)[:1]
    folder = str(tmp_path / "out")
    evaluate(InstanceEvaluator(shapes.val, folder), [record], [instance_truth(record)])
    evaluator = SemanticEvaluator(shapes.val, folder)
    evaluate(evaluator, [record], [semantic_output(label_truth(record, 9), 9)])
    arguments = ["--dataset", shapes.val, "--predictions", folder, "--score-threshold", "0.5"]
    pictures = []
    for more in ([], ["--kind", "instance"], ["--kind", "semantic"]):
        output = tmp_path / f"pictures{len(pictures)}"
        assert load("draw_results").main([*arguments, *more, "--output", str(output)]) == 0
        assert capsys.readouterr().out.endswith(f"1 picture in {output}\n")
        (file,) = output.iterdir()
        pictures.append(file.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_names_can_be_left_out(shapes, tmp_path):
    (record,) = DatasetCatalog.get(shapes.val)[:1]
    folder = str(tmp_path / "out")
    evaluate(InstanceEvaluator(shapes.val, folder), [record], [instance_truth(record)])
    arguments = ["--dataset", shapes.val, "--predictions", folder]
    pictures = []
    for more in ([], ["--no-labels"]):
        output = tmp_path / f"pictures{len(pictures)}"
        assert load("draw_results").main([*arguments, *more, "--output", str(output)]) == 0
        pictures.append(next(output.iterdir()).read_bytes())
    assert pictures[0] != pictures[1]


@pytest.fixture
def draw(shapes, tmp_path, monkeypatch, capsys):
    """Draws the truth of two images as if it were predicted; returns status and sentence."""
    records = DatasetCatalog.get(shapes.val)[:2]
    folder = str(tmp_path / "out")
    evaluate(InstanceEvaluator(shapes.val, folder), records, list(map(instance_truth, records)))
    program = load("draw_results")
    monkeypatch.setattr(program, "setup_logger", lambda **_: None)  # it would outlive the test
    arguments = ["--dataset", shapes.val, "--predictions", folder, "--output", str(tmp_path / "p")]

    def run(*more):
        capsys.readouterr()
        return program.main([*arguments, *map(str, more)]), capsys.readouterr().err

    run.names = [Path(record["file_name"]).stem for record in records]
    return run


def test_chosen_images_in_their_order_on_one_sheet(draw, tmp_path):
    sheet, expected = tmp_path / "new" / "sheet.png", tmp_path / "expected.png"
    chosen = ["--images", *draw.names[::-1]]
    assert draw(*chosen, "--sheet", sheet, "--columns", 1) == (0, "")
    files = [str(next((tmp_path / "p").glob(f"{name}.*"))) for name in draw.names]
    draw_contact_sheet(files[::-1], str(expected), columns=1)
    assert sheet.read_bytes() == expected.read_bytes()


def test_the_name_of_the_file_can_be_left_out(draw, tmp_path):
    pictures = []
    for more in ([], ["--no-file-names"]):
        assert draw("--images", draw.names[0], *more) == (0, "")
        (file,) = (tmp_path / "p").iterdir()
        pictures.append(np.asarray(Image.open(file)))
    rows = np.flatnonzero((pictures[0] != pictures[1]).any(axis=(1, 2)))
    assert len(rows) > 0 and rows.max() < len(pictures[0]) // 8, "above the image"


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--images", "none"], "0 images with predictions have the name 'none'"),
        (["--images", "1"], "2 images with predictions have the name '1'"),
        (["--sheet", "s.gif"], "--sheet s.gif must end in .png or .jpg"),
        (["--columns", "0"], "--columns is 0"),
        (["--sheet", "there.png"], "--sheet there.png exists already"),
    ],
)
def test_images_and_sheets_that_cannot_be(draw, tmp_path, monkeypatch, more, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").touch()
    status, error = draw(*more)
    assert status == 1 and sentence in error and error.count("\n") == 1
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("source", ["", "metrics.json"])
@pytest.mark.parametrize("output", [None, "new/curves.png"])
def test_losses_are_drawn_of_a_folder_or_its_file(tmp_path, capsys, source, output):
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 19, "total_loss": 1.0}))
    more = ["--output", str(tmp_path / output)] if output else []
    assert load("draw_losses").main([str(tmp_path / source), *more]) == 0
    path = tmp_path / (output or "losses.png")
    assert capsys.readouterr().out == f"{path}\n" and path.is_file()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["nowhere"], "nowhere does not exist: give the OUTPUT_DIR of a training"),
        (["run"], r"metrics.json does not exist"),
        (["run/other", "--output", "a.png"], "other has no losses yet"),
        (["run/good", "--output", "a.jpg"], "a.jpg is no name of a PNG: let it end in .png"),
        (["run/good", "--output", "run/good/a.png"], "cannot write run/good/a.png"),
    ],
)
def test_losses_that_cannot_be_drawn_end_in_one_sentence(
    tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other").write_bytes(b'3\n{"iteration": 1}\n\xff\n')
    (tmp_path / "run" / "good").write_text(json.dumps({"iteration": 19, "total_loss": 1.0}))
    assert load("draw_losses").main(arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("draw_losses.py: ") and error.count("\n") == 1


def test_a_data_set_that_the_config_describes_but_does_not_use(tmp_path, monkeypatch, capsys):
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    lost = {**folder.entry(), "NAME": "lost", "INSTANCES_JSON": str(tmp_path / "none.json")}
    config = tmp_path / "mine.yaml"
    used = {"CUSTOM": [folder.write().entry(), lost], "TRAIN": ["lost"], "TEST": ["lost"]}
    config.write_text(yaml.safe_dump({"DATASETS": used}))
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    cup = {"image_id": 1, "category_id": folder.CUP, "score": 0.9}
    cup["segmentation"] = rle(np.pad(np.ones((10, 15)), ((10, 20), (5, 44))))
    (predictions / "coco_instances_results.json").write_text(json.dumps([cup]))
    program = load("draw_results")
    monkeypatch.setattr(program, "setup_logger", lambda **_: None)
    arguments = ["--predictions", str(predictions), "--output", str(tmp_path / "out")]
    arguments += ["--dataset", folder.name, "--config-file", str(config)]
    assert program.main(arguments) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == 1
