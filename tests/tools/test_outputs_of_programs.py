"""No program writes over what it reads, nor a run over another's."""

import importlib
import os

import pytest
import torch
import yaml

from knet.checkpoint.convert import convert_file
from knet.errors import UsageError
from tests.checkpoint import models
from tests.checkpoint.models import PANOPTIC
from tests.conftest import DEMO_CONFIG
from tests.evaluation.conftest import register


def program(name):
    return importlib.import_module(f"knet.commands.{name}")


def test_configs_of_one_folder_are_not_compared(tmp_path, capsys):
    files = []
    for name, folder in (("a", "out"), ("b", "x/../out")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump({"_BASE_": DEMO_CONFIG, "OUTPUT_DIR": str(tmp_path / folder)})
        )
        files.append(str(path))
    assert program("compare").main(files) == 1
    assert f"{files[0]} and {files[1]} have one OUTPUT_DIR" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["official.pth", "x/../official.pth", "link.pth"])
def test_weights_are_not_converted_over_themselves(tmp_path, target):
    path = models.save_official(tmp_path / "official.pth", models.build(PANOPTIC).state_dict())
    (tmp_path / "x").mkdir()
    (tmp_path / "link.pth").symlink_to(path)
    with pytest.raises(UsageError, match="is the file that is converted"):
        convert_file(str(path), str(tmp_path / target), "knet", force=True)
    assert "state_dict" in torch.load(path, weights_only=False)


def test_backbone_weights_are_not_converted_over_themselves(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    os.link(path, tmp_path / "same.pth")
    before = path.read_bytes()
    words = ["--weights", str(path), "--name", "resnet18", "--output", str(tmp_path / "same.pth")]
    assert program("convert_backbone_weights").main(words) == 1
    assert "choose another --output" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_the_learning_check_keeps_the_json_that_it_takes_images_from(pottery, tmp_path):
    pottery.json_file = tmp_path / "panoptic.json"
    name = register(pottery)
    before = (tmp_path / "panoptic.json").read_bytes()
    with pytest.raises(UsageError, match="choose another OUTPUT_DIR"):
        program("check_overfit").register_few(name, 1, str(tmp_path))
    assert (tmp_path / "panoptic.json").read_bytes() == before


@pytest.mark.parametrize("read", ["inference/x/predictions", "inference/x/predictions.json", "."])
def test_a_training_does_not_clear_away_what_it_learns_from(tmp_path, read):
    start_clean = program("train_shapes").start_clean
    start_clean(str(tmp_path))
    (tmp_path / "inference" / "x" / "predictions").mkdir(parents=True)
    (tmp_path / "inference" / "x" / "predictions.json").touch()
    if read == ".":  # what lies around it is no matter
        start_clean(str(tmp_path), [str(tmp_path / read)])
        assert not (tmp_path / "inference").exists()
        return
    with pytest.raises(UsageError, match="which it would remove: give another --output"):
        start_clean(str(tmp_path), [str(tmp_path / read)])
    assert (tmp_path / read).exists()


def test_links_are_removed_and_not_followed(tmp_path):
    start_clean = program("train_shapes").start_clean
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "image.png").touch()
    start_clean(str(tmp_path / "run"))
    (tmp_path / "run" / "pictures").symlink_to(tmp_path / "data")
    start_clean(str(tmp_path / "run"))
    assert (tmp_path / "data" / "image.png").exists()
    assert not (tmp_path / "run" / "pictures").exists()
