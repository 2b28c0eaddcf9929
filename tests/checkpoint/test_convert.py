"""The program that converts files of weights, official ones to ours and back."""

import pytest
import torch

from knet import save_model
from knet.checkpoint import to_official
from knet.commands import convert_checkpoint
from knet.engine.checkpointer import KNetCheckpointer
from tests.conftest import REPO

from . import key_lists, models
from .models import FCN, PANOPTIC, PANOPTIC_SWIN

CONFIG = str(REPO / "configs" / PANOPTIC)


@pytest.fixture
def convert(capsys):
    """Runs the program; returns its exit status and what it prints."""

    def run(*words):
        status = convert_checkpoint.main([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out if status == 0 else printed.err

    return run


@pytest.mark.parametrize("config", [PANOPTIC, PANOPTIC_SWIN, FCN])
def test_there_and_back(config, convert, tmp_path):
    official, ours = tmp_path / "official.pth", tmp_path / "new" / "ours.pth"
    model = models.build(config)
    models.save_official(official, model.state_dict())
    status, out = convert(official, ours)
    assert status == 0 and "is an official model" in out and str(ours) in out
    other = models.build(config, seed=1)
    checkpointer = KNetCheckpointer(other)
    checkpointer.complete = True
    checkpointer.load(str(ours))
    models.assert_same(other, model)

    status, out = convert(ours, tmp_path / "back.pth", "--to", "official")
    assert status == 0 and "is a model of this project" in out
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back["meta"] == {}
    expected = to_official(model.state_dict())[0]
    for name, tensor in expected.items():
        assert torch.equal(back["state_dict"][name], tensor), name
    counters = {n.replace("running_mean", "num_batches_tracked") for n in expected if "mean" in n}
    assert set(back["state_dict"]) == set(expected) | counters, "a strict loader wants them all"


@pytest.mark.parametrize("name", key_lists.NAMES[:2] + key_lists.NAMES[8:11])
def test_published_models_keep_every_tensor(name, convert, tmp_path):
    file = key_lists.official(name, values=True)
    models.save(tmp_path / "official.pth", file)
    status, out = convert(tmp_path / "official.pth", tmp_path / "ours.pth")
    assert status == 0 and f"{len(file)} tensors" in out and "as configs/" in out
    status, _ = convert(tmp_path / "ours.pth", tmp_path / "back.pth", "--to", "official")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert status == 0 and set(back) == set(file)
    assert all(torch.equal(back[key], tensor) for key, tensor in file.items())


@pytest.mark.parametrize("with_config", [False, True])
def test_what_is_no_part_of_the_network_stays_behind(with_config, convert, tmp_path):
    model = models.build(PANOPTIC)
    official, _ = to_official(model.state_dict())
    models.save(tmp_path / "official.pth", {**official, "ema_x": torch.ones(1)})
    words = ["--config-file", CONFIG, "--opts", *models.options(PANOPTIC)] if with_config else []
    status, out = convert(tmp_path / "official.pth", tmp_path / "ours.pth", *words)
    assert status == 0 and "1 tensors of none of its modules (ema_x" in out
    converted = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    assert set(converted) == set(model.state_dict())


def test_a_file_is_not_overwritten_unasked(convert, tmp_path):
    official, target = tmp_path / "official.pth", tmp_path / "ours.pth"
    models.save_official(official, models.build(PANOPTIC).state_dict())
    target.write_text("precious")
    status, err = convert(official, target)
    assert status == 1 and "exists already" in err and target.read_text() == "precious"
    status, _ = convert(official, target, "--force")
    assert status == 0 and "model" in torch.load(target, weights_only=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["official.pth", "ours.pth"]


def test_with_a_config_the_weights_must_fit_its_model(convert, tmp_path):
    official = tmp_path / "official.pth"
    models.save_official(official, models.build(PANOPTIC).state_dict())
    words = ["--config-file", CONFIG, "--opts", *models.options(PANOPTIC)]
    status, _ = convert(official, tmp_path / "ours.pth", *words)
    assert status == 0
    for key, value, told in (
        ("MODEL.KNET.NUM_STAGES", 2, "stages 3 and not 2"),
        ("MODEL.KNET.NUM_THING_CLASSES", 4, "5 classes, but this model has 6"),
    ):
        status, err = convert(official, tmp_path / "other.pth", *words, key, value)
        assert status == 1 and told in err
        back = ["--to", "official", *words, key, value]
        status, err = convert(tmp_path / "ours.pth", tmp_path / "other.pth", *back)
        assert status == 1 and told in err
    assert not (tmp_path / "other.pth").exists()


def test_a_backbone_gets_the_names_of_a_models(convert, tmp_path):
    model = models.build(PANOPTIC)
    state, _ = to_official(model.state_dict())
    file = {k[len("backbone.") :]: v for k, v in state.items() if k.startswith("backbone.")}
    torch.save({**file, "fc.weight": torch.ones(2, 2)}, tmp_path / "resnet.pth")
    status, err = convert(tmp_path / "resnet.pth", tmp_path / "ours.pth")
    assert status == 1 and "add --config-file" in err
    words = ["--config-file", CONFIG, "--opts", *models.options(PANOPTIC)]
    status, out = convert(tmp_path / "resnet.pth", tmp_path / "ours.pth", *words)
    assert status == 0 and "torchvision" in out
    converted = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    assert set(converted) == {n for n in model.state_dict() if ".bottom_up." in n}


@pytest.mark.parametrize(
    "content, words, told",
    [
        (b"not weights", [], "cannot read"),
        ({"model": {"layer.weight": torch.ones(1)}}, [], "no official K-Net"),
        ({"model": {"layer.weight": torch.ones(1)}}, ["--to", "official"], "no K-Net of this"),
        ({"meta": {}}, [], "no state dict"),
        ({"state_dict": {"layer.weight": None}}, [], "cannot read"),
    ],
)
def test_files_that_cannot_be_converted(content, words, told, convert, tmp_path):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    status, err = convert(path, tmp_path / "ours.pth", *words)
    assert status == 1 and told in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "ours.pth").exists()


def test_a_file_that_does_not_exist(convert, tmp_path):
    status, err = convert(tmp_path / "absent.pth", tmp_path / "ours.pth")
    assert status == 1 and "absent.pth" in err


def test_a_model_beyond_the_published_has_no_official_names(convert, tmp_path):
    state = models.build(PANOPTIC).state_dict()
    torch.save({"model": {**state, "neck.extra.weight": torch.ones(1)}}, tmp_path / "ours.pth")
    status, err = convert(tmp_path / "ours.pth", tmp_path / "official.pth", "--to", "official")
    assert status == 1 and "1 tensors without a counterpart, neck.extra.weight first" in err


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("described", [True, False])
def test_stages_that_refine_have_no_official_form(residual, described, convert, tmp_path):
    """Their weights look alike; the file tells, or the config."""
    key = "MODEL.KNET.KERNEL_UPDATE.RESIDUAL"
    model = models.build(PANOPTIC, **{key.replace(".", "__"): residual})
    words = ["--to", "official"]
    if described:
        save_model(model, tmp_path / "ours.pth")
    else:
        torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
        words += ["--config-file", CONFIG, "--opts", *models.options(PANOPTIC), key, str(residual)]
    status, told = convert(tmp_path / "ours.pth", tmp_path / "official.pth", *words)
    assert status == int(residual)
    assert ("KERNEL_UPDATE.RESIDUAL True" in told) is residual
    assert (tmp_path / "official.pth").exists() is not residual
