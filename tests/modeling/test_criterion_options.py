"""Losses of the semantic branch by choice, and masks that the criterion resizes itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from knet.modeling.criterion import SEMANTIC_LOSSES, Criterion
from knet.modeling.matcher import Matcher
from knet.modeling.structures import Points

from .. import slow_reference as slow
from ..host_reads import HostReads
from .semantic.test_dice_loss import slow_dice
from .test_criterion import Case, random_stages, random_targets

# --- the semantic branch -------------------------------------------------------------------------


def criterion(semantic_loss, weight=1.0, dice_weight=0.0) -> Criterion:
    return Criterion(
        matcher=Matcher(),
        num_kernels=3,
        num_thing_classes=2,
        semantic_weight=weight,
        semantic_loss=semantic_loss,
        semantic_dice_weight=dice_weight,
    )


def loss_alone(made: Criterion, logits, label):
    losses = made.semantic_losses(logits, label)
    assert list(losses) == ["loss_semantic"]
    return losses["loss_semantic"]


def random_labels(rng):
    """Logits of any size, and a class or none for each cell."""
    batch, num_classes, height, width = (int(side) for side in rng.integers(1, 5, size=4))
    logits = torch.from_numpy(rng.normal(size=(batch, num_classes, height, width)) * 3).float()
    label = rng.integers(-1, num_classes, size=(batch, height, width))
    label[rng.random(label.shape) < rng.choice([0, 0.5])] = slow.NONE
    return logits.requires_grad_(), torch.from_numpy(label)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_cross_entropy_of_the_semantic_branch(weight):
    """Cell by cell, mean over the labelled ones; the others add nothing and learn nothing."""
    rng = np.random.default_rng(1)
    without_label = 0
    for _ in range(40):
        logits, label = random_labels(rng)
        expected, labelled = 0.0, 0
        for image in range(len(label)):
            for y, x in slow.pixels_of(label[image]):
                wanted = label[image, y, x]
                if wanted != slow.NONE:
                    column = logits[image, :, y, x].detach().double()
                    expected += float(F.cross_entropy(column[None], wanted[None]))
                    labelled += 1
        loss = loss_alone(criterion("cross_entropy", weight), logits, label)
        assert loss.shape == () and loss.dtype == torch.float32
        expected *= weight / max(labelled, 1)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-7)
        loss.backward()
        assert torch.isfinite(logits.grad).all()
        learned = (logits.grad != 0).any(1)
        assert not learned[label == slow.NONE].any()
        if logits.shape[1] > 1:  # one class alone is sure
            assert learned[label != slow.NONE].all()
        without_label += labelled == 0
    assert without_label > 0


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
def test_no_labelled_cell(kind):
    """Cross entropy has nothing to say; of the focal loss every class is absent."""
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = loss_alone(criterion(kind), logits, torch.full((2, 3, 3), slow.NONE))
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (float(loss.detach()) == 0) == (not logits.grad.any()) == (kind == "cross_entropy")


def test_the_default_is_the_published_loss():
    rng = np.random.default_rng(2)
    plain = Criterion(matcher=Matcher(), num_kernels=3, num_thing_classes=2)
    for _ in range(20):
        logits, label = random_labels(rng)
        expected = slow.semantic_loss(logits.detach().numpy(), label.numpy())
        for each in (plain, criterion("focal")):
            loss = float(loss_alone(each, logits, label).detach())
            assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
def test_dice_loss_beside_it(kind):
    """Over classes, of the labelled cells; the other loss is as without it."""
    rng = np.random.default_rng(5)
    without_label = 0
    for _ in range(30):
        logits, label = random_labels(rng)
        losses = criterion(kind, 0.5, 1.5).semantic_losses(logits, label)
        assert list(losses) == ["loss_semantic", "loss_semantic_dice"]
        alone = loss_alone(criterion(kind, 0.5), logits, label)
        torch.testing.assert_close(losses["loss_semantic"], alone)
        expected = 1.5 * slow_dice(logits.detach().numpy(), label.numpy(), slow.NONE)
        dice = losses["loss_semantic_dice"]
        assert float(dice.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        dice.backward()
        assert torch.isfinite(logits.grad).all()
        assert not (logits.grad != 0).any(1)[label == slow.NONE].any()
        without_label += bool((label == slow.NONE).all())
    assert without_label > 0


@pytest.mark.parametrize("with_points", [False, True])
def test_only_the_semantic_losses_are_others(with_points, monkeypatch):
    """And the device waits no more often."""
    rng = np.random.default_rng(3)
    targets = random_targets(rng, 2, (4, 6), 2, 2, 3)
    case = Case(criterion("focal"), random_stages(rng, 2, 2, (4, 6), 5, 4), None, targets)
    case = case._replace(semantic_logits=torch.randn(2, 4, 4, 6))
    if with_points:
        add_points(rng, case.stages, 2, 3, (4, 6), 4)
    before = case.losses()
    reads = HostReads(monkeypatch)
    with reads:
        after = case._replace(criterion=criterion("cross_entropy", dice_weight=2.0)).losses()
    assert dict(reads.count) == {"cpu": 1, "numpy": 1}
    assert after.keys() == before.keys() | {"loss_semantic_dice"}
    for name, loss in before.items():
        assert torch.equal(loss, after[name]) == (name != "loss_semantic")


@pytest.mark.parametrize("kind, dice_weight", [("focal", 0.0), ("cross_entropy", 0.7)])
def test_the_keys(tiny_config, kind, dice_weight):
    loss = tiny_config.MODEL.KNET.LOSS
    loss.SEMANTIC, loss.SEMANTIC_DICE_WEIGHT = kind, dice_weight
    made = build_model(tiny_config).criterion
    assert made.semantic_loss_of_cells is SEMANTIC_LOSSES[kind]
    assert made.semantic_dice_weight == dice_weight


def test_without_stuff_the_published_losses_whatever_the_keys(tiny_config):
    """Most cells have no label there: only the focal loss tells them from things."""
    knet = tiny_config.MODEL.KNET
    knet.NUM_STUFF_CLASSES, knet.TEST.PANOPTIC_ON, knet.TEST.SEMANTIC_ON = 0, False, False
    knet.LOSS.SEMANTIC, knet.LOSS.SEMANTIC_DICE_WEIGHT = "cross_entropy", 1.0
    made = build_model(tiny_config).criterion
    assert made.semantic_loss_of_cells is SEMANTIC_LOSSES["focal"]
    assert made.semantic_dice_weight == 0


# --- masks of another size -----------------------------------------------------------------------


def add_points(rng, stages, batch, num_kernels, size, num_classes):
    """Kernels that start at random cells, with class logits of stage 0."""
    stages[0].points = Points(
        logits=torch.from_numpy(rng.normal(size=(batch, 2, *size))).float().requires_grad_(),
        cells=torch.from_numpy(rng.integers(0, size[0] * size[1], size=(batch, num_kernels))),
        votes=torch.zeros(batch, 2, *size),
    )
    stages[0].class_logits = torch.randn(batch, stages[0].mask_logits.shape[1], num_classes)


def two_sizes(rng, *, factor, num_stuff, rank_weight, max_things, with_points):
    """A case at the neck's stride, and the same one with masks at the mask stride."""
    batch, size, num_classes = 2, (3, 4), 2 + num_stuff
    fine = tuple(side * factor for side in size)
    made = Criterion(matcher=Matcher(), num_kernels=4, num_thing_classes=2, rank_weight=rank_weight)
    stages = random_stages(rng, 2, batch, size, 4 + num_stuff, num_classes)
    if with_points:
        add_points(rng, stages, batch, 4, size, num_classes)
    targets = random_targets(rng, batch, fine, 2, num_stuff, max_things)
    semantic_logits = torch.randn(batch, num_classes, *size, requires_grad=True)

    def enlarged(logits):
        return F.interpolate(logits, fine, mode="bilinear", align_corners=False)

    coarse = Case(made, stages, semantic_logits, targets)
    resized = [replace(s, mask_logits=enlarged(s.mask_logits)) for s in stages]
    return coarse, Case(made, resized, enlarged(semantic_logits), targets)


def losses_and_gradients(case, leaves):
    losses = case.losses()
    gradients = torch.autograd.grad(sum(losses.values()), leaves)
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("with_points", [False, True])
@pytest.mark.parametrize("num_stuff", [0, 2])
@pytest.mark.parametrize("rank_weight", [0.0, 0.1])
@pytest.mark.parametrize("max_things", [0, 6])
def test_masks_at_the_necks_stride(with_points, num_stuff, rank_weight, max_things):
    """Losses and gradients are those of masks that were resized before."""
    rng = np.random.default_rng((max_things, num_stuff, with_points))
    options = {"num_stuff": num_stuff, "rank_weight": rank_weight, "with_points": with_points}
    for round_ in range(6):
        if max_things == 0 and round_ == 5:  # nor any stuff
            options["num_stuff"] = 0
        coarse, fine = two_sizes(rng, factor=1 + round_ % 4, max_things=max_things, **options)
        leaves = [stage.mask_logits for stage in coarse.stages]
        leaves += [stage.class_logits for stage in coarse.stages[1:]] + [coarse.semantic_logits]
        if with_points:
            leaves.append(coarse.stages[0].points.logits)
        found, found_gradients = losses_and_gradients(coarse, leaves)
        expected, expected_gradients = losses_and_gradients(fine, leaves)
        assert found.keys() == expected.keys()
        assert any("rank" in name for name in found) == (rank_weight > 0)
        for name, loss in expected.items():
            torch.testing.assert_close(found[name], loss, msg=name)
        for gradient, wanted in zip(found_gradients, expected_gradients):
            assert torch.isfinite(gradient).all()
            torch.testing.assert_close(gradient, wanted)
        masks_learn = any(gradient.any() for gradient in found_gradients[:3])
        positive = sum(fine.targets.num_things) > 0 or bool(fine.targets.stuff_present.any())
        assert masks_learn <= positive


def test_the_predictions_stay_at_their_size():
    """The criterion resizes for itself; what it was given is as it was."""
    rng = np.random.default_rng(4)
    coarse, _ = two_sizes(
        rng, factor=2, num_stuff=2, rank_weight=0.1, max_things=3, with_points=False
    )
    before = [stage.mask_logits for stage in coarse.stages]
    coarse.losses()
    for stage, logits in zip(coarse.stages, before):
        assert stage.mask_logits is logits and logits.shape[-2:] == (3, 4)
