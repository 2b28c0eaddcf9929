"""What the trainer tells of training that cannot come to anything."""

import logging

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.projects import point_rend  # registers its head

from knet.engine import KNetTrainer
from knet.engine.main import load_config
from knet.errors import DatasetError, UsageError
from tests.checkpoint.models import FCN, options
from tests.conftest import REPO, pairs

REMEDY = "set MODEL.BACKBONE.FREEZE_AT 0 MODEL.BACKBONE.NORM_EVAL False"


@pytest.fixture
def config(tiny_config):
    """One iteration, without an evaluation."""
    tiny_config.merge_from_list(pairs({"SOLVER.MAX_ITER": 1, "DATASETS.TEST": ()}))
    tiny_config.MODEL.KNET.NUM_THING_CLASSES, tiny_config.MODEL.KNET.NUM_STUFF_CLASSES = 5, 4
    return tiny_config


def warned(cfg, caplog, resume=False) -> str:
    """What is told of frozen layers when a training starts."""
    caplog.clear()
    trainer = KNetTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    return "".join(message for message in told if "from nothing" in message)


def test_random_layers_that_never_learn(config, caplog):
    backbone = config.MODEL.BACKBONE
    backbone.FREEZE_AT, backbone.NORM_EVAL, config.MODEL.RESNETS.NORM = 2, True, "BN"
    told = warned(config, caplog)
    assert "(MODEL.BACKBONE.FREEZE_AT 2, MODEL.BACKBONE.NORM_EVAL True)" in told and REMEDY in told
    assert not warned(config, caplog, resume=True), "its weights are in OUTPUT_DIR"
    backbone.FREEZE_AT = 0
    told = warned(config, caplog)
    assert "(MODEL.BACKBONE.NORM_EVAL True)" in told and REMEDY in told
    backbone.NORM_EVAL = False
    assert not warned(config, caplog)


def test_a_timm_backbone_without_weights_in_a_model_of_detectron2(caplog, tiny_config):
    pytest.importorskip("timm")
    config = load_config(str(REPO / "configs" / "compare" / "nuclei_mask_rcnn.yaml"))
    config.MODEL.WEIGHTS, config.MODEL.DEVICE = "", "cpu"
    config.OUTPUT_DIR = tiny_config.OUTPUT_DIR
    config.DATASETS.TRAIN, config.DATASETS.TEST = tiny_config.DATASETS.TRAIN, ()
    config.MODEL.ROI_HEADS.NUM_CLASSES, config.SOLVER.MAX_ITER = 9, 1
    told = warned(config, caplog)
    assert "(MODEL.BACKBONE.NORM_EVAL True)" in told and REMEDY in told


def test_no_batch_norm_no_frozen_statistics(config, caplog):
    config.MODEL.BACKBONE.FREEZE_AT, config.MODEL.BACKBONE.NORM_EVAL = 0, True
    config.MODEL.RESNETS.NORM = "LN"
    assert not warned(config, caplog)


def test_a_loss_that_is_no_number(config, monkeypatch):
    trainer = KNetTrainer(config)
    forward = type(trainer.model).forward

    def spoiled(self, inputs):
        return {name: loss * torch.nan for name, loss in forward(self, inputs).items()}

    monkeypatch.setattr(type(trainer.model), "forward", spoiled)
    with pytest.raises(
        UsageError, match=r"NaN or infinite at iteration 0 \(.*lower SOLVER\.BASE_LR"
    ):
        trainer.train()


def test_a_head_whose_keys_the_config_lacks():
    words = options(FCN, MODEL__KNET__SEMANTIC__BASE_HEAD="PointRendSemSegHead")
    assert point_rend.PointRendSemSegHead
    with pytest.raises(UsageError, match=r"no model can be built from MODEL\.\*.*POINT_HEAD"):
        KNetTrainer.build_model(load_config(str(REPO / "configs" / FCN), words))


def test_a_norm_that_is_not_known():
    words = options(FCN, MODEL__SEM_SEG_HEAD__NORM="BatchNorm")
    with pytest.raises(UsageError) as error:
        KNetTrainer.build_model(load_config(str(REPO / "configs" / FCN), words))
    assert str(error.value) == (
        "no model can be built from MODEL.*: no norm has the name of MODEL.SEM_SEG_HEAD.NORM, "
        "'BatchNorm'"
    )


def test_an_error_in_the_data_keeps_its_sentence(config, monkeypatch):
    def spoiled(cfg):
        raise DatasetError("labels.png is no label map")

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "KNet", spoiled)
    with pytest.raises(DatasetError, match=r"^labels\.png is no label map$"):
        KNetTrainer.build_model(config)
