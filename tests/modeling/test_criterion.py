"""Losses and their targets against the loops of ``slow_reference``, and training of tiny models."""

from typing import List, NamedTuple

import numpy as np
import pytest
import torch

from knet.modeling import criterion as criterion_module
from knet.modeling.cell_labels import semantic_target, top_matched_kernel, top_stuff_class
from knet.modeling.criterion import Criterion
from knet.modeling.matcher import Matcher
from knet.modeling.structures import StagePrediction, Targets

from .. import slow_reference as slow
from ..host_reads import HostReads

WEIGHTS = {"class": 2.0, "mask": 1.0, "dice": 4.0, "rank": 0.1, "semantic": 1.0}


# --- random predictions and targets --------------------------------------------------------------


class Case(NamedTuple):
    """A batch as the criterion gets it, and what it was made from."""

    criterion: Criterion
    stages: List[StagePrediction]
    semantic_logits: torch.Tensor
    targets: Targets

    @property
    def num_kernels(self) -> int:
        return self.criterion.num_kernels

    @property
    def num_thing_classes(self) -> int:
        return self.criterion.num_thing_classes

    def losses(self):
        return self.criterion(self.stages, self.semantic_logits, self.targets)


def random_targets(rng, batch, size, num_thing_classes, num_stuff, max_things) -> Targets:
    """Soft masks that may be empty, full, equal or overlap; any image may be without anything."""
    num_things = [int(rng.integers(0, max_things + 1)) for _ in range(batch)]
    padded = max(1, *num_things)
    masks = rng.integers(0, 5, size=(batch, padded, *size)) / 4
    masks *= rng.random(masks.shape) < rng.choice([0.3, 0.8])
    masks *= rng.random((batch, padded, 1, 1)) > 0.15
    if padded > 1 and rng.random() < 0.3:
        masks[:, 1] = masks[:, 0]
    classes = rng.integers(0, num_thing_classes, size=(batch, padded))
    for image, count in enumerate(num_things):
        masks[image, count:], classes[image, count:] = 0, 0
    present = rng.random((batch, num_stuff)) < rng.choice([0.0, 0.6, 1.0])
    stuff = rng.integers(0, 5, size=(batch, num_stuff, *size)) / 4
    stuff *= rng.random(stuff.shape) < 0.4
    stuff *= rng.random((batch, num_stuff, 1, 1)) > 0.2  # present, yet nothing left of it
    stuff *= present[:, :, None, None]
    return Targets(
        thing_masks=torch.from_numpy(masks).float(),
        thing_classes=torch.from_numpy(classes),
        num_things=num_things,
        stuff_masks=torch.from_numpy(stuff).float(),
        stuff_present=torch.from_numpy(present),
    )


def random_stages(rng, num_stages, batch, size, num_kernels, num_classes, scale=2.0):
    def logits(*shape):
        values = np.clip(rng.normal(size=shape) * scale, -8, 8)
        return torch.from_numpy(values).float().requires_grad_()

    return [
        StagePrediction(
            kernels=torch.zeros(batch, num_kernels, 1),
            mask_logits=logits(batch, num_kernels, *size),
            class_logits=logits(batch, num_kernels, num_classes) if stage else None,
        )
        for stage in range(num_stages + 1)
    ]


def random_case(rng, max_things=6) -> Case:
    """Of any size: 1 x 1 maps, one kernel, no stuff, no object, more objects than kernels."""
    batch, num_kernels, num_things = (int(rng.integers(1, high)) for high in (4, 6, 4))
    num_stuff, num_stages = int(rng.integers(0, 4)), int(rng.integers(1, 4))
    size = tuple(int(side) for side in rng.integers(1, 5, size=2))
    num_classes = num_things + num_stuff
    return Case(
        criterion=Criterion(
            matcher=Matcher(), num_kernels=num_kernels, num_thing_classes=num_things
        ),
        stages=random_stages(rng, num_stages, batch, size, num_kernels + num_stuff, num_classes),
        semantic_logits=torch.from_numpy(rng.normal(size=(batch, num_classes, *size)))
        .float()
        .requires_grad_(),
        targets=random_targets(rng, batch, size, num_things, num_stuff, max_things),
    )


def pairs_of_images(pairs, batch):
    """``Pairs`` -> per image a list of (kernel, target)."""
    found = [[] for _ in range(batch)]
    for image, kernel, target in zip(*(side.tolist() for side in vars(pairs).values())):
        found[image].append((kernel, target))
    return found


class PlainTargets:
    """Targets as lists of numpy arrays, padding taken off."""

    def __init__(self, targets: Targets):
        self.thing_masks = [
            list(masks[:count].numpy())
            for masks, count in zip(targets.thing_masks, targets.num_things)
        ]
        self.thing_classes = [
            classes[:count].tolist()
            for classes, count in zip(targets.thing_classes, targets.num_things)
        ]
        self.stuff_masks = [list(masks.numpy()) for masks in targets.stuff_masks]
        self.stuff_present = targets.stuff_present.tolist()
        self.size = tuple(targets.thing_masks.shape[-2:])
        self.batch = len(self.thing_masks)

    def rank_targets(self, pairs, num_kernels, with_stuff: bool):
        """Per image; a map of "none" where an image has neither things nor stuff classes."""
        return [
            slow.rank_target(
                things, matched, stuff if with_stuff else [], present if with_stuff else [], number
            )
            if things or (stuff and with_stuff)
            else np.full(self.size, slow.NONE)
            for things, matched, stuff, present, number in zip(
                self.thing_masks,
                pairs,
                self.stuff_masks,
                self.stuff_present,
                [num_kernels] * self.batch,
            )
        ]

    def semantic_targets(self, pairs, num_thing_classes):
        return [
            slow.semantic_target(things, classes, matched, stuff, num_thing_classes)
            if things or stuff
            else np.full(self.size, slow.NONE)
            for things, classes, matched, stuff in zip(
                self.thing_masks, self.thing_classes, pairs, self.stuff_masks
            )
        ]


# --- matching and targets ------------------------------------------------------------------------


def check_match(case: Case):
    """Every stage's pairs are the cheapest on the stage before; returns them per stage, image."""
    matched, stuff = case.criterion.match(case.stages, case.targets)
    plain = PlainTargets(case.targets)
    assert len(matched) == len(case.stages) - 1
    result = []
    for pairs, stage in zip(matched, case.stages):
        per_image = pairs_of_images(pairs, plain.batch)
        result.append(per_image)
        for image, chosen in enumerate(per_image):
            classes = plain.thing_classes[image]
            cost = np.zeros((case.num_kernels, len(classes)))
            for kernel in range(case.num_kernels):
                for thing, label in enumerate(classes):
                    logits = None
                    if stage.class_logits is not None:
                        logits = stage.class_logits[image, kernel].tolist()
                    cost[kernel, thing] = slow.matching_cost(
                        stage.mask_logits[image, kernel].detach().numpy(),
                        logits,
                        plain.thing_masks[image][thing],
                        label,
                    )
            assert len(chosen) == min(cost.shape)
            _, total = slow.assignment_value(cost, chosen)
            assert total == pytest.approx(slow.best_assignment_value(cost)[1], abs=2e-5)
    expected_stuff = [
        [(case.num_kernels + c, c) for c, present in enumerate(image) if present]
        for image in plain.stuff_present
    ]
    assert pairs_of_images(stuff, plain.batch) == expected_stuff
    return result


@pytest.mark.parametrize("seed", range(10))
def test_rank_and_semantic_target(seed, monkeypatch):
    """What the rank loss of every stage is asked to put on top, and the semantic label map."""
    rng = np.random.default_rng(seed)
    wanted = []
    rank_loss = criterion_module.rank_loss

    def recording_rank_loss(mask_logits, top_kernel, count):
        wanted.append(top_kernel)
        return rank_loss(mask_logits, top_kernel, count)

    monkeypatch.setattr(criterion_module, "rank_loss", recording_rank_loss)
    for _ in range(100):
        case = random_case(rng)
        wanted.clear()
        case.losses()
        matched, _ = case.criterion.match(case.stages, case.targets)
        plain = PlainTargets(case.targets)
        pairs = [pairs_of_images(p, plain.batch) for p in matched]
        assert len(wanted) == len(case.stages)
        for stage, top_kernel in enumerate(wanted):
            of_stage = pairs[max(stage - 1, 0)]
            expected = plain.rank_targets(of_stage, case.num_kernels, with_stuff=stage > 0)
            assert np.array_equal(top_kernel.numpy(), np.stack(expected))

        class_of_kernel = torch.zeros(plain.batch, case.num_kernels, dtype=torch.long)
        things = matched[0]
        class_of_kernel[things.image, things.kernel] = case.targets.thing_classes[
            things.image, things.target
        ]
        top_stuff = top_stuff_class(case.targets)
        label = semantic_target(
            top_matched_kernel(things, case.targets),
            top_stuff,
            class_of_kernel,
            case.num_thing_classes,
        )
        expected = plain.semantic_targets(pairs[0], case.num_thing_classes)
        assert np.array_equal(label.numpy(), np.stack(expected))


# --- losses --------------------------------------------------------------------------------------


def slow_losses(case: Case, pairs):
    """All losses, with their weights; ``pairs`` per update stage and image."""
    plain = PlainTargets(case.targets)
    expected = {}
    for index, stage in enumerate(case.stages):
        of_stage = pairs[max(index - 1, 0)]
        masks = stage.mask_logits.detach().numpy()
        present = plain.stuff_present
        if index == 0:
            masks = masks[:, : case.num_kernels]
            present = [[] for _ in present]
            labels = plain.semantic_targets(of_stage, case.num_thing_classes)
            expected["loss_semantic"] = WEIGHTS["semantic"] * slow.semantic_loss(
                case.semantic_logits.detach().numpy(), labels
            )
        else:
            expected[f"loss_class_{index}"] = WEIGHTS["class"] * slow.class_loss(
                stage.class_logits.detach().numpy(),
                of_stage,
                plain.thing_classes,
                plain.stuff_present,
                case.num_kernels,
                case.num_thing_classes,
            )
        positive = slow.positives(
            masks, of_stage, plain.thing_masks, plain.stuff_masks, present, case.num_kernels
        )
        expected[f"loss_mask_{index}"] = WEIGHTS["mask"] * slow.mask_loss(positive)
        expected[f"loss_dice_{index}"] = WEIGHTS["dice"] * slow.dice_loss(positive)
        if case.criterion.rank_weight:
            targets = plain.rank_targets(of_stage, case.num_kernels, with_stuff=index > 0)
            expected[f"loss_rank_{index}"] = WEIGHTS["rank"] * slow.rank_loss(masks, targets)
    return expected


def compare_losses(case: Case) -> float:
    """Largest relative deviation of one batch's losses, after its matching was checked."""
    losses = case.losses()
    expected = slow_losses(case, check_match(case))
    assert losses.keys() == expected.keys()
    deviation = 0.0
    for name, value in expected.items():
        assert losses[name].shape == () and losses[name].dtype == torch.float32
        deviation = max(deviation, abs(float(losses[name].detach()) - value) / max(value, 1e-2))
    return deviation


@pytest.mark.parametrize("seed", range(8))
def test_losses(seed):
    rng = np.random.default_rng((1, seed))
    for _ in range(25):
        assert compare_losses(random_case(rng)) < 1e-5


def test_losses_of_an_instance_model():
    """No stuff and no rank loss."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        targets = random_targets(rng, 2, (4, 3), 2, 0, 3)
        criterion = Criterion(
            matcher=Matcher(), num_kernels=4, num_thing_classes=2, rank_weight=0.0
        )
        stages = random_stages(rng, 2, 2, (4, 3), 4, 2)
        case = Case(criterion, stages, torch.randn(2, 2, 4, 3, requires_grad=True), targets)
        assert compare_losses(case) < 1e-5
        assert not any("rank" in name for name in case.losses())


@pytest.mark.parametrize("stuff", [245, 290])
def test_stuff_kernels_from_255_on(stuff):
    """Kernel 255 is a kernel like the others, not "ignored"; nor does any number overflow."""
    rng = np.random.default_rng(8)
    targets = random_targets(rng, 1, (2, 2), 1, 300, 0)
    targets.stuff_masks.zero_()
    targets.stuff_masks[:, stuff] = 1  # behind 10 instance kernels
    targets.stuff_present[:] = False
    targets.stuff_present[:, stuff] = True
    criterion = Criterion(matcher=Matcher(), num_kernels=10, num_thing_classes=1)
    stages = random_stages(rng, 1, 1, (2, 2), 310, 301)
    case = Case(criterion, stages, torch.randn(1, 301, 2, 2), targets)
    assert compare_losses(case) < 1e-5
    assert case.losses()["loss_rank_1"] > 0.1


@pytest.mark.parametrize("kernel", [255, 290])
def test_instance_kernels_from_255_on(kernel):
    rng = np.random.default_rng(9)
    targets = random_targets(rng, 1, (2, 2), 1, 1, 0)
    targets.num_things = [1]
    targets.thing_masks = torch.ones(1, 1, 2, 2)
    criterion = Criterion(matcher=Matcher(), num_kernels=300, num_thing_classes=1)
    stages = random_stages(rng, 1, 1, (2, 2), 301, 2)
    with torch.no_grad():
        stages[0].mask_logits[0, kernel] = 5  # the best
    case = Case(criterion, stages, torch.randn(1, 2, 2, 2), targets)
    assert check_match(case) == [[[(kernel, 0)]]]
    assert compare_losses(case) < 1e-5


def test_class_normaliser_is_averaged_over_workers(monkeypatch):
    """Only the class loss's: here the other worker has 6 positive kernels more."""
    rng = np.random.default_rng(9)
    case = random_case(rng)
    alone = case.losses()
    matched, stuff = case.criterion.match(case.stages, case.targets)
    here = len(matched[0].image) + len(stuff.image)
    assert here > 0

    def all_reduce(tensor):
        assert float(tensor) == here
        tensor += here + 6

    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    together = case.losses()
    for name, loss in alone.items():
        factor = here / (here + 3) if "class" in name else 1.0
        expected = loss.item() * factor
        assert together[name].item() == pytest.approx(expected, rel=1e-6)


def test_permuted_objects():
    """The order of the objects in the ground truth means nothing."""
    rng = np.random.default_rng(10)
    for _ in range(50):
        case = random_case(rng)
        masks, classes = case.targets.thing_masks, case.targets.thing_classes
        # distinct masks: between equal ones, which kernel learns which class is free
        masks.copy_(torch.from_numpy(rng.random(masks.shape)))
        for image, count in enumerate(case.targets.num_things):
            masks[image, count:] = 0
        before = case.losses()
        for image, count in enumerate(case.targets.num_things):
            order = torch.from_numpy(rng.permutation(count))
            masks[image, :count] = masks[image, order]
            classes[image, :count] = classes[image, order]
        for name, loss in case.losses().items():
            assert float(loss.detach()) == pytest.approx(float(before[name].detach()), rel=1e-5)


def test_no_object_at_all():
    """Mask, dice and rank are zeros that carry gradients; class and semantic loss remain."""
    for num_stuff in (0, 2):
        rng = np.random.default_rng(11)
        criterion = Criterion(matcher=Matcher(), num_kernels=3, num_thing_classes=2)
        targets = random_targets(rng, 2, (3, 4), 2, num_stuff, 0)
        targets.stuff_masks.zero_()
        targets.stuff_present.zero_()
        stages = random_stages(rng, 2, 2, (3, 4), 3 + num_stuff, 2 + num_stuff)
        semantic_logits = torch.randn(2, 2 + num_stuff, 3, 4, requires_grad=True)
        case = Case(criterion, stages, semantic_logits, targets)
        assert compare_losses(case) < 1e-5
        losses = case.losses()
        for name, loss in losses.items():
            assert torch.isfinite(loss) and loss.requires_grad
            empty = any(part in name for part in ("mask", "dice", "rank"))
            assert (float(loss.detach()) == 0) == empty
        sum(losses.values()).backward()
        for stage in stages:
            assert stage.mask_logits.grad is not None and not stage.mask_logits.grad.any()
        assert all(stage.class_logits.grad.any() for stage in stages[1:])
        assert semantic_logits.grad.any()


def test_more_objects_than_kernels():
    """As many as there are kernels are matched; the others have no loss and are not painted."""
    rng = np.random.default_rng(12)
    for _ in range(20):
        criterion = Criterion(matcher=Matcher(), num_kernels=2, num_thing_classes=3)
        targets = random_targets(rng, 2, (3, 3), 3, 1, 5)
        targets.num_things = [5, 5]
        targets.thing_masks = torch.eye(9)[:5].reshape(1, 5, 3, 3).repeat(2, 1, 1, 1)
        targets.thing_classes = torch.tensor([[0, 1, 2, 0, 1]] * 2)
        stages = random_stages(rng, 2, 2, (3, 3), 3, 4)
        case = Case(criterion, stages, torch.randn(2, 4, 3, 3), targets)
        assert all(len(image) == 2 for stage in check_match(case) for image in stage)
        assert compare_losses(case) < 1e-5


def test_nan_in_one_kernels_mask():
    """The matcher goes on and leaves that kernel out; a loss that is no number stays visible."""
    rng = np.random.default_rng(13)
    criterion = Criterion(matcher=Matcher(), num_kernels=4, num_thing_classes=2)
    targets = random_targets(rng, 2, (3, 3), 2, 1, 3)
    targets.num_things = [3, 3]
    targets.thing_masks = torch.eye(9)[:3].reshape(1, 3, 3, 3).repeat(2, 1, 1, 1)
    targets.thing_classes = torch.zeros(2, 3, dtype=torch.long)
    stages = random_stages(rng, 2, 2, (3, 3), 5, 3)
    with torch.no_grad():
        stages[0].mask_logits[0, 1, 2, 2] = float("nan")
    matched, _ = criterion.match(stages, targets)
    first = pairs_of_images(matched[0], 2)[0]
    assert [kernel for kernel, _ in first] == [0, 2, 3]
    losses = criterion(stages, torch.randn(2, 3, 3, 3), targets)
    assert torch.isfinite(losses["loss_mask_0"])
    with torch.no_grad():
        stages[0].mask_logits[:] = float("nan")
    losses = criterion(stages, torch.randn(2, 3, 3, 3), targets)
    assert torch.isnan(losses["loss_mask_0"]) and torch.isfinite(losses["loss_mask_2"])


# --- what waits for the device -------------------------------------------------------------------


def test_host_reads_are_seen(monkeypatch):
    """The counter counts: each of these reads something."""
    reads = HostReads(monkeypatch)
    tensor = torch.tensor([1.0, 2.0, 0.0])
    with reads:
        tensor.cpu().numpy()
        tensor.tolist()
        tensor.sum().item()
        bool(tensor.any())
        tensor[tensor > 0]
        tensor.nonzero()
        tensor[tensor > 0] = 1.0
        torch.bincount(tensor.long())
        float(tensor[0])
    for name in ("cpu", "numpy", "tolist", "item", "__bool__", "__float__", "index", "nonzero"):
        assert reads.count[name] == 1, name
    assert reads.count["bincount"] == 1
    assert reads.count["index_put_"] + reads.count["_index_put_impl_"] >= 1


@pytest.mark.parametrize("num_things", [0, 3])
def test_one_copy_to_the_host_for_all_matching(num_things, monkeypatch):
    """Two images, three stages, matched and not: one copy, and nothing else waits."""
    rng = np.random.default_rng(14)
    criterion = Criterion(matcher=Matcher(), num_kernels=4, num_thing_classes=2)
    targets = random_targets(rng, 2, (4, 5), 2, 3, num_things)
    stages = random_stages(rng, 3, 2, (4, 5), 7, 5)
    reads = HostReads(monkeypatch)
    with reads:
        losses = criterion(stages, torch.randn(2, 5, 4, 5), targets)
    assert len(losses) == 16
    assert dict(reads.count) == {"cpu": 1, "numpy": 1}
