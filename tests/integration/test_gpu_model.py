"""Tiny models on a GPU: what the CPU gives, no waiting for the device, half precision."""

import contextlib
import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from knet.modeling.kernel_update import KernelUpdateHead
from knet.modeling.point_kernel_head import PointKernelHead
from knet.modeling.semantic import KNetSemSegHead, SemanticKNet, SemSegFCNHead
from tests.modeling.semantic.heads import NUM_CLASSES, training_batch
from tests.tiny_model import LAYOUT, SIZE, THINGS_ONLY, Patches, tiny_model, training_input

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.usefixtures("whole_float32"),
]

PUBLISHED = {}
FAST = {
    "kernel_head": PointKernelHead,
    "residual": True,
    "semantic_loss": "cross_entropy",
    "iou_branch": True,
    "vote_weight": 1.0,
}
FORMS = pytest.mark.parametrize("form", [PUBLISHED, FAST], ids=["published", "fast"])
LAYOUTS = pytest.mark.parametrize("layout", [LAYOUT, THINGS_ONLY], ids=["panoptic", "instance"])
RESIDUAL = pytest.mark.parametrize("residual", [False, True], ids=["published", "fast"])


def build(layout, form, seed=0, num_kernels=6):
    model = tiny_model(layout=layout, seed=seed, num_kernels=num_kernels, **form)
    if form is FAST:
        results = model.postprocessor
        results.mask_quality = results.things_first = results.enlarge_logits = True
        results.mask_quality_power = 4.0
        # untrained, all of its scores and masks are nearly the same
        head, stages = model.kernel_head, model.kernel_update_heads
        nn.init.zeros_(head.point_proj.bias)
        for layer in (head.point_proj, *(stage.class_proj for stage in stages)):
            nn.init.normal_(layer.weight, std=0.5)
        for layer in (head.kernel_proj, *(stage.mask_proj for stage in stages)):
            nn.init.normal_(layer.weight, std=0.2)
    return model


def build_semantic(residual, seed=0):
    """K-Net on FCN."""
    torch.manual_seed(seed)
    backbone = Patches(3, 16)
    stages = [
        KernelUpdateHead(
            num_classes=None,
            channels=16,
            num_heads=2,
            feedforward_channels=24,
            mask_threshold=None,
            xavier_init=False,
            residual=residual,
        )
        for _ in range(3)
    ]
    base_head = SemSegFCNHead(
        backbone.output_shape(),
        in_features=["p8"],
        num_classes=NUM_CLASSES,
        channels=16,
        norm="BN",
        dropout=0.0,
    )
    return SemanticKNet(
        backbone=backbone,
        sem_seg_head=KNetSemSegHead(base_head, stages, num_classes=NUM_CLASSES),
        pixel_mean=[100.0] * 3,
        pixel_std=[50.0] * 3,
    )


def batch_of(layout, seed=0, num_things=2):
    rng = np.random.default_rng(seed)
    return [training_input(rng, layout, SIZE, num_things) for _ in range(2)]


# ------------------------------------------------------------------------- the same on both devices


def learned(model, batch) -> dict:
    """Losses and gradients, these by the largest of all."""
    model = copy.deepcopy(model).train()  # statistics of norms stay as they were
    losses = model(batch)
    sum(losses.values()).backward()
    found = {name: loss.detach() for name, loss in losses.items()}
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found["largest gradient"] = torch.stack([g.abs().max() for g in gradients.values()]).max()
    found.update((name, g / found["largest gradient"]) for name, g in gradients.items())
    return {name: tensor.cpu() for name, tensor in found.items()}


def predicted(model, batch) -> dict:
    """The results of an image, larger than it; instances by kernel and class."""
    with torch.no_grad():
        (result,) = model.eval()([{"image": batch[0]["image"], "height": 100, "width": 131}])
    found = {"sem_seg": result["sem_seg"].cpu()}
    if "panoptic_seg" in result:
        segments, info = result["panoptic_seg"]
        found["segments"] = segments.cpu()
        found["categories"] = torch.tensor([segment["category_id"] for segment in info])
        found["segment scores"] = torch.tensor([segment["score"] for segment in info])
        instances = result["instances"].to("cpu")
        order = (instances.pred_kernels * 1000 + instances.pred_classes).argsort()
        for name in ("pred_kernels", "pred_classes", "scores", "pred_masks"):
            found[name] = instances.get(name)[order]
    return found


def errors(found, expected) -> dict:
    """Of numbers the largest error by the largest number, of all else the share that differs.

    By a few thousandths at least: a gradient that should be 0 is noise.
    """
    assert found.keys() == expected.keys()
    result = {}
    for name, wanted in expected.items():
        if found[name].shape != wanted.shape:
            result[name] = 1.0
        elif wanted.is_floating_point():
            scale = wanted.abs().max().clamp(min=3e-3)
            result[name] = float((found[name] - wanted).abs().max() / scale)
        else:
            result[name] = float((found[name] != wanted).float().mean())
    return result


def assert_same_on_both_devices(make, outcome, is_wanted=lambda expected: True):
    """Of a model and inputs in which rounding decides nothing.

    Matching, thresholds, the order of points and ReLU decide; where one is at its edge, another
    order of summation changes much. Weights changed by more than rounding tell whether one is.

    Args:
        make: seed -> model, batch.
        outcome: of the two -> named tensors on the CPU.
        is_wanted: may refuse an outcome that shows too little.
    """
    tolerance = 3e-3
    for seed in range(50):
        model, batch = make(seed)
        expected = outcome(model, batch)
        if is_wanted(expected) and all(
            max(errors(outcome(changed(model, i), batch), expected).values()) < tolerance / 2
            for i in range(4)
        ):
            break
    else:
        pytest.fail("rounding decides with every seed")
    found = errors(outcome(copy.deepcopy(model).to(DEVICE), batch), expected)
    assert {name: error for name, error in found.items() if not error <= tolerance} == {}


def changed(model, seed):
    """The model, each weight by some hundred-thousandths larger or smaller."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-5 * torch.randn(parameter.shape, generator=generator))
    return model


@FORMS
@LAYOUTS
def test_losses_and_gradients_are_those_of_the_cpu(layout, form):
    def make(seed):
        return build(layout, form, seed), batch_of(layout, seed)

    assert_same_on_both_devices(make, learned)


@FORMS
@LAYOUTS
def test_results_are_those_of_the_cpu(layout, form):
    def make(seed):
        return build(layout, form, seed), batch_of(layout, seed)

    assert_same_on_both_devices(make, predicted, lambda found: len(found["categories"]) > 1)


@RESIDUAL
@pytest.mark.parametrize("outcome", [learned, predicted])
def test_a_semantic_model_does_what_it_does_on_the_cpu(outcome, residual):
    def make(seed):
        return build_semantic(residual, seed), training_batch(seed=seed)

    assert_same_on_both_devices(make, outcome)


def test_results_and_losses_live_on_the_gpu():
    model = build(LAYOUT, PUBLISHED).to(DEVICE)
    assert all(loss.device.type == DEVICE for loss in model.train()(batch_of(LAYOUT)).values())
    (result,) = model.eval()([{"image": batch_of(LAYOUT)[0]["image"]}])
    instances = result["instances"]
    tensors = [result["panoptic_seg"][0], result["sem_seg"], instances.pred_boxes.tensor]
    tensors += [instances.get(name) for name in ("pred_masks", "scores", "pred_classes")]
    assert {tensor.device.type for tensor in tensors} == {DEVICE}


# --------------------------------------------------------------------------- waiting for the device


@contextlib.contextmanager
def waiting(mode):
    """What torch does ("warn", "error") when the host waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def count_waits(call) -> int:
    """How often a call, that has been made before, waits for the device."""
    call()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with waiting("warn"):
            call()
    return sum("called a synchronizing" in str(each.message) for each in told)


@pytest.mark.parametrize("learns", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("form", [PUBLISHED, FAST, "semantic"], ids=["published", "fast", "fcn"])
def test_the_network_never_waits(form, learns):
    """From images on the GPU to the last stage."""
    model = build_semantic(False) if form == "semantic" else build(LAYOUT, form)
    model.to(DEVICE).train(learns)
    predict = model.sem_seg_head.predict if form == "semantic" else model.predict
    images = torch.randn(2, 3, 64, 96, device=DEVICE)
    with torch.set_grad_enabled(learns):
        predict(model.backbone(images))
        with waiting("error"):
            predict(model.backbone(images))
            with pytest.raises(RuntimeError, match="synchronizing"):  # it would be seen
                images.sum().item()


@FORMS
def test_results_of_more_kernels_wait_no_more_often(form):
    counts = []
    for num_kernels in (4, 24):
        model = build(LAYOUT, form, num_kernels=num_kernels).to(DEVICE).eval()
        batch = [{"image": x["image"]} for x in batch_of(LAYOUT)]
        with torch.no_grad():
            counts.append(count_waits(lambda m=model, b=batch: m(b)))
    assert counts[0] == counts[1] > 0


@FORMS
def test_losses_of_more_kernels_or_objects_wait_no_more_often(form):
    counts = []
    for num_kernels, num_things in ((4, 2), (24, 2), (24, 7)):
        model = build(LAYOUT, form, num_kernels=num_kernels).to(DEVICE).train()
        batch = batch_of(LAYOUT, num_things=num_things)
        counts.append(count_waits(lambda m=model, b=batch: m(b)))
    assert counts[0] == counts[1] == counts[2] > 0


# ----------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@FORMS
def test_results_in_half_precision(form, dtype):
    """The scores of each class in order: points of nearly one score may change places."""
    model = build(LAYOUT, form).to(DEVICE).eval()
    batch = [{"image": x["image"]} for x in batch_of(LAYOUT)]
    images = model.preprocess_image(batch).tensor
    found = []
    for half in (False, True):
        with torch.no_grad(), torch.autocast(DEVICE, dtype=dtype, enabled=half):
            stages, _ = model.predict(model.backbone(images))
            results = model(batch)
        assert all(torch.isfinite(stage.mask_logits).all() for stage in stages)
        for result in results:
            assert torch.isfinite(result["instances"].scores).all()
            assert result["sem_seg"].dtype == result["instances"].scores.dtype == torch.float32
        scores = stages[-1].class_logits.float().sigmoid().sort(dim=1).values
        found.append((scores, torch.stack([result["sem_seg"] for result in results])))
    for exact, half in zip(*found):
        assert float(exact.std()) > 0.1  # it says something
        assert 0 < float((exact - half).abs().mean()) < 0.02
