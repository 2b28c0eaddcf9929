"""Weights whose update stages add to the masks before them, or make masks anew: no tensor tells."""

import logging

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

KEY = "MODEL.KNET.KERNEL_UPDATE.RESIDUAL"
CONFIGS = pytest.mark.parametrize("config", [PANOPTIC, FCN], ids=["panoptic", "semantic"])
FORMS = pytest.mark.parametrize("residual", [False, True], ids=["anew", "residual"])


def build(residual: bool, config: str = PANOPTIC, seed: int = 0, **changes):
    return models.build(config, seed, MODEL__KNET__KERNEL_UPDATE__RESIDUAL=residual, **changes)


def load(model, path, *, complete: bool):
    checkpointer = KNetCheckpointer(model)
    checkpointer.complete = complete
    return checkpointer.load(str(path))


def saved(tmp_path, model, ending: str = "pth"):
    path = tmp_path / f"model.{ending}"
    save_model(model, path)
    return path


@pytest.fixture
def told(caplog):
    """Gives the warnings that speak of the form."""
    caplog.set_level(logging.INFO)

    def warnings() -> list:
        found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        return [message for message in found if "RESIDUAL" in message]

    return warnings


@FORMS
@CONFIGS
def test_weights_of_the_other_form_are_not_evaluated(config, residual, tmp_path):
    path = saved(tmp_path, build(residual, config))
    with pytest.raises(UsageError, match=rf"model\.pth .*: set {KEY} to {residual}$"):
        load(build(not residual, config), path, complete=True)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_model_file_of_any_kind_tells_its_form(ending, tmp_path):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    path = saved(tmp_path, build(True), ending)
    with pytest.raises(UsageError, match=f"set {KEY} to True"):
        load(build(False), path, complete=True)


@FORMS
def test_a_run_of_the_other_form_is_not_resumed(residual, tmp_path):
    KNetCheckpointer(build(residual), str(tmp_path)).save("model_0000009")
    checkpointer = KNetCheckpointer(build(not residual), str(tmp_path))
    remedy = f"set {KEY} to {residual}, or choose another OUTPUT_DIR, or leave out --resume"
    with pytest.raises(UsageError, match=remedy):
        checkpointer.resume_or_load("", resume=True)


@FORMS
@CONFIGS
def test_training_may_start_from_the_other_form(config, residual, tmp_path, told):
    theirs, ours = build(residual, config), build(not residual, config, seed=1)
    load(ours, saved(tmp_path, theirs), complete=False)
    models.assert_same(ours, theirs)
    (message,) = told()
    assert f"({KEY} {residual})" in message and "must be learned anew" in message


def test_weights_whose_names_are_to_be_matched_tell_their_form_too(tmp_path, told):
    path = saved(tmp_path, build(True))
    load(build(False), f"{path}?matching_heuristics=True", complete=False)
    assert len(told()) == 1


@FORMS
@pytest.mark.parametrize("complete", [False, True])
def test_weights_of_the_same_form_are_taken_as_they_are(complete, residual, tmp_path, told):
    theirs, ours = build(residual), build(residual, seed=1)
    load(ours, saved(tmp_path, theirs), complete=complete)
    models.assert_same(ours, theirs)
    assert not told()


def test_blocks_before_a_classifier_that_has_none(tmp_path, caplog):
    """All that the model has is in the file, but would read other maps."""
    theirs = models.build(PANOPTIC)
    ours = models.build(PANOPTIC, seed=1, MODEL__KNET__SEMANTIC_BLOCKS=False)
    path = saved(tmp_path, theirs)
    with pytest.raises(UsageError, match=r"set MODEL\.KNET\.SEMANTIC_BLOCKS to True$"):
        load(ours, path, complete=True)
    load(ours, path, complete=False)
    (message,) = [r.getMessage() for r in caplog.records if "SEMANTIC_BLOCKS" in r.getMessage()]
    assert message.endswith("the classifier must be learned anew")
    caplog.clear()
    load(ours, saved(tmp_path, ours), complete=True)
    load(theirs, saved(tmp_path, theirs), complete=True)
    assert "SEMANTIC_BLOCKS" not in caplog.text


@CONFIGS
def test_official_weights_make_masks_anew(config, tmp_path, told):
    theirs, ours = build(False, config), build(True, config, seed=1)
    path = models.save_official(tmp_path / "official.pth", theirs.state_dict())
    with pytest.raises(UsageError, match=rf"official\.pth make masks anew.*set {KEY} to False$"):
        load(ours, path, complete=True)
    assert not told()
    load(ours, path, complete=False)
    models.assert_same(ours, theirs)
    assert len(told()) == 1


def test_what_one_file_tells_is_not_said_of_the_next(tmp_path, told):
    theirs = build(True)
    checkpointer = KNetCheckpointer(build(False))
    checkpointer.load(str(saved(tmp_path, theirs)))
    assert len(told()) == 1
    bare = tmp_path / "bare.pth"
    torch.save({"state_dict": theirs.state_dict()}, bare)
    checkpointer.load(str(bare))
    assert len(told()) == 1


# ----------------------------------------------------------------------------- what tells nothing


@pytest.mark.parametrize(
    "stages, complete",
    [((0, 0), True), ((3, 0), True), ((0, 0), False), ((3, 0), False), ((0, 3), False)],
    ids=str,
)
def test_without_stages_there_is_no_form(stages, complete, tmp_path, told):
    theirs, ours = (
        build(residual, FCN, MODEL__KNET__NUM_STAGES=number)
        for residual, number in zip((True, False), stages)
    )
    load(ours, saved(tmp_path, theirs), complete=complete)
    assert not told()


def test_a_model_of_another_architecture_has_no_form(tmp_path, told):
    model, path = torch.nn.Linear(2, 2), tmp_path / "model.pth"
    info = build(True).info.to_plain()
    torch.save({"model": {k: v + 1 for k, v in model.state_dict().items()}, INFO_KEY: info}, path)
    load(model, path, complete=True)
    assert not told()


def test_stages_that_know_no_choice_have_no_form(tmp_path, told):
    """As another class of KERNEL_UPDATE_HEAD_REGISTRY may be."""
    ours = build(False)
    for stage in ours.kernel_update_heads:
        del stage.residual
    load(ours, saved(tmp_path, build(True)), complete=True)
    assert not told()


def rewritten(tmp_path, model, description):
    path = tmp_path / "rewritten.pth"
    torch.save({"model": model.state_dict(), INFO_KEY: description}, path)
    return path


def test_a_file_from_before_there_was_a_choice_makes_masks_anew(tmp_path):
    model = build(False)
    info = model.info.to_plain()
    content = yaml.safe_load(info["config"])
    del content["MODEL"]["KNET"]["KERNEL_UPDATE"]["RESIDUAL"]
    path = rewritten(tmp_path, model, {**info, "config": yaml.safe_dump(content)})
    load(build(False), path, complete=True)
    with pytest.raises(UsageError, match=f"set {KEY} to False"):
        load(build(True), path, complete=True)


@pytest.mark.parametrize(
    "description",
    [3, {}, {"config": None}, {"config": "- 1\n"}, {"config": "MODEL: ["}]
    + [{"config": f"MODEL:\n  KNET:\n    KERNEL_UPDATE: {{RESIDUAL: {value}}}\n"} for value in "3a"]
    + [{"config": "MODEL:\n  KNET:\n    KERNEL_UPDATE: {RESIDUAL: True, LATER: 1}\n"}],
    ids=str,
)
def test_a_file_whose_config_cannot_be_read_tells_nothing(description, tmp_path, told):
    theirs, ours = build(True), build(False, seed=1)
    load(ours, rewritten(tmp_path, theirs, description), complete=True)
    models.assert_same(ours, theirs)
    assert not told()


def test_that_it_is_another_model_is_told_first(tmp_path):
    """RESIDUAL alone would not make it fit."""
    path = saved(tmp_path, build(False))
    ours = build(True, MODEL__KNET__KERNEL_HEAD__NAME="PointKernelHead")
    with pytest.raises(UsageError, match=r"another model: kernel_head\.point_") as error:
        load(ours, path, complete=True)
    assert "RESIDUAL" not in str(error.value)


# ------------------------------------------------------------------------------------- load_model


@FORMS
def test_a_model_file_alone_is_built_in_its_form(residual, tmp_path):
    theirs = build(residual)
    ours = knet.load_model(saved(tmp_path, theirs), device="cpu")
    assert [stage.residual for stage in ours.kernel_update_heads] == [residual] * 3
    models.assert_same(ours, theirs)


@FORMS
def test_load_model_refuses_a_config_of_the_other_form(residual, tmp_path):
    path = saved(tmp_path, build(residual))
    opts = models.options(PANOPTIC, MODEL__KNET__KERNEL_UPDATE__RESIDUAL=not residual)
    with pytest.raises(UsageError, match=f"set {KEY} to {residual}"):
        knet.load_model(PANOPTIC, path, device="cpu", opts=opts)
    with pytest.raises(UsageError, match=f"set {KEY} to {residual}"):
        knet.load_model(path, device="cpu", opts=[KEY, not residual])
