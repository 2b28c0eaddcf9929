"""The losses on validation images: what they are the mean of; a training does not notice them."""

import json
import logging

import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm

from knet.data.dataset_mapper import KNetDatasetMapper
from knet.data.datasets.custom import register_custom_datasets
from knet.data.training_images import load_dicts
from knet.engine import KNetTrainer
from knet.engine.main import load_config
from knet.engine.processes import leave_group
from knet.engine.validation_loss import validation_losses
from tests.conftest import DEMO_CONFIG, REPO, pairs


def config(options: dict, **changes):
    cfg = load_config(DEMO_CONFIG, pairs({**options, **changes}))
    register_custom_datasets(cfg)
    return cfg


@pytest.fixture
def options(tiny_options, pottery):
    pottery.add_ordinary(3)  # of five the processes get three and two
    pottery.write()
    options = {**tiny_options, **pottery.options()}
    return {**options, "MODEL.KNET.NUM_THING_CLASSES": -1, "MODEL.BACKBONE.NORM_EVAL": False}


def model_of(cfg):
    torch.manual_seed(0)
    return KNetTrainer.build_model(cfg)


def test_it_is_the_mean_of_what_the_model_loses_on_each_image(options):
    cfg = config(options)
    model = model_of(cfg)
    found = validation_losses(cfg, model)

    # BatchNorm as in a test; without dropout all else is the same in training and test
    model.eval()
    model.training = True
    mapper = KNetDatasetMapper(cfg, is_train=False)
    mapper.is_train = True
    with torch.no_grad():
        losses = [model([mapper(d)]) for d in load_dicts(cfg.DATASETS.TEST[0])]
    assert len(losses) == 5
    for name in losses[0]:
        mean = sum(each[name].item() for each in losses) / len(losses)
        assert found[f"val_{name}"] == pytest.approx(mean, rel=1e-6), name
    total = sum(value for name, value in found.items() if name != "val_total_loss")
    assert found["val_total_loss"] == pytest.approx(total, rel=1e-6)


def test_nothing_of_the_model_and_of_the_random_numbers_changes(options):
    cfg = config(options)
    model = model_of(cfg).train()
    model.neck.eval()  # some module in another mode than the rest
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    drawn = torch.get_rng_state()
    validation_losses(cfg, model)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_and_drawn_points_give_the_same_loss_again(options):
    cfg = config(options, **{"MODEL.KNET.KERNEL_UPDATE.DROPOUT": 0.5})
    model = model_of(cfg)
    with_dropout = validation_losses(cfg, model)
    assert validation_losses(cfg, model) == with_dropout
    without = config(options)
    other = model_of(without)
    other.load_state_dict(model.state_dict())
    assert validation_losses(without, other) == with_dropout


def in_a_process(words: list, path: str) -> None:
    torch.set_num_threads(1)
    cfg = load_config(DEMO_CONFIG, words)
    register_custom_datasets(cfg)
    found = validation_losses(cfg, model_of(cfg))
    assert comm.all_gather(found) == [found] * 2
    if comm.is_main_process():
        torch.save(found, path)
    leave_group()


def test_two_processes_measure_what_one_does(options, tmp_path):
    cfg = config(options)
    path = tmp_path / "losses.pt"
    launch(in_a_process, 2, dist_url="auto", args=(pairs(options), str(path)))
    ours = validation_losses(cfg, model_of(cfg))
    theirs = torch.load(path, weights_only=True)
    assert theirs.keys() == ours.keys()
    for name, loss in ours.items():
        assert theirs[name] == pytest.approx(loss, rel=1e-6), name


def records(folder) -> list:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_a_training_learns_the_same_and_tells_more(train_net, options, tmp_path):
    options = {**options, "SOLVER.MAX_ITER": 4, "TEST.EVAL_PERIOD": 2}
    plain = {**options, "OUTPUT_DIR": str(tmp_path / "plain")}
    assert train_net(options=plain).status == 0
    watched = {**options, "OUTPUT_DIR": str(tmp_path / "watched"), "TEST.VALIDATION_LOSS": True}
    watched["TEST.PICTURES"] = 2
    outcome = train_net(options=watched)
    assert outcome.status == 0 and "Validation loss of 5 images" in outcome.out
    weights = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=False)["model"]
        for name in ("plain", "watched")
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    found = {r["iteration"]: r for r in records(tmp_path / "watched") if "val_total_loss" in r}
    assert sorted(found) == [1, 4], "as the evaluations"
    assert not any("val_" in key for r in records(tmp_path / "plain") for key in r)
    line = next(line for line in outcome.out.splitlines() if "total_loss: " in line)
    assert "val_" not in line and "max_mem: " in line
    pictures = sorted(p.name for p in (tmp_path / "watched" / "pictures").iterdir())
    name = options["DATASETS.TEST"][0]
    assert pictures == [f"iter_{i:07d}_{name}.jpg" for i in (1, 4)]
    assert not (tmp_path / "plain" / "pictures").exists()


def test_a_semantic_model(shapes, tmp_path, caplog):
    changes = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "OUTPUT_DIR": str(tmp_path),
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.MAX_SIZE_TEST": 96,
        "DATASETS.TRAIN": (shapes.train,),
        "DATASETS.TEST": (shapes.val,),
    }
    config_file = str(REPO / "configs" / "demo" / "knet_semantic_shapes.yaml")
    cfg = load_config(config_file, pairs(changes))
    model = model_of(cfg)
    with caplog.at_level(logging.INFO):
        found = validation_losses(cfg, model)
    assert found["val_total_loss"] > 0 and len(found) > 2
    assert validation_losses(cfg, model) == found
