"""Timing changes nothing of what a model finds or learns, and leaves nothing behind."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from knet.benchmark import mask2former
from knet.benchmark.jobs import Job, Settings
from knet.benchmark.worker import Runner
from knet.errors import UsageError
from knet.modeling import criterion
from tests.conftest import DEMO_CONFIG, pairs

SIZE = (64, 96)
THINGS = 5


@pytest.fixture
def job(tiny_options):
    def make(kind, candidate=DEMO_CONFIG, **settings):
        options = pairs({k: v for k, v in tiny_options.items() if k.startswith("MODEL.")})
        common = Settings((DEMO_CONFIG,), tuple(options), sizes=(SIZE,), **settings)
        return Job(candidate, kind, SIZE, 1, THINGS, None, common)

    return make


def own_attributes(model):
    return {name: set(vars(module)) for name, module in model.named_modules()}


def equal(found, wanted):
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["inference", "training"])
def test_outputs_are_those_of_the_model_alone(job, kind):
    runner = Runner(job(kind, scene="weights"))
    model, batch = runner.candidate.model, runner.candidate.batch
    loss = criterion.dice_loss
    timed = runner.forward()
    attributes = own_attributes(model)
    runner.close()
    assert criterion.dice_loss is not loss
    left = own_attributes(model)
    assert all(left[name] <= attributes[name] for name in left)
    assert not any("forward" in names for names in left.values())
    with torch.set_grad_enabled(model.training):
        alone = model(batch)
    if kind == "training":
        equal(timed, alone)
        return
    (timed,), (alone,) = timed, alone
    equal(timed, {"sem_seg": alone["sem_seg"]})
    assert torch.equal(timed["panoptic_seg"][0], alone["panoptic_seg"][0])
    equal(timed["instances"].get_fields(), {"pred_masks": alone["instances"].pred_masks})


@pytest.mark.parametrize("kind", ["inference", "training"])
def test_parts_add_up_to_the_step(job, kind):
    runner = Runner(job(kind))
    runner.step()
    step = runner.step()
    for unit in ("seconds", "cpu_seconds"):
        total = sum(part[unit] for part in step["parts"].values())
        assert 0.8 * step[unit] <= total <= step[unit]
    wanted = {"backbone", "pyramid", "neck", "kernel head", "update stage 1", "update stage 2"}
    if kind == "training":
        wanted |= {f"backward: {name}" for name in wanted}
        wanted |= {"targets", "losses: matching", "losses: dice", "backward: losses: dice"}
        wanted |= {"optimizer"}
    else:
        wanted |= {"results: panoptic", "results: instance", "results: semantic"}
    assert wanted <= step["parts"].keys()

    facts = runner.finish()
    of_parts = facts["parameters_of_parts"]
    assert sum(of_parts.values()) == facts["parameters"]
    stage = runner.candidate.model.kernel_update_heads[0]
    assert of_parts["update stage 1"] == sum(p.numel() for p in stage.parameters())
    assert facts["flops_of_parts"]["update stage 1"] == facts["flops_of_parts"]["update stage 2"]


def test_operations_are_counted(job):
    runner = Runner(job("inference", "machine"))
    found = runner.finish()["flops_of_parts"]
    # the map is at least 32 x 32
    assert found["convolution"] == 2 * 9 * 256 * 256 * 32 * 32
    assert found["matrix product"] == 2 * 1024**3


@pytest.mark.parametrize("has_iou_branch", [False, True])
def test_made_up_objects_are_found(job, tiny_options, has_iou_branch):
    tiny_options["MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH"] = has_iou_branch
    runner = Runner(job("inference"))
    (result,) = runner.forward()
    runner.close()
    things = [s for s in result["panoptic_seg"][1] if s["isthing"]]
    assert 0 < len(things) <= THINGS
    assert (result["instances"].scores > 0.5).sum() == THINGS


def test_mask_rcnn_finds_its_sure_detections(job):
    runner = Runner(job("inference", "mask_rcnn"))
    (result,) = runner.forward()
    runner.close()
    assert len(result["instances"]) == THINGS


def test_panoptic_fpn_learns_from_128_positives(job):
    runner = Runner(job("training", "panoptic_fpn"))
    with EventStorage() as storage:
        runner.candidate.model(runner.candidate.batch)
    runner.close()
    assert storage.latest()["roi_head/num_fg_samples"][0] == 128


def test_a_library_that_is_missing_is_told(job, monkeypatch):
    monkeypatch.setattr(mask2former, "Mask2FormerConfig", None)
    with pytest.raises(UsageError, match="transformers is not installed"):
        Runner(job("inference", "mask2former"))


def test_half_precision(job):
    runner = Runner(job("training", dtype="bf16"))
    assert all(torch.isfinite(loss) for loss in runner.forward().values())
    runner.close()
