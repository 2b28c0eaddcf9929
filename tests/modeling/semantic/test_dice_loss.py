"""The dice loss over classes that may stand beside the loss of each pixel, by loops."""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from knet.modeling import strips
from knet.modeling.semantic_losses import class_dice_loss, cross_entropy_and_dice

from ... import slow_reference as slow
from .heads import small_config, training_batch

IGNORED = 255


def probabilities(column):
    highest = max(column)
    powers = [math.exp(value - highest) for value in column]
    return [power / sum(powers) for power in powers]


def slow_dice(logits, labels, ignored=IGNORED, eps=1e-3):
    """Mean over the classes that some pixel of the batch has."""
    num_classes = logits.shape[1]
    overlap, squares, wanted = ([0.0] * num_classes for _ in range(3))
    for image, of_image in zip(logits, labels):
        for y, x in slow.pixels_of(of_image):
            label = int(of_image[y, x])
            if label == ignored:
                continue
            for c, p in enumerate(probabilities([float(v) for v in image[:, y, x]])):
                squares[c] += p * p
                overlap[c] += p * (label == c)
            wanted[label] += 1
    terms = [
        1 - 2 * overlap[c] / (squares[c] + wanted[c] + 2 * eps)
        for c in range(num_classes)
        if wanted[c] > 0
    ]
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize("seed", range(3))
def test_class_dice_loss(seed):
    """Classes that are absent, pixels that are ignored, also all of them."""
    rng = np.random.default_rng(seed)
    for _ in range(30):
        batch, num_classes, height, width = (int(side) for side in rng.integers(1, 6, size=4))
        logits = (rng.normal(size=(batch, num_classes, height, width)) * 3).astype(np.float32)
        shape = (batch, height, width)
        labels = rng.integers(0, rng.integers(1, num_classes + 1), size=shape)
        ignored = int(rng.choice([IGNORED, -1]))
        labels[rng.random(shape) < rng.choice([0, 0.3, 0.9, 1])] = ignored
        loss = class_dice_loss(torch.from_numpy(logits), torch.from_numpy(labels), ignored)
        assert loss.shape == () and loss.dtype == torch.float32
        expected = slow_dice(logits, labels, ignored)
        assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("label", [0, IGNORED])
def test_nothing_to_learn_is_not_negative(label):
    """Of one class, and without a label, a log would show -0."""
    logits = torch.randn(1, 1 if label == 0 else 3, 2, 2)
    for loss in cross_entropy_and_dice(logits, torch.full((1, 2, 2), label)):
        assert not torch.signbit(loss)


@pytest.mark.parametrize("rows", [4, 5, 100])
@pytest.mark.parametrize("size", [(7, 6), (2, 2), (5, 3), (9, 9)])
def test_both_losses_and_their_gradients_are_those_of_autograd(size, rows, monkeypatch):
    """Torch's own resizing, cross entropy and a softmax: ignored pixels, absent classes, any
    weights; the labels some rows at a time."""
    monkeypatch.setattr(strips, "_ON_CPU", rows * 2 * 5 * 6)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, *size, generator=generator, dtype=torch.float64) * 4
    labels = torch.randint(0, 4, (2, 7, 6), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORED
    weights = torch.rand(2, generator=generator, dtype=torch.float64)

    def slowly(logits):
        logits = F.interpolate(logits, (7, 6), mode="bilinear", align_corners=False)
        valid = labels != IGNORED
        p = logits.softmax(1).movedim(1, -1)[valid]
        t = F.one_hot(labels[valid], 5)
        dice = 1 - 2 * (p * t).sum(0) / (p.square().sum(0) + t.sum(0) + 2e-3)
        cross_entropy = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return cross_entropy, dice[t.any(0)].mean()

    results = []
    for losses in (slowly, lambda z: cross_entropy_and_dice(z, labels, IGNORED)):
        z = logits.clone().requires_grad_()
        found = torch.stack(losses(z))
        (found * weights).sum().backward()
        results.append((found.detach(), z.grad))
    for expected, result in zip(*results):
        torch.testing.assert_close(result, expected)


def test_autocast_around_the_backward_pass_rounds_nothing():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator, requires_grad=True)
    labels = torch.randint(0, 5, (2, 24, 28), generator=generator)
    gradients = []
    for enabled in (False, True):
        loss = sum(cross_entropy_and_dice(logits, labels))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients.append(torch.autograd.grad(loss, logits)[0])
    assert torch.equal(*gradients)


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    """99 pixels are right and one is wrong: half of the loss of all being wrong, not 1 / 100."""
    labels = torch.zeros(1, 10, 10, dtype=torch.long)
    labels[0, 0, 0] = 1
    logits = torch.zeros(1, 3, 10, 10)
    logits[:, 0] = 30
    right = 1 - 2 * 99 / (100 + 99 + 0.002)
    assert float(class_dice_loss(logits, labels)) == pytest.approx((right + 1) / 2, abs=1e-5)


def test_ignored_pixels_add_nothing():
    """Neither to the loss nor to the gradient, whatever is predicted there."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 6, generator=generator)
    labels = torch.randint(0, 3, (2, 6, 6), generator=generator)
    labels[:, :2], labels[1] = IGNORED, IGNORED
    loss = class_dice_loss(logits, labels)
    changed = torch.where((labels == IGNORED)[:, None], -7 * logits, logits).requires_grad_()
    other = class_dice_loss(changed, labels)
    assert float(other.detach()) == pytest.approx(float(loss), rel=1e-6)
    other.backward()
    learned = changed.grad.abs().sum(1) > 0
    assert torch.equal(learned, labels != IGNORED)


@pytest.mark.parametrize("ignored", [IGNORED, 3, -1])
def test_no_label_at_all(ignored):
    logits = torch.randn(2, 5, 3, 4, requires_grad=True)
    loss = class_dice_loss(logits, torch.full((2, 3, 4), ignored), ignored)
    assert float(loss.detach()) == 0
    loss.backward()
    assert torch.isfinite(logits.grad).all() and not logits.grad.any()


def test_saturated_logits():
    """Sure and right is 0, sure and wrong is 1; no gradient is lost to a number that is none."""
    labels = torch.tensor([[[0, 1], [1, 0]]])
    right = F.one_hot(labels, 2).permute(0, 3, 1, 2) * 200.0
    for logits, expected in ((right, 0), (-right, 1)):
        logits = logits.clone().requires_grad_()
        loss = class_dice_loss(logits, labels)
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-3)
        loss.backward()
        assert torch.isfinite(logits.grad).all()


# --- in a head -----------------------------------------------------------------------------------


def build(weight=None, num_stages=2, **auxiliary):
    cfg = small_config("SemSegFCNHead")
    cfg.MODEL.KNET.NUM_STAGES = num_stages
    cfg.MODEL.KNET.SEMANTIC.DROPOUT = 0.0
    for key, value in auxiliary.items():
        cfg.MODEL.KNET.SEMANTIC[key] = value
    if weight is not None:
        cfg.MODEL.KNET.SEMANTIC.DICE_WEIGHT = weight
    torch.manual_seed(0)
    return build_model(cfg).train()


@pytest.mark.parametrize("num_stages", [0, 2])
def test_every_stage_has_one(num_stages):
    """With its weight, on that stage's logits; the other losses are as without it."""
    batch = training_batch()
    stages = range(num_stages + 1)
    plain = build(num_stages=num_stages)(batch)
    assert list(plain) == [f"loss_semantic_{s}" for s in stages]
    model = build(1.5, num_stages)
    seen = {}
    predict = model.sem_seg_head.predict
    model.sem_seg_head.predict = lambda *args: seen.setdefault("stages", predict(*args))
    losses = model(batch)
    assert set(losses) == {*plain, *(f"loss_dice_{s}" for s in stages)}
    labels = torch.stack([x["sem_seg"] for x in batch])
    for s, stage in enumerate(seen["stages"]):
        assert losses[f"loss_semantic_{s}"].item() == pytest.approx(
            plain[f"loss_semantic_{s}"].item()
        )
        logits = F.interpolate(
            stage.mask_logits.detach(), labels.shape[1:], mode="bilinear", align_corners=False
        )
        expected = 1.5 * float(class_dice_loss(logits, labels))
        assert losses[f"loss_dice_{s}"].item() == pytest.approx(expected, rel=1e-5)
        assert 0.1 < expected < 1.5
    sum(loss for name, loss in losses.items() if "dice" in name).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_weight_0_leaves_it_out():
    assert build(0.0)(training_batch()).keys() == build()(training_batch()).keys()
    auxiliary = {"AUXILIARY_IN_FEATURE": "res4", "AUXILIARY_CHANNELS": 8}
    losses = build(1.0, **auxiliary)(training_batch())
    assert sum("dice" in name for name in losses) == 3  # the auxiliary head has none


def test_a_batch_without_labels():
    batch = training_batch(ignored=1.1)
    assert all((x["sem_seg"] == IGNORED).all() for x in batch)
    model = build(1.0)
    losses = model(batch)
    assert all(float(loss.detach()) == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_another_ignore_value():
    """The head's: the same labels with another number for "none" give the same losses."""
    cfg = small_config("SemSegFCNHead")
    cfg.MODEL.KNET.SEMANTIC.DICE_WEIGHT, cfg.MODEL.KNET.SEMANTIC.DROPOUT = 1.0, 0.0
    results = []
    for ignored in (IGNORED, 77):
        cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = ignored
        batch = training_batch(ignored=0.5)
        for x in batch:
            x["sem_seg"][x["sem_seg"] == IGNORED] = ignored
        torch.manual_seed(0)
        results.append(build_model(cfg).train()(batch))
    for name, loss in results[0].items():
        assert torch.equal(loss, results[1][name])
