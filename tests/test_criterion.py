"""Losses and their targets against the loops of ``slow_reference``, and training of tiny models."""

import copy
from collections import Counter
from typing import List, NamedTuple, Sequence

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Instances
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from knet import criterion as criterion_module
from knet.criterion import Criterion, semantic_target, top_matched_kernel, top_stuff_class
from knet.data.class_layout import ClassLayout
from knet.inference import Postprocessor
from knet.kernel_head import KernelHead, group_features
from knet.kernel_update import KernelUpdateHead
from knet.matcher import Matcher
from knet.meta_arch import KNet
from knet.neck import SemanticFPN
from knet.structures import StagePrediction, Targets
from knet.targets import TargetBuilder

from . import slow_reference as slow

WEIGHTS = {"class": 2.0, "mask": 1.0, "dice": 4.0, "rank": 0.1, "semantic": 1.0}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The tensors are tiny: a second thread would only wait, and on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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

    def recording_rank_loss(mask_logits, top_kernel):
        wanted.append(top_kernel)
        return rank_loss(mask_logits, top_kernel)

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
        stuff = torch.where(top_stuff >= 0, top_stuff + case.num_thing_classes, -1)
        label = semantic_target(top_matched_kernel(things, case.targets), stuff, class_of_kernel)
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

    monkeypatch.setattr(criterion_module.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    together = case.losses()
    for name, loss in alone.items():
        factor = here / (here + 3) if "class" in name else 1.0
        assert float(together[name]) == pytest.approx(float(loss) * factor, rel=1e-6)


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


class HostReads(TorchDispatchMode):
    """Counts what copies from a device to the host, or makes the host wait for a value.

    Conversions are counted by name, as on a CPU they run no operator.
    """

    METHODS = ("cpu", "tolist", "item", "numpy", "__array__", "__bool__", "__int__", "__float__")
    # the size of the result, or the result itself, depends on values
    OPERATORS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "is_nonzero",
        "bincount",
    )
    OPERATORS += ("_unique2", "unique_dim", "unique_consecutive", "repeat_interleave")

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = Counter()
        for name in self.METHODS:
            monkeypatch.setattr(
                torch.Tensor, name, self.counting(name, getattr(torch.Tensor, name))
            )

    def counting(self, name, method):
        def counted(tensor, *args, **kwargs):
            self.count[name] += 1
            return method(tensor, *args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in self.OPERATORS or by_mask:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


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


# --- group features ------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_group_features_do_not_overflow(dtype, autocast):
    """Sums far beyond float16's 65504 equal the float64 sum of the same numbers."""
    rng = np.random.default_rng(15)
    features = torch.from_numpy(rng.uniform(1e4, 6e4, size=(2, 3, 40, 50))).to(dtype)
    mask_logits = torch.from_numpy(rng.normal(size=(2, 4, 40, 50))).to(dtype)
    mask_logits[:, 0] = 30  # the whole map
    mask_logits[:, 1] = 0  # probability 0.5 is not above 0.5
    features.requires_grad_()
    mask_logits.requires_grad_()
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        found = group_features(mask_logits, features)
    assert found.dtype == torch.float32 and found.shape == (2, 4, 3)
    for image in range(2):
        for kernel in range(4):
            inside = mask_logits[image, kernel] > 0
            for channel in range(3):
                expected = float(features[image, channel].detach()[inside].double().sum())
                assert float(found[image, kernel, channel].detach()) == pytest.approx(
                    expected, rel=1e-5
                )
    assert float(found[:, 0].detach().min()) > 65504
    assert not found[:, 1].detach().any()
    found[0, 0, 0].backward()
    assert mask_logits.grad is None  # no gradient through the mask
    assert features.grad[0, 0].eq(1).all() and not features.grad[1].any()


# --- tiny models ---------------------------------------------------------------------------------


class Patches(nn.Module):
    """A backbone of one convolution a level."""

    def __init__(self, in_channels: int, channels: int, strides: Sequence[int] = (4, 8, 16, 32)):
        super().__init__()
        self.convs = nn.ModuleDict(
            {f"p{s}": nn.Conv2d(in_channels, channels, s, stride=s) for s in strides}
        )
        self.size_divisibility = max(strides)

    def output_shape(self):
        return {
            name: ShapeSpec(channels=conv.out_channels, stride=conv.stride[0])
            for name, conv in self.convs.items()
        }

    def forward(self, images):
        return {name: conv(images) for name, conv in self.convs.items()}


def tiny_model(
    *,
    layout=None,
    num_kernels: int = 6,
    channels: int = 16,
    num_stages: int = 3,
    neck_stride: int = 8,
    mask_stride: int = 4,
    in_channels: int = 3,
    seed: int = 0,
) -> KNet:
    """A whole K-Net that trains a step in milliseconds; class scores start near 0.5, not 0.01."""
    layout = layout or ClassLayout([0, 1, 2], [3, 4])
    num_classes = layout.num_things + layout.num_stuff
    torch.manual_seed(seed)
    backbone = Patches(in_channels, channels)
    shapes = backbone.output_shape()
    model = KNet(
        backbone=backbone,
        neck=SemanticFPN(
            shapes, in_features=list(shapes), channels=channels, stride=neck_stride, num_groups=4
        ),
        kernel_head=KernelHead(
            num_thing_classes=layout.num_things,
            num_stuff_classes=layout.num_stuff,
            num_kernels=num_kernels,
            channels=channels,
            num_groups=4,
        ),
        kernel_update_heads=[
            KernelUpdateHead(
                num_classes=num_classes, channels=channels, num_heads=2, feedforward_channels=24
            )
            for _ in range(num_stages)
        ],
        criterion=Criterion(
            matcher=Matcher(),
            num_kernels=num_kernels,
            num_thing_classes=layout.num_things,
            rank_weight=0.1 if layout.num_stuff else 0.0,
        ),
        target_builder=TargetBuilder(layout, mask_stride),
        postprocessor=Postprocessor(layout=layout, num_kernels=num_kernels),
        mask_stride=mask_stride,
        pixel_mean=[100.0] * in_channels,
        pixel_std=[50.0] * in_channels,
    )
    for head in model.kernel_update_heads:
        nn.init.zeros_(head.class_proj.bias)
    return model


def training_input(rng, layout, size, num_things=2, in_channels=3) -> dict:
    height, width = size
    masks = np.zeros((num_things, height, width), dtype=bool)
    for mask in masks:
        y, x = int(rng.integers(height // 2)), int(rng.integers(width // 2))
        mask[y : y + height // 2, x : x + width // 2] = True
    instances = Instances(size)
    instances.gt_classes = torch.from_numpy(rng.choice(layout.thing_ids, size=num_things)).long()
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    image = rng.integers(0, 256, size=(in_channels, height, width), dtype=np.uint8)
    x = {"image": torch.from_numpy(image), "instances": instances, "file_name": "image.jpg"}
    if layout.num_stuff:
        x["sem_seg"] = torch.from_numpy(rng.choice([*layout.ids, 255], size=(height, width)))
    return x


LAYOUT = ClassLayout([0, 1, 2], [3, 4])
THINGS_ONLY = ClassLayout([0, 1], [])
SIZE = (61, 75)


@pytest.mark.parametrize("layout", [LAYOUT, THINGS_ONLY], ids=["panoptic", "instance"])
def test_gradients_reach_every_parameter(layout):
    rng = np.random.default_rng(16)
    model = tiny_model(layout=layout).train()
    batch = [training_input(rng, layout, SIZE) for _ in range(2)]
    sum(model(batch).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("layout", [LAYOUT, THINGS_ONLY], ids=["panoptic", "instance"])
def test_gradients_without_any_object(layout):
    """DistributedDataParallel waits for ever for a parameter that has no gradient."""
    rng = np.random.default_rng(17)
    model = tiny_model(layout=layout).train()
    batch = [training_input(rng, layout, SIZE, num_things=0) for _ in range(2)]
    for x in batch:
        if "sem_seg" in x:
            x["sem_seg"] = torch.full_like(x["sem_seg"], 255)
    losses = model(batch)
    for name, loss in losses.items():
        assert torch.isfinite(loss) and loss.requires_grad, name
        empty = any(part in name for part in ("mask", "dice", "rank"))
        assert (float(loss.detach()) == 0) == empty, name
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_an_image_without_objects_beside_one_with():
    rng = np.random.default_rng(18)
    model = tiny_model().train()
    batch = [training_input(rng, LAYOUT, SIZE, count) for count in (0, 2)]
    losses = model(batch)
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


def test_more_objects_than_kernels_in_a_model():
    rng = np.random.default_rng(19)
    model = tiny_model(num_kernels=2).train()
    batch = [training_input(rng, LAYOUT, SIZE, count) for count in (7, 1)]
    losses = model(batch)
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()


def test_permuted_objects_in_a_model():
    rng = np.random.default_rng(20)
    model = tiny_model().train()
    batch = [training_input(rng, LAYOUT, SIZE, 4) for _ in range(2)]
    permuted = copy.deepcopy(batch)
    for x in permuted:
        x["instances"] = x["instances"][torch.tensor([2, 0, 3, 1])]
    before, after = model(batch), model(permuted)
    for name, loss in before.items():
        assert float(after[name].detach()) == pytest.approx(float(loss.detach()), rel=1e-5), name


def test_losses_of_a_model_are_the_criterions():
    """Masks resized to the mask stride, targets of the padded batch, then the criterion."""
    rng = np.random.default_rng(21)
    model = tiny_model().train()
    batch = [training_input(rng, LAYOUT, size) for size in (SIZE, (33, 90))]
    losses = model(batch)
    padded = (64, 96)
    images = torch.zeros(2, 3, *padded)
    for image, x in zip(images, batch):
        height, width = x["image"].shape[1:]
        image[:, :height, :width] = (x["image"].float() - 100) / 50
    stages, semantic_logits = model.predict(model.backbone(images))
    for stage in stages:
        stage.mask_logits = resized(stage.mask_logits, (16, 24))
    case = Case(
        model.criterion,
        stages,
        resized(semantic_logits, (16, 24)),
        model.target_builder(batch, padded, torch.device("cpu")),
    )
    expected = slow_losses(case, check_match(case))
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert float(losses[name].detach()) == pytest.approx(value, rel=1e-5), name


def resized(logits, size):
    """Every map on its own, by loops."""
    flat = logits.detach().double().flatten(0, 1).numpy()
    maps = np.stack([slow.bilinear(one, size) for one in flat])
    return torch.from_numpy(maps).float().unflatten(0, logits.shape[:2])


SETTINGS = {
    "one of everything": {
        "layout": ClassLayout([0], []),
        "num_kernels": 1,
        "channels": 4,
        "num_stages": 1,
        "in_channels": 1,
    },
    "mask stride 8": {"mask_stride": 8},
    "mask stride 2": {"mask_stride": 2, "num_stages": 2},
    "neck stride 4": {"neck_stride": 4, "mask_stride": 4, "num_stages": 1},
    "neck stride 4, mask stride 2": {"neck_stride": 4, "mask_stride": 2, "num_stages": 2},
    "neck stride 16": {"neck_stride": 16, "mask_stride": 4},
    "one channel in": {"in_channels": 1},
    "more stages, kernels and channels": {"num_stages": 4, "num_kernels": 40, "channels": 24},
    "classes in mixed order": {"layout": ClassLayout([1, 6], [0, 3, 7]), "mask_stride": 8},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_free_settings(setting):
    """Each trains a step, which changes every parameter, and then infers."""
    options = SETTINGS[setting]
    layout, in_channels = options.get("layout", LAYOUT), options.get("in_channels", 3)
    rng = np.random.default_rng(22)
    model = tiny_model(**options).train()
    batch = [training_input(rng, layout, size, 2, in_channels) for size in (SIZE, (64, 32))]
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = model(batch)
    per_stage = 4 if layout.num_stuff else 3
    num_stages = options.get("num_stages", 3)
    assert len(losses) == per_stage * num_stages + per_stage
    sum(losses.values()).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all() and not torch.equal(parameter, before[name]), name
    model.eval()
    with torch.no_grad():
        results = model([{"image": x["image"]} for x in batch])
    for x, result in zip(batch, results):
        size = x["image"].shape[1:]
        assert result["panoptic_seg"][0].shape == size
        assert result["sem_seg"].shape == (max(layout.ids) + 1, *size)
        assert result["instances"].image_size == tuple(size)
        assert len(result["instances"]) == min(
            100, model.kernel_head.num_kernels * layout.num_things
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trains_under_autocast(dtype):
    """Losses stay float32 and close to those of float32."""
    rng = np.random.default_rng(23)
    model = tiny_model().train()
    batch = [training_input(rng, LAYOUT, SIZE) for _ in range(2)]
    exact = model(batch)
    with torch.autocast("cpu", dtype=dtype):
        losses = model(batch)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    total, wanted = (float(sum(d.values()).detach()) for d in (losses, exact))
    assert total == pytest.approx(wanted, rel=0.01)
    sum(losses.values()).backward()
