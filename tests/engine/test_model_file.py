"""A file of weights alone is a model: config and classes travel with it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

import knet
from knet.data.classes import plain_classes
from knet.engine import KNetTrainer
from knet.engine.checkpointer import KNetCheckpointer
from knet.engine.main import load_config
from knet.engine.model_file import INFO_KEY, ModelInfo, save_model
from knet.errors import UsageError
from tests.conftest import DEMO_CONFIG, REPO, pairs

IMAGE = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0))


def tiny(tiny_options, changes=None, config: str = DEMO_CONFIG) -> CfgNode:
    return load_config(config, pairs({**tiny_options, **(changes or {})}))


def built(cfg) -> torch.nn.Module:
    torch.manual_seed(0)
    return KNetTrainer.build_model(cfg).eval()


def predicted(model):
    with torch.inference_mode():
        return model([{"image": IMAGE.to(torch.uint8)}])[0]


def assert_same_results(ours, theirs):
    assert ours["panoptic_seg"][1] == theirs["panoptic_seg"][1]
    assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
    assert torch.equal(ours["instances"].pred_classes, theirs["instances"].pred_classes)
    assert torch.equal(ours["sem_seg"], theirs["sem_seg"])


# ---------------------------------------------------------------------------- what training writes


def test_a_checkpoint_alone_predicts_in_an_empty_folder(train_net, tiny_options, tmp_path):
    assert train_net(options=tiny_options).status == 0
    sent = tmp_path / "elsewhere" / "model_final.pth"
    sent.parent.mkdir()
    (tmp_path / "output" / "model_final.pth").rename(sent)
    program = (
        "import torch, knet\n"
        "model = knet.load_model('model_final.pth', device='cpu')\n"
        "result = model([{'image': torch.zeros(3, 64, 96, dtype=torch.uint8)}])[0]\n"
        "print([c.name for c in model.info.classes], result['panoptic_seg'][0].shape)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=sent.parent,
        env={
            "PYTHONPATH": str(REPO / "projects" / "KNet"),
            "PATH": "",
            "DETECTRON2_DATASETS": str(tmp_path / "nothing"),
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "'disk'" in run.stdout or "'box'" in run.stdout, run.stdout
    assert "[64, 96]" in run.stdout


def test_a_checkpoint_of_training_holds_plain_containers(train_net, tiny_options, tmp_path):
    assert train_net(options=tiny_options).status == 0
    content = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
    assert {"model", "trainer", INFO_KEY} <= content.keys()
    assert content[INFO_KEY]["classes"][0].keys() == {
        "id",
        "dataset_id",
        "name",
        "isthing",
        "color",
    }
    # paths of the sender's machine are nobody else's business
    assert "CUSTOM: []" in content[INFO_KEY]["config"]
    assert str(tmp_path) not in str(content[INFO_KEY])


def test_training_goes_on_from_a_checkpoint_as_before(train_net, tiny_options):
    assert train_net(options=tiny_options).status == 0
    assert train_net("--resume", options={**tiny_options, "SOLVER.MAX_ITER": 4}).status == 0


@pytest.mark.parametrize("ending, half", [("pth", False), ("pth", True), ("safetensors", False)])
def test_a_run_writes_a_slim_file(train_net, tiny_options, tmp_path, ending, half):
    options = {**tiny_options, "MODEL_FILE.FORMAT": ending, "MODEL_FILE.HALF": half}
    assert train_net(options=options).status == 0
    slim, full = (tmp_path / "output" / f"{n}" for n in (f"model.{ending}", "model_final.pth"))
    assert slim.stat().st_size < full.stat().st_size * (0.3 if half else 0.5)
    ours, theirs = (knet.load_model(str(path), device="cpu") for path in (slim, full))
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values()):
        if half and a.dim() > 1:
            assert torch.equal(a, b.half().float()), name
        else:
            assert torch.equal(a, b), name
    if not half:
        assert_same_results(predicted(ours), predicted(theirs))


def test_a_slim_file_of_an_unknown_kind_is_refused_before_training(train_net, tiny_options):
    sentence = train_net(options={**tiny_options, "MODEL_FILE.FORMAT": "onnx"}).sentence()
    assert "MODEL_FILE.FORMAT" in sentence and "safetensors" in sentence


def test_what_a_slim_file_lacks_is_told_before_training(train_net, tiny_options, monkeypatch):
    sentence = train_net(options={**tiny_options, "MODEL_FILE.HALF": True}).sentence()
    assert "MODEL_FILE.FORMAT" in sentence
    monkeypatch.setattr("knet.engine.checks.find_spec", lambda _: None)
    options = {**tiny_options, "MODEL_FILE.FORMAT": "safetensors"}
    assert "pip install safetensors" in train_net(options=options).sentence()


# --------------------------------------------------------------------------------- ids and names


def test_class_ids_are_the_same_where_the_data_is_not(pottery, tiny_options, tmp_path):
    """Stuff stands between the things: counted things first, ids would part."""
    pottery.write()
    cfg = tiny(tiny_options, pottery.options())
    at_home = built(cfg)
    save_model(at_home, str(tmp_path / "pottery.pth"))
    pottery.json_file.unlink()
    away = knet.load_model(str(tmp_path / "pottery.pth"), device="cpu")
    assert [(c.id, c.dataset_id, c.name, c.isthing) for c in away.info.classes] == [
        (0, 3, "cup", True),
        (1, 7, "wall", False),
        (2, 2, "plate", True),
    ]
    assert away.info.classes == at_home.info.classes
    assert_same_results(predicted(away), predicted(at_home))
    assert away.info.metadata.thing_classes == ["cup", "wall", "plate"]
    assert away.info.metadata.thing_dataset_id_to_contiguous_id == {3: 0, 2: 2}


def test_the_classes_in_a_file_decide_beside_a_config_too(pottery, tiny_options, tmp_path):
    """A colleague has the run's config.yaml, but not its data."""
    pottery.write()
    cfg = tiny(tiny_options, pottery.options())
    model = built(cfg)
    save_model(model, str(tmp_path / "pottery.pth"))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    pottery.json_file.unlink()
    config, weights = str(tmp_path / "config.yaml"), str(tmp_path / "pottery.pth")
    away = knet.load_model(config, weights, device="cpu")
    assert away.info.classes == model.info.classes
    assert_same_results(predicted(away), predicted(model))


def test_an_instance_model_of_panoptic_data_knows_its_things(pottery, tiny_options):
    pottery.write()
    changes = {**pottery.options(), "MODEL.KNET.NUM_STUFF_CLASSES": 0}
    info = built(tiny(tiny_options, changes)).info
    assert [(c.id, c.name) for c in info.classes] == [(0, "cup"), (2, "plate")]
    assert info.metadata.thing_classes == ["cup", "1", "plate"]  # lists have no gaps


def test_a_semantic_model_knows_its_classes(tiny_options, shapes, tmp_path):
    config = str(REPO / "configs" / "demo" / "knet_semantic_shapes.yaml")
    changes = {
        "MODEL.DEVICE": "cpu",
        "DATASETS.TRAIN": (shapes.train,),
        "DATASETS.TEST": (shapes.val,),
    }
    model = built(load_config(config, pairs(changes)))
    save_model(model, str(tmp_path / "model.pth"))
    away = knet.load_model(str(tmp_path / "model.pth"), device="cpu")
    assert len(away.info.classes) == 9 and away.info.classes == model.info.classes
    assert torch.equal(predicted(away)["sem_seg"], predicted(model)["sem_seg"])


def test_data_of_other_classes_than_the_config_lists_are_refused(
    pottery, train_net, tiny_options, shapes
):
    pottery.write()
    listed = [{"id": i, "name": n, "isthing": n != "wall"} for i, n in enumerate("abc")]
    options = {**tiny_options, **pottery.options(), "MODEL.KNET.CLASSES": listed}
    sentence = train_net(options=options).sentence()
    assert "'pottery'" in sentence and "MODEL.KNET.CLASSES" in sentence


# ------------------------------------------------------ the classes of a file beside those of data


def rename(pottery, *names: str) -> dict:
    """Give the categories other names; the options that register the data set anew."""
    for category, name in zip(pottery.content["categories"], names):
        category["name"] = name
    pottery.write()
    return {**pottery.options(), "DATASETS.CUSTOM": [pottery.entry(NAME="anew")]} | {
        f"DATASETS.{key}": ("anew",) for key in ("TRAIN", "TEST")
    }


@pytest.fixture
def trained_on_pottery(pottery, tiny_options, tmp_path) -> dict:
    """Options that evaluate, resume or start from a checkpoint of cup, wall and plate."""
    pottery.write()
    model = built(tiny(tiny_options, pottery.options()))
    (tmp_path / "output").mkdir()
    KNetCheckpointer(model, str(tmp_path / "output")).save("model_0000000", iteration=0)
    weights = str(tmp_path / "output" / "model_0000000.pth")
    return {**tiny_options, "MODEL.WEIGHTS": weights}


@pytest.mark.parametrize("flag", ["--eval-only", "--resume", None])
def test_classes_of_other_names_are_told(trained_on_pottery, pottery, train_net, flag):
    options = {**trained_on_pottery, **rename(pottery, "cup", "wall", "saucer")}
    outcome = train_net(*([flag] if flag else []), options=options)
    assert outcome.status == 0
    told = "calls 1 of 3 classes otherwise than the data sets: class 'plate' of the file is 'sauc"
    assert told in outcome.out


@pytest.mark.parametrize(
    "flag, remedy",
    [("--eval-only", "the config it was trained with"), ("--resume", "another OUTPUT_DIR")],
)
def test_classes_in_another_order_are_refused(trained_on_pottery, pottery, train_net, flag, remedy):
    options = {**trained_on_pottery, **rename(pottery, "plate", "wall", "cup")}
    sentence = train_net(flag, options=options).sentence()
    assert "another order" in sentence and "class 'cup' of the file is 'plate'" in sentence
    assert remedy in sentence


def test_the_same_classes_may_have_other_ids(trained_on_pottery, pottery, train_net):
    """Things first is the order of a model's rows, whatever stands between them in the data."""
    categories = pottery.content["categories"]
    categories.append(categories.pop(1))
    outcome = train_net("--eval-only", options={**trained_on_pottery, **rename(pottery)})
    assert outcome.status == 0 and "of the file is" not in outcome.out


def test_a_model_may_be_given_other_names(tiny_options, tmp_path):
    model = built(tiny(tiny_options))
    save_model(model, tmp_path / "model.pth")
    classes = plain_classes(model.info.classes)
    for each, other in zip(classes, reversed(model.info.classes)):
        each["name"] = other.name
    opts = ["MODEL.KNET.CLASSES", classes]
    renamed = knet.load_model(tmp_path / "model.pth", device=torch.device("cpu"), opts=opts)
    assert [c.name for c in renamed.info.classes] == [c.name for c in model.info.classes][::-1]
    assert_same_results(predicted(renamed), predicted(model))


@pytest.mark.parametrize(
    "listed, told",
    [
        ([{"id": 0, "name": "a"}], "isthing"),
        ([{"id": "x", "name": "a", "isthing": 1}], "'x'"),
        ([{"id": 0, "name": n, "isthing": True} for n in "ab"], "distinct"),
        (["cup"], "'cup'"),
    ],
)
def test_classes_that_are_none(tiny_options, listed, told):
    with pytest.raises(UsageError, match=rf"MODEL\.KNET\.CLASSES.*{told}"):
        built(tiny(tiny_options, {"MODEL.KNET.CLASSES": listed}))


# -------------------------------------------------------------------------------- learning again


def test_what_was_frozen_stays_frozen(tiny_options, tmp_path):
    changes = {"MODEL.BACKBONE.FREEZE_AT": 2, "MODEL.BACKBONE.NORM_EVAL": True}
    theirs = built(tiny(tiny_options, changes))
    save_model(theirs, str(tmp_path / "model.pth"))
    ours = knet.load_model(str(tmp_path / "model.pth"), device="cpu")
    flags = [{n: p.requires_grad for n, p in m.named_parameters()} for m in (ours.train(), theirs)]
    assert flags[0] == flags[1]
    assert not all(flags[0].values()) and any(flags[0].values())


def test_results_need_no_gradient_though_parameters_do(tiny_options, tmp_path):
    model = built(tiny(tiny_options))
    (result,) = model([{"image": IMAGE.to(torch.uint8)}])
    result["sem_seg"].numpy()
    result["instances"].scores.numpy()


# -------------------------------------------------------------------------------- what is refused


def spoilt(tiny_options, tmp_path, **changes) -> Path:
    model = built(tiny(tiny_options))
    path = tmp_path / "spoilt.pth"
    torch.save({"model": model.state_dict(), INFO_KEY: {**model.info.to_plain(), **changes}}, path)
    return path


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"version": 99}, "version 99.*newer"),
        ({"version": None}, "version None"),
        ({"config": "MODEL:\n  KERNELS: 3\n"}, "KERNELS.*beside the weights"),
        ({"config": "- 1\n"}, "beside the weights"),
        ({"config": "!!python/object/apply:os.system ['true']"}, "beside the weights"),
        ({"classes": 3}, "beside the weights"),
        ({"classes": [{}]}, "entry {}"),
    ],
)
def test_a_description_that_cannot_be_used(tiny_options, tmp_path, changes, told):
    with pytest.raises(UsageError, match=told):
        knet.load_model(str(spoilt(tiny_options, tmp_path, **changes)), device="cpu")


def test_a_file_without_description_names_what_is_needed(tiny_options, tmp_path):
    torch.save({"model": built(tiny(tiny_options)).state_dict()}, tmp_path / "old.pth")
    with pytest.raises(UsageError, match=r"does not tell its config.*load_model\('output/config"):
        knet.load_model(str(tmp_path / "old.pth"), device="cpu")


def test_where_a_model_file_cannot_be_written(tiny_options, tmp_path):
    model = built(tiny(tiny_options))
    with pytest.raises(UsageError, match=r"\.pth or \.safetensors"):
        save_model(model, str(tmp_path / "model.onnx"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        save_model(model, str(tmp_path / "file" / "model.pth"))
    with pytest.raises(UsageError, match=r"knet\.load_model"):
        save_model(torch.nn.Linear(1, 1), str(tmp_path / "model.pth"))
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == []


def test_a_model_keeps_the_config_that_built_it(tiny_options):
    cfg = tiny(tiny_options)
    model = built(cfg)
    cfg.INPUT.FORMAT = "RGB" if cfg.INPUT.FORMAT == "BGR" else "BGR"  # for the next one
    assert model.info.cfg.INPUT.FORMAT != cfg.INPUT.FORMAT


def test_plain_classes_and_back(pottery, tiny_options):
    pottery.write()
    cfg = tiny(tiny_options, pottery.options())
    info = ModelInfo.from_config(cfg)
    again = ModelInfo.from_plain(info.to_plain(), "file")
    assert again.classes == info.classes
    assert plain_classes(info.classes) == again.cfg.MODEL.KNET.CLASSES
    assert again.cfg.SOLVER == cfg.SOLVER and again.cfg.INPUT == cfg.INPUT
