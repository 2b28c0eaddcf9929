"""Loading weights: of whatever origin, which may be left out, and what is told."""

import logging
import os
import pickle
import re

import numpy as np
import pytest
import torch

from knet.checkpoint import to_official
from knet.data.class_layout import ClassLayout
from knet.engine.checkpointer import KNetCheckpointer
from knet.errors import UsageError
from knet.modeling import PointKernelHead
from tests.checkpoint import key_lists, models
from tests.checkpoint.models import FCN, PANOPTIC, PANOPTIC_SWIN, UPERNET_SWIN
from tests.tiny_model import SIZE, THINGS_ONLY, tiny_model, training_input

CLASS_DEPENDENT = {
    "kernel_head.semantic_kernels.weight",
    "kernel_head.semantic_kernels.bias",
    *(
        f"kernel_update_heads.{i}.class_proj.{part}"
        for i in range(3)
        for part in ("weight", "bias")
    ),
}


def saved(tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save({"model": state}, path)
    return str(path)


def load(model, path, *, complete=False, skip_classes=False, partly=False):
    checkpointer = KNetCheckpointer(model)
    checkpointer.complete, checkpointer.skip_classes = complete, skip_classes
    checkpointer.partly = partly
    return checkpointer.resume_or_load(path, resume=False)


@pytest.fixture
def log(caplog):
    """What is logged, from warnings on in one list."""
    caplog.set_level(logging.INFO)
    return caplog


def warnings(log) -> str:
    return "\n".join(r.getMessage() for r in log.records if r.levelno >= logging.WARNING)


@pytest.mark.parametrize("theirs, ours", [(PANOPTIC, FCN), (FCN, PANOPTIC)], ids=["1", "2"])
def test_weights_of_another_task_are_called_so(theirs, ours, tmp_path):
    path = saved(tmp_path, models.build(theirs).state_dict())
    tasks = {PANOPTIC: "panoptic or instance segmentation", FCN: "semantic segmentation"}
    wanted = f"it is for {tasks[theirs]}, the config's is for {tasks[ours]}; set MODEL.WEIGHTS, "
    with pytest.raises(UsageError, match=wanted):
        load(models.build(ours), path, complete=True)


@pytest.mark.parametrize("name", ["nowhere.pth", ""])
def test_weights_that_are_no_file(name, tmp_path):
    reason = (
        r"nowhere\.pth not found; set MODEL" if name else "it is a folder; set MODEL.WEIGHTS to"
    )
    with pytest.raises(UsageError, match=reason):
        load(tiny_model(), os.path.join(tmp_path, name))


def test_starting_from_part_of_the_weights_is_allowed_on_demand(tmp_path, log):
    model = tiny_model()
    state = model.state_dict()
    left_out = next(iter(state))
    path = saved(tmp_path, {k: v for k, v in state.items() if k != left_out})
    with pytest.raises(
        UsageError, match=rf"backbone: 7 of 8 tensors, {left_out} is not in.*PARTLY"
    ):
        load(model, path)
    load(model, path, partly=True)
    assert re.search(r"^backbone +7 +1$", warnings(log), re.MULTILINE)
    assert re.search(r"^neck +27 +0$", warnings(log), re.MULTILINE)


def test_complete_weights_are_demanded_for_evaluation(tmp_path):
    model = tiny_model()
    state = model.state_dict()
    left_out = next(iter(state))
    path = saved(tmp_path, {k: v for k, v in state.items() if k != left_out})
    with pytest.raises(UsageError) as error:
        load(model, path, complete=True)
    assert left_out in str(error.value) and path in str(error.value)
    assert "MODEL.WEIGHTS" in str(error.value)


def test_a_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_text("not weights")
    remedy = r"'' to start from nothing .*FREEZE_AT 0 MODEL\.BACKBONE\.NORM_EVAL False"
    with pytest.raises(UsageError, match=rf"weights\.pth.*MODEL\.WEIGHTS.*{remedy}"):
        KNetCheckpointer(tiny_model()).load(str(path))


def test_a_file_of_something_else(tmp_path):
    with pytest.raises(UsageError, match="holds no weight that this model has"):
        load(tiny_model(), saved(tmp_path, {"layer.weight": torch.ones(2)}))


def test_a_file_that_shares_nothing_but_counters(tmp_path):
    """As torchvision's MobileNetV2 and a model of timm."""
    model = models.build(PANOPTIC)
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counters
    path = saved(tmp_path, {**counters, "features.0.0.weight": torch.ones(2)})
    with pytest.raises(UsageError, match="holds no weight that this model has"):
        load(model, path)


def test_after_an_error_another_file_can_be_loaded(tmp_path):
    model = tiny_model(seed=0)
    checkpointer = KNetCheckpointer(model)
    with pytest.raises(UsageError):
        checkpointer.load(str(tmp_path / "absent.pth"))
    checkpointer.load(saved(tmp_path, tiny_model(seed=1).state_dict()))
    models.assert_same(model, tiny_model(seed=1))


# ---------------------------------------------------------------------------- official weights


@pytest.mark.parametrize("config", [PANOPTIC, PANOPTIC_SWIN, FCN, UPERNET_SWIN])
def test_official_weights_are_taken_as_they_are(config, tmp_path, log):
    theirs, ours = models.build(config, seed=0), models.build(config, seed=1)
    path = models.save_official(tmp_path / "official.pth", theirs.state_dict())
    load(ours, path, complete=True)
    models.assert_same(ours, theirs)
    assert "official.pth is an official model" in log.text and "0 are left over" in log.text
    assert not warnings(log)


def test_an_official_baseline_is_a_model_without_updates(tmp_path, log):
    theirs = models.build(FCN, MODEL__KNET__NUM_STAGES=0)
    path = models.save_official(tmp_path / "official.pth", theirs.state_dict())
    assert "decode_head.convs.0.conv.weight" in torch.load(path, weights_only=False)["state_dict"]
    ours = models.build(FCN, seed=1, MODEL__KNET__NUM_STAGES=0)
    load(ours, path, complete=True)
    models.assert_same(ours, theirs)


def test_an_official_semantic_model_may_have_the_original_swins_names(tmp_path, log):
    theirs, ours = models.build(UPERNET_SWIN), models.build(UPERNET_SWIN, seed=1)
    official, _ = to_official(theirs.state_dict())
    file = {k: v for k, v in official.items() if not k.startswith("backbone.")}
    file.update((k, v) for k, v in theirs.state_dict().items() if k.startswith("backbone."))
    load(ours, models.save(tmp_path / "official.pth", file), complete=True)
    models.assert_same(ours, theirs)
    assert "UPerNet, Swin of 8 channels" in log.text


def test_averages_beside_official_weights_are_left_over(tmp_path, log):
    theirs, ours = models.build(PANOPTIC), models.build(PANOPTIC, seed=1)
    official, _ = to_official(theirs.state_dict())
    averages = {f"ema_{k.replace('.', '_')}": torch.zeros_like(v) for k, v in official.items()}
    load(ours, models.save(tmp_path / "official.pth", {**averages, **official}), complete=True)
    models.assert_same(ours, theirs)
    assert "ema_rpn_head_init_kernels_weight" in warnings(log)


def test_a_module_beside_the_official_ones_is_of_another_model(tmp_path):
    model = models.build(PANOPTIC)
    official, _ = to_official(model.state_dict())
    official["roi_head.track_head.weight"] = torch.ones(2)
    path = models.save(tmp_path / "official.pth", official)
    with pytest.raises(UsageError, match=r"with roi_head\.track_head\.weight"):
        load(model, path)


def test_nothing_but_the_weights_of_an_official_file_is_taken(tmp_path):
    model = models.build(PANOPTIC)
    path = models.save_official(tmp_path / "official.pth", model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    extra = KNetCheckpointer(model, optimizer=optimizer).load(path)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "meta" not in extra and "optimizer" not in extra


@pytest.mark.parametrize(
    "name, told",
    [
        (
            "det__knet__knet_s3_r101_fpn_ms-3x_coco-panoptic",
            "backbone ResNet-101 and not.*use --config-file configs/coco/panoptic/knet_r101_ms3x",
        ),
        (
            "seg__knet__knet_s3_upernet_swin-t_80k_adamw_ade20k",
            "configs/ade20k/knet_upernet_swin_t",
        ),
    ],
)
def test_official_weights_of_another_model(name, told, tmp_path):
    path = models.save(tmp_path / "official.pth", key_lists.official(name, values=True))
    with pytest.raises(UsageError, match=rf"official\.pth.*{told}.*MODEL\.WEIGHTS"):
        load(models.build(PANOPTIC), path)


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_official_weights_for_a_model_whose_kernels_start_at_points(kind, tmp_path):
    name = "det__knet__knet_s3_r50_fpn_1x_coco" + ("-panoptic" if kind == "panoptic" else "")
    path = models.save(tmp_path / "official.pth", key_lists.official(name, values=True))
    told = "kernels that are learned where this model's start at points"
    told += rf".*use --config-file configs/coco/{kind}/knet_r50_1x\.yaml, or set MODEL\.WEIGHTS"
    fast = {"KERNEL_HEAD__NAME": "PointKernelHead", "KERNEL_UPDATE__RESIDUAL": True}
    fast = {f"MODEL__KNET__{key}": value for key, value in fast.items()}
    for complete in (False, True):
        with pytest.raises(UsageError, match=told):
            load(models.build(PANOPTIC, **fast), path, complete=complete)


def of_other_classes(tmp_path, form: str):
    """A file of 3 + 2 classes, the model it comes from, and a model of 4 + 3."""
    theirs = models.build(PANOPTIC)
    if form == "official":
        path = models.save_official(tmp_path / "weights.pth", theirs.state_dict())
    else:
        path = saved(tmp_path, theirs.state_dict())
    counts = {"MODEL__KNET__NUM_THING_CLASSES": 4, "MODEL__KNET__NUM_STUFF_CLASSES": 3}
    return path, theirs, models.build(PANOPTIC, seed=1, **counts)


@pytest.mark.parametrize("form", ["official", "ours"])
def test_weights_of_other_classes(form, tmp_path):
    path, _, ours = of_other_classes(tmp_path, form)
    with pytest.raises(UsageError, match=r"5 classes.*7 \(.*MODEL\.KNET\.WEIGHTS_SKIP_CLASSES"):
        load(ours, path)


@pytest.mark.parametrize("form", ["official", "ours"])
def test_weights_of_other_classes_in_evaluation(form, tmp_path):
    path, _, ours = of_other_classes(tmp_path, form)
    with pytest.raises(UsageError, match="evaluate with the config it was trained with") as error:
        load(ours, path, complete=True)
    assert "WEIGHTS_SKIP_CLASSES" not in str(error.value)


def test_weights_of_other_channels_are_not_of_other_classes(tmp_path):
    state = tiny_model().state_dict()
    name = "kernel_update_heads.0.class_proj.weight"
    state[name] = torch.zeros(len(state[name]), 32)
    with pytest.raises(UsageError, match=rf"weights of another model: {name}"):
        load(tiny_model(), saved(tmp_path, state), complete=True)


def test_a_run_of_other_classes_is_not_resumed(tmp_path):
    _, theirs, ours = of_other_classes(tmp_path, "ours")
    KNetCheckpointer(theirs, str(tmp_path)).save("model_0000009")
    checkpointer = KNetCheckpointer(ours, str(tmp_path))
    with pytest.raises(UsageError, match="choose another OUTPUT_DIR, or leave out --resume"):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize("form", ["official", "ours"])
def test_what_depends_on_the_classes_is_left_out_on_demand(form, tmp_path, log):
    path, theirs, ours = of_other_classes(tmp_path, form)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    load(ours, path, skip_classes=True)
    for name, tensor in ours.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            expected = before if name in CLASS_DEPENDENT else theirs.state_dict()
            assert torch.equal(tensor, expected[name]), name
    assert all(name in warnings(log) for name in CLASS_DEPENDENT)


def starting_at_points(layout, seed: int = 0):
    options = {"kernel_head": PointKernelHead, "residual": True, "num_stages": 1}
    return tiny_model(layout=layout, seed=seed, **options)


POINTS = {f"kernel_head.point_proj.{part}" for part in ("weight", "bias")}
ALL_CLASSES = {name for name in CLASS_DEPENDENT if "heads.1" not in name and "heads.2" not in name}


@pytest.mark.parametrize(
    "layout, expected",
    [
        (ClassLayout([0, 1, 2, 3], [4, 5, 6]), POINTS | ALL_CLASSES),
        (THINGS_ONLY, POINTS | ALL_CLASSES),
        (ClassLayout([0, 1, 2], [3]), ALL_CLASSES),
        (ClassLayout([0, 1, 2, 3], [4]), POINTS),
    ],
    ids=["more", "things alone", "as many things", "as many classes"],
)
def test_a_model_whose_kernels_start_at_points_learns_other_classes(
    layout, expected, tmp_path, log
):
    theirs = starting_at_points(ClassLayout([0, 1, 2], [3, 4]))
    ours = starting_at_points(layout, seed=1)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    load(ours, saved(tmp_path, theirs.state_dict()), skip_classes=True)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, (before if name in expected else theirs.state_dict())[name]), (
            name
        )
    assert all(name in warnings(log) for name in expected)
    sum(ours.train()([training_input(np.random.default_rng(0), layout, SIZE)]).values()).backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())


@pytest.mark.parametrize(
    "layout, told",
    [
        (
            ClassLayout([0, 1, 2, 3], [4, 5, 6]),
            r"of 5 classes, but this model has 7 \(kernel_head\.s",
        ),
        (
            ClassLayout([0, 1, 2, 3], [4]),
            r"of 3 thing classes, but this model has 4 \(kernel_head\.point_proj",
        ),
    ],
)
def test_other_classes_of_kernels_that_start_at_points(layout, told, tmp_path):
    theirs = starting_at_points(ClassLayout([0, 1, 2], [3, 4]))
    with pytest.raises(UsageError, match=rf"{told}.*MODEL\.KNET\.WEIGHTS_SKIP_CLASSES"):
        load(starting_at_points(layout), saved(tmp_path, theirs.state_dict()))


def test_the_classes_of_a_semantic_model_are_left_out_on_demand(tmp_path, log):
    path = models.save_official(tmp_path / "weights.pth", models.build(FCN).state_dict())
    ours = models.build(FCN, MODEL__SEM_SEG_HEAD__NUM_CLASSES=6)
    with pytest.raises(UsageError, match="5 classes"):
        load(ours, path)
    load(ours, path, skip_classes=True)
    for head in ("base_head", "auxiliary_head"):
        assert f"sem_seg_head.{head}.predictor.1.weight" in warnings(log)


def test_weights_that_lack_classes_do_not_do_for_evaluation(tmp_path):
    path, _, ours = of_other_classes(tmp_path, "official")
    with pytest.raises(UsageError, match="is missing or of another shape"):
        load(ours, path, skip_classes=True, complete=True)


# ---------------------------------------------------------------------------- pretrained backbones


def torchvision_names(model) -> dict:
    """A detection model's ResNet under the names of torchvision, with a classifier."""
    state, _ = to_official(model.state_dict())
    prefix = "backbone."
    file = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return {**file, "fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}


@pytest.mark.parametrize("wrapped", [False, True])
def test_torchvision_weights(wrapped, tmp_path, log):
    theirs, ours = models.build(PANOPTIC), models.build(PANOPTIC, seed=1)
    rest = [n for n in ours.state_dict() if not n.startswith("backbone.bottom_up.")]
    file = torchvision_names(theirs)
    path = tmp_path / "resnet50.pth"
    torch.save({"state_dict": file, "epoch": 90} if wrapped else file, path)
    load(ours, str(path))
    models.assert_same(ours, theirs, but=rest)
    assert "a backbone (ResNet, torchvision's names)" in log.text
    assert "2 are left over" in log.text and "fc" in warnings(log)


def test_original_swin_weights(tmp_path, log):
    theirs, ours = models.build(PANOPTIC_SWIN), models.build(PANOPTIC_SWIN, seed=1)
    file = models.backbone_of(theirs, "backbone.bottom_up.")
    file = {k: v for k, v in file.items() if not k.startswith("norm")}
    path = saved(
        tmp_path, {**file, "norm.weight": torch.ones(64), "head.weight": torch.ones(2, 64)}
    )
    load(ours, path)
    state = ours.state_dict()
    for name, tensor in file.items():
        assert torch.equal(state[f"backbone.bottom_up.{name}"], tensor), name
    assert "a backbone (under the model's names)" in log.text


@pytest.mark.parametrize("tensors", ["arrays", "tensors"])
def test_detectron2s_converted_backbones(tensors, tmp_path):
    """As its R-50.pkl, or as projects convert Swin: names are found by Detectron2's heuristics."""
    theirs, ours = models.build(PANOPTIC), models.build(PANOPTIC, seed=1)
    rest = [n for n in ours.state_dict() if not n.startswith("backbone.bottom_up.")]
    file = models.backbone_of(theirs, "backbone.bottom_up.")
    if tensors == "arrays":
        file = {name: tensor.numpy() for name, tensor in file.items()}
    path = tmp_path / "R-50.pkl"
    content = {"model": file, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    load(ours, str(path))
    models.assert_same(ours, theirs, but=rest)


def test_caffe2_weights(tmp_path):
    model = models.build(PANOPTIC)
    weight = torch.rand(8, 3, 7, 7)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"conv1_w": weight.numpy(), "conv1_w_momentum": weight.numpy()}))
    load(model, str(path), partly=True)
    # Caffe2's are BGR, which Detectron2 leaves as it is
    assert torch.equal(model.state_dict()["backbone.bottom_up.stem.conv1.weight"], weight)


def test_heuristics_can_be_asked_for_in_the_path(tmp_path):
    theirs, ours = models.build(PANOPTIC), models.build(PANOPTIC, seed=1)
    path = tmp_path / "weights.pth"
    torch.save(models.backbone_of(theirs, "backbone.bottom_up."), path)
    load(ours, f"{path}?matching_heuristics=True")
    name = "backbone.bottom_up.res2.0.conv1.weight"
    assert torch.equal(ours.state_dict()[name], theirs.state_dict()[name])
    with pytest.raises(UsageError, match="asks for other"):
        load(ours, f"{path}?other=1")


# -------------------------------------------------------------------------------- other backbones

BASIC_BLOCKS = {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64}
ANOTHER = r"is another backbone.*backbone\.bottom_up\..*MODEL\.WEIGHTS or MODEL\.RESNETS\.DEPTH"


@pytest.mark.parametrize("form", ["torchvision", "heuristics", "whole model"])
def test_a_backbone_of_another_depth(form, tmp_path):
    """Names that fit do not make up for shapes that do not."""
    small = models.build(PANOPTIC, **BASIC_BLOCKS)
    path = tmp_path / "weights.pth"
    if form == "torchvision":
        torch.save(torchvision_names(small), path)
    elif form == "heuristics":
        own = models.backbone_of(small, "backbone.bottom_up.")
        torch.save({"model": own, "matching_heuristics": True}, path)
    else:
        torch.save({"model": small.state_dict()}, path)
    ours = models.build(PANOPTIC)
    with pytest.raises(UsageError, match=ANOTHER):
        load(ours, str(path))
    with pytest.raises(UsageError, match=ANOTHER):
        load(ours, str(path), skip_classes=True)


def test_caffe2_weights_of_another_backbone(tmp_path):
    path = tmp_path / "R-50.pkl"
    blobs = {"conv1_w": torch.rand(8, 3, 7, 7), "res2_0_branch2a_w": torch.rand(4, 8, 3, 3)}
    path.write_bytes(pickle.dumps({name: blob.numpy() for name, blob in blobs.items()}))
    with pytest.raises(UsageError, match=r"is another backbone.*res2\.0\.conv1\.weight"):
        load(models.build(PANOPTIC), str(path))


@pytest.mark.parametrize("heuristics", [False, True])
def test_a_backbone_for_images_of_more_channels(heuristics, tmp_path, log):
    """Its first convolution cannot be taken, all others are."""
    theirs = models.build(PANOPTIC)
    more = {"MODEL__PIXEL_MEAN": [1.0] * 4, "MODEL__PIXEL_STD": [1.0] * 4}
    ours = models.build(PANOPTIC, seed=1, **more)
    own = models.backbone_of(theirs, "backbone.bottom_up.")
    path = tmp_path / "weights.pth"
    torch.save({"model": own, "matching_heuristics": heuristics}, path)
    load(ours, str(path))
    state = models.backbone_of(ours, "backbone.bottom_up.")
    for name, tensor in own.items():
        if name != "stem.conv1.weight" and not name.endswith("num_batches_tracked"):
            assert torch.equal(state[name], tensor), name
    told = warnings(log)
    assert "stem.conv1.weight starts from random numbers: it is for images of 4 channels" in told
    assert "set MODEL.BACKBONE.FREEZE_AT 0, or it stays as it is" in told
    ours.requires_grad_(True)
    log.clear()
    load(ours, str(path))
    assert "random numbers" in warnings(log) and "FREEZE_AT" not in warnings(log)


def test_a_feature_pyramid_of_other_channels_is_no_other_backbone(tmp_path, log):
    theirs = models.build(PANOPTIC, MODEL__FPN__OUT_CHANNELS=8)
    ours = models.build(PANOPTIC, seed=1)
    path = saved(tmp_path, theirs.state_dict())
    with pytest.raises(
        UsageError, match=r"in part \(feature pyramid: .*another shape; neck: .*PARTLY"
    ):
        load(ours, path)
    load(ours, path, partly=True)
    name = "backbone.bottom_up.res2.0.conv1.weight"
    assert torch.equal(ours.state_dict()[name], theirs.state_dict()[name])
    assert "fpn_lateral2" in warnings(log)


# ---------------------------------------------------------------------------------- hostile files


class Shell:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_a_file_that_wants_to_run_something_is_refused(name, tmp_path):
    path, mark = tmp_path / name, tmp_path / "mark"
    content = {"model": tiny_model().state_dict(), "hidden": Shell(f"touch {mark}")}
    path.write_bytes(pickle.dumps(content))
    if name.endswith("pth"):
        torch.save(content, path)
    with pytest.raises(UsageError, match=rf"{name}.*system.*MODEL\.WEIGHTS"):
        load(tiny_model(), str(path))
    assert not mark.exists()
