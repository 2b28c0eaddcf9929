"""What a training may start from: a whole model or a whole backbone; anything else on demand."""

import logging
import re

import pytest
import torch

from knet.engine.checkpointer import KNetCheckpointer
from knet.errors import UsageError
from tests.checkpoint import models
from tests.checkpoint.models import FCN, PANOPTIC, PANOPTIC_SWIN

KEY = "MODEL.KNET.WEIGHTS_PARTLY True"


def start_from(state: dict, model, tmp_path, *, partly: bool = False):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    checkpointer = KNetCheckpointer(model)
    checkpointer.partly = partly
    checkpointer.load(str(path))


def refused(state: dict, model, tmp_path) -> str:
    with pytest.raises(UsageError) as error:
        start_from(state, model, tmp_path)
    return str(error.value)


def bare_backbone(state: dict) -> dict:
    prefix = "backbone.bottom_up."
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def panoptic():
    return models.build(PANOPTIC)


@pytest.fixture(scope="module")
def deeper():
    return models.build(PANOPTIC, MODEL__RESNETS__DEPTH=101)


@pytest.fixture
def state(panoptic):
    return dict(panoptic.state_dict())


def test_a_shallower_backbone_leaves_blocks_to_chance(state, deeper, tmp_path):
    told = refused(bare_backbone(state), deeper, tmp_path)
    assert re.search(r"backbone: 159 of 312 tensors, \S+res4\.6\.\S+ is not in the file", told)
    assert KEY in told


def test_a_deeper_backbone_has_blocks_left_over(panoptic, deeper, tmp_path):
    told = refused(bare_backbone(deeper.state_dict()), panoptic, tmp_path)
    assert "backbone: the file has further layers, as res4.6." in told and KEY in told


def test_a_few_tensors_that_happen_to_fit(state, panoptic, tmp_path):
    """As of a MobileNet: the names of some norms, and shapes, are those of a ResNet."""
    names = [n for n in state if n.startswith("backbone.bottom_up.res2.0.conv1.norm.")]
    told = refused({n: state[n] for n in names}, panoptic, tmp_path)
    assert "backbone: 2 of 159 tensors" in told and KEY in told


def test_a_backbone_alone_or_with_its_pyramid(state, panoptic, tmp_path):
    classifier = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
    start_from({**bare_backbone(state), **classifier}, panoptic, tmp_path)
    start_from({n: t for n, t in state.items() if n.startswith("backbone.")}, panoptic, tmp_path)


def test_a_model_of_another_kind_gives_its_backbone_and_pyramid(state, panoptic, tmp_path):
    """As Detectron2's Mask R-CNN."""
    other = {n: t for n, t in state.items() if n.startswith("backbone.")}
    other["roi_heads.box_predictor.cls_score.weight"] = torch.ones(2, 3)
    start_from({"model": other}, panoptic, tmp_path)


def test_a_backbone_that_goes_further_than_the_model_needs(state, tmp_path):
    levels, maps = ["res2", "res3", "res4"], ["p2", "p3", "p4"]
    options = {"RESNETS__OUT_FEATURES": levels, "FPN__IN_FEATURES": levels}
    options = {f"MODEL__{key}": value for key, value in options.items()}
    shorter = models.build(PANOPTIC, MODEL__KNET__NECK__IN_FEATURES=maps, **options)
    start_from(bare_backbone(state), shorter, tmp_path)


def test_a_pyramid_of_fewer_levels(state, panoptic, tmp_path):
    lacking = {n: t for n, t in state.items() if "fpn_lateral2" not in n}
    lacking = {n: t for n, t in lacking.items() if n.startswith("backbone.")}
    told = refused(lacking, panoptic, tmp_path)
    assert "feature pyramid: 14 of 16 tensors, backbone.fpn_lateral2.weight is not in" in told


@pytest.mark.parametrize("stages", [2, 4])
def test_another_number_of_stages(stages, state, tmp_path):
    told = refused(state, models.build(PANOPTIC, MODEL__KNET__NUM_STAGES=stages), tmp_path)
    assert "update stages: " in told and KEY in told


def test_other_channels(state, tmp_path):
    model = models.build(PANOPTIC, MODEL__KNET__CHANNELS=32)
    told = refused(state, model, tmp_path)
    assert all(part in told for part in ("neck: ", "kernel head: ", "update stages: "))
    assert "has another shape" in told and "backbone: " not in told


def test_kernels_that_start_otherwise(state, tmp_path):
    model = models.build(PANOPTIC, MODEL__KNET__KERNEL_HEAD__NAME="PointKernelHead")
    told = refused(state, model, tmp_path)
    assert re.search(r"kernel head: \d+ of \d+ tensors, kernel_head\.point\w+\.\S+ is not in", told)


def test_a_semantic_model_for_a_panoptic_one(tmp_path, panoptic):
    """Theirs has a stem of three convolutions: the backbone is another."""
    told = refused(dict(models.build(FCN).state_dict()), panoptic, tmp_path)
    assert "is another backbone, in which backbone.bottom_up.stem.conv1.weight has not" in told


def test_what_pretrained_backbones_lack_is_learned(tmp_path):
    swin = models.build(PANOPTIC_SWIN)
    file = bare_backbone(swin.state_dict())
    start_from({n: t for n, t in file.items() if not n.startswith("norm")}, swin, tmp_path)
    deformable = models.build(
        PANOPTIC, MODEL__RESNETS__DEFORM_ON_PER_STAGE=[False, True, True, True]
    )
    file = bare_backbone(deformable.state_dict())
    assert any("conv2_offset" in n for n in file)
    start_from({n: t for n, t in file.items() if "offset" not in n}, deformable, tmp_path)


def test_another_backbone_of_the_same_names(state, tmp_path):
    told = refused(bare_backbone(state), models.build(PANOPTIC_SWIN), tmp_path)
    assert "holds no weight that this model has" in told


def test_a_table_tells_what_is_taken(state, tmp_path, caplog):
    ours = models.build(PANOPTIC, seed=1, MODEL__KNET__NUM_STAGES=4)
    with caplog.at_level(logging.WARNING):
        start_from(state, ours, tmp_path, partly=True)
    told = "\n".join(r.getMessage() for r in caplog.records)
    assert "WEIGHTS_PARTLY" in told
    assert re.search(r"^update stages +132 +44$", told, re.MULTILINE)
    name = "kernel_update_heads.2.class_proj.weight"
    assert torch.equal(ours.state_dict()[name], state[name])


def test_official_weights_are_taken_in_part_on_demand(panoptic, tmp_path):
    path = models.save_official(tmp_path / "official.pth", panoptic.state_dict())
    ours = models.build(PANOPTIC, seed=1, MODEL__KNET__NUM_STAGES=4)
    checkpointer = KNetCheckpointer(ours)
    with pytest.raises(UsageError, match="stages"):
        checkpointer.load(path)
    checkpointer.partly = True
    checkpointer.load(path)
    name = "kernel_update_heads.2.class_proj.weight"
    assert torch.equal(ours.state_dict()[name], panoptic.state_dict()[name])
