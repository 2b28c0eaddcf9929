"""Keys that change what weights compute, and that no tensor tells: a model's file tells them."""

import logging
import re

import pytest
import torch
import yaml

import knet
from knet.checkpoint.safe_load import INFO_KEY
from knet.engine.checkpointer import KNetCheckpointer
from knet.engine.model_file import save_model
from knet.errors import UsageError
from tests.checkpoint import models
from tests.checkpoint.models import FCN, PANOPTIC

ASPP = "ade20k/knet_deeplabv3_r50.yaml"

STUFF_SCORES = "MODEL.KNET.KERNEL_HEAD.STUFF_SCORES"
POINTS = {"MODEL__KNET__KERNEL_HEAD__NAME": "PointKernelHead"}
TIMM = {
    "MODEL__BACKBONE__NAME": "build_timm_fpn_backbone",
    "MODEL__TIMM__NAME": "mobilenetv3_small_075",
    "MODEL__BACKBONE__FREEZE_AT": 0,
}
RESNET_18 = {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64}
STRIDE_16 = {"MODEL__RESNETS__RES4_DILATION": 1}
V3_PLUS = {
    "MODEL__KNET__SEMANTIC__BASE_HEAD": "DeepLabV3PlusHead",
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res5"],
    "MODEL__SEM_SEG_HEAD__PROJECT_CHANNELS": [8],
    "MODEL__SEM_SEG_HEAD__ASPP_CHANNELS": 16,
    "MODEL__SEM_SEG_HEAD__LOSS_TYPE": "cross_entropy",
}
DEEPLAB = {"MODEL__BACKBONE__NAME": "build_resnet_deeplab_backbone"}
# the key, the file's value and the model's, the config, what else both have
SILENT = [
    (STUFF_SCORES, True, False, PANOPTIC, POINTS),
    ("MODEL.KNET.NUM_GROUPS", 4, 2, PANOPTIC, {}),
    ("MODEL.KNET.KERNEL_UPDATE.NUM_HEADS", 4, 2, PANOPTIC, {}),
    ("MODEL.KNET.KERNEL_UPDATE.NUM_HEADS", 4, 2, FCN, {}),
    ("MODEL.RESNETS.STRIDE_IN_1X1", False, True, PANOPTIC, {}),
    ("MODEL.RESNETS.RES5_DILATION", 2, 1, FCN, STRIDE_16),
    ("MODEL.RESNETS.RES5_MULTI_GRID", [1, 2, 4], [1, 1, 1], FCN, DEEPLAB),
    ("MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [6, 12, 18], [12, 24, 36], ASPP, {}),
    ("MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [6, 12, 18], [12, 24, 36], FCN, V3_PLUS),
    ("MODEL.FPN.FUSE_TYPE", "sum", "avg", PANOPTIC, {}),
    ("MODEL.TIMM.NAME", "mobilenetv3_small_075", "tf_mobilenetv3_small_075", PANOPTIC, TIMM),
]


def build(key: str, value, config: str = PANOPTIC, seed: int = 0, **changes):
    return models.build(config, seed, **{**changes, key.replace(".", "__"): value})


def saved(tmp_path, model):
    save_model(model, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def load(model, path, *, complete: bool):
    checkpointer = KNetCheckpointer(model)
    checkpointer.complete = complete
    return checkpointer.load(str(path))


@pytest.fixture
def warned(caplog):
    """Gives the warnings that speak of a key."""
    caplog.set_level(logging.INFO)

    def warnings(key: str = "trained with") -> list:
        found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        return [message for message in found if key in message]

    return warnings


@pytest.mark.parametrize(
    "key, theirs, ours, config, both",
    SILENT,
    ids=[f"{key}-{config}" for key, _, _, config, _ in SILENT],
)
def test_a_file_of_another_value_is_refused(key, theirs, ours, config, both, tmp_path, warned):
    file, model = build(key, theirs, config, **both), build(key, ours, config, 1, **both)
    path = saved(tmp_path, file)
    told = re.escape(str(theirs)), re.escape(str(ours))
    with pytest.raises(UsageError, match=rf"with {key} {told[0]}, .* has {told[1]}: set {key} to "):
        load(model, path, complete=True)
    assert not warned()
    load(model, path, complete=False)
    (message,) = warned(key)
    assert message.endswith("must be learned anew")
    load(build(key, theirs, config, 1, **both), path, complete=True)
    assert len(warned()) == 1


def test_a_run_of_another_value_is_not_resumed(tmp_path):
    KNetCheckpointer(build(STUFF_SCORES, True, **POINTS), str(tmp_path)).save("model_0000009")
    checkpointer = KNetCheckpointer(build(STUFF_SCORES, False, **POINTS), str(tmp_path))
    with pytest.raises(UsageError, match=f"set {STUFF_SCORES} to True, or choose another OUTPUT"):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize(
    "key, theirs, ours, written",
    [
        ("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0], [103.5, 116.2, 123.6], r"\[1.0, 2.0, 3.0\]"),
        ("INPUT.FORMAT", "RGB", "BGR", "RGB"),
        ("MODEL.KNET.MASK_THRESHOLD", 0.4, 0.5, "0.4"),
        ("MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH", True, False, "True"),
    ],
)
def test_what_may_be_meant_is_warned_of(key, theirs, ours, written, tmp_path, warned):
    path = saved(tmp_path, build(key, theirs))
    load(build(key, ours), path, complete=True)
    (message,) = warned()
    assert f"{key} {written}".replace("\\", "") in message and "unless that is meant" in message


@pytest.mark.parametrize(
    "key, theirs, ours, both",
    [
        (STUFF_SCORES, True, False, {}),  # its head knows no points
        (STUFF_SCORES, True, False, {**POINTS, "MODEL__KNET__NUM_STUFF_CLASSES": 0}),
        ("MODEL.KNET.KERNEL_UPDATE.NUM_HEADS", 4, 2, {"MODEL__KNET__NUM_STAGES": 0}),
        ("MODEL.RESNETS.STRIDE_IN_1X1", False, True, RESNET_18),
        ("MODEL.RESNETS.RES4_DILATION", 2, 1, {}),
        ("MODEL.TIMM.NAME", "mobilenetv2_100", "resnet50", {}),
        ("MODEL.TIMM.NAME", "mobilenetv3_small_075", "mobilenetv3_small_075.lamb_in1k", TIMM),
    ],
    ids=[
        "no points",
        "no stuff",
        "no stages",
        "no bottlenecks",
        "no DeepLab",
        "no timm",
        "tag of weights",
    ],
)
def test_what_has_no_effect_is_not_told(key, theirs, ours, both, tmp_path, warned):
    path = saved(tmp_path, build(key, theirs, **both))
    load(build(key, ours, **both), path, complete=True)
    assert not warned()


def test_a_key_counts_by_the_builders_of_both(tmp_path):
    """DeepLab's looks at RES5_MULTI_GRID; the deep stem's does not, which is a grid of ones."""
    key, grid = "MODEL.RESNETS.RES5_MULTI_GRID", [1, 2, 4]
    both = {**STRIDE_16, "MODEL__RESNETS__RES5_DILATION": 1}
    path = saved(tmp_path, build(key, grid, FCN, **both))
    load(build(key, [1, 1, 1], FCN, **DEEPLAB, **both), path, complete=True)
    with pytest.raises(UsageError, match=re.escape(f"set {key} to [1, 1, 1]")):
        load(build(key, grid, FCN, **DEEPLAB, **both), path, complete=True)
    path = saved(tmp_path, build(key, grid, FCN, **DEEPLAB, **both))
    with pytest.raises(UsageError, match=r"BACKBONE\.NAME to build_resnet_deeplab_backbone"):
        load(build(key, grid, FCN, **both), path, complete=True)


def test_files_that_do_not_tell_are_taken_as_before(tmp_path, warned):
    """From before there was the key, or of weights alone."""
    model = build(STUFF_SCORES, False, **POINTS)
    info = model.info.to_plain()
    content = yaml.safe_load(info["config"])
    del content["MODEL"]["KNET"]["KERNEL_HEAD"]["STUFF_SCORES"]
    older = {"model": model.state_dict(), INFO_KEY: {**info, "config": yaml.safe_dump(content)}}
    for file, ours in ((older, False), ({"model": model.state_dict()}, True)):
        torch.save(file, tmp_path / "file.pth")
        load(build(STUFF_SCORES, ours, **POINTS), tmp_path / "file.pth", complete=True)
    assert not warned()


def test_load_model_refuses_options_of_another_model(tmp_path):
    path = saved(tmp_path, build(STUFF_SCORES, True, **POINTS))
    assert knet.load_model(path, device="cpu").kernel_head.stuff_scores
    with pytest.raises(UsageError, match=f"set {STUFF_SCORES} to True"):
        knet.load_model(path, device="cpu", opts=[STUFF_SCORES, False])


def test_a_neck_of_another_stride_is_not_evaluated(tmp_path):
    """A coarser one has all of its tensors in the file of a finer one."""
    path = saved(tmp_path, build("MODEL.KNET.NECK.STRIDE", 4))
    with pytest.raises(UsageError, match=r"set MODEL\.KNET\.NECK\.STRIDE to 4$"):
        load(build("MODEL.KNET.NECK.STRIDE", 8), path, complete=True)


def test_a_file_without_an_iou_branch(tmp_path):
    """The branch has tensors, of which a file of before has none: the sentence names the key."""
    key = "MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH"
    path = saved(tmp_path, build(key, False))
    for complete, more in ((True, "$"), (False, ", or MODEL.KNET.WEIGHTS_PARTLY to True")):
        with pytest.raises(UsageError, match=f"without IoU branch: set {key} to False{more}"):
            load(build(key, True), path, complete=complete)


def test_a_run_with_an_iou_branch_goes_on_with_it(tmp_path):
    """Its optimizer knows the branch, of which the model would only make a warning."""
    key = "MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH"
    KNetCheckpointer(build(key, True), str(tmp_path)).save("model_0000009")
    checkpointer = KNetCheckpointer(build(key, False), str(tmp_path))
    with pytest.raises(UsageError, match=f"set {key} to True, or choose another OUTPUT"):
        checkpointer.resume_or_load("", resume=True)
