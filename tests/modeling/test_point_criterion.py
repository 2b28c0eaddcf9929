"""The criterion where kernels start at points: what they may learn, and the loss of the points."""

import numpy as np
import pytest
import torch

from knet.modeling.cell_labels import largest_share
from knet.modeling.criterion import Criterion
from knet.modeling.matcher import Matcher
from knet.modeling.points import vote_loss
from knet.modeling.structures import Points, Targets

from .. import slow_reference as slow
from ..host_reads import HostReads
from .test_criterion import (
    WEIGHTS,
    Case,
    PlainTargets,
    pairs_of_images,
    random_stages,
    random_targets,
    slow_losses,
)
from .test_points import coarse_share, slow_point_target

POINT_WEIGHT, VOTE_WEIGHT = 3.0, 2.0


def with_points(case: Case, rng, factor: int) -> Case:
    """Kernels that start at random cells of a map coarser by a factor, and have class logits."""
    batch, _, *size = case.targets.thing_masks.shape
    height, width = (side // factor for side in size)
    first, second = case.stages[:2]
    logits = rng.normal(size=(batch, case.num_thing_classes, height, width)) * 2
    cells = rng.integers(0, height * width, size=(batch, case.num_kernels))
    votes = rng.normal(size=(batch, 2, height, width))
    first.points = Points(
        logits=torch.from_numpy(logits).float().requires_grad_(),
        cells=torch.from_numpy(cells),
        votes=torch.from_numpy(votes).float().requires_grad_(),
    )
    first.class_logits = torch.randn(second.class_logits.shape)
    case.criterion.point_weight, case.criterion.vote_weight = POINT_WEIGHT, VOTE_WEIGHT
    return case


def random_point_case(rng, factor: int, max_things=6) -> Case:
    """Of any size: a map of one cell, one kernel, no stuff, no object, more than kernels."""
    batch, num_kernels, num_things = (int(rng.integers(1, high)) for high in (4, 6, 4))
    num_stuff, num_stages = int(rng.integers(0, 4)), int(rng.integers(1, 4))
    size = tuple(int(side) * factor for side in rng.integers(1, 4, size=2))
    num_classes = num_things + num_stuff
    case = Case(
        criterion=Criterion(
            matcher=Matcher(), num_kernels=num_kernels, num_thing_classes=num_things
        ),
        stages=random_stages(rng, num_stages, batch, size, num_kernels + num_stuff, num_classes),
        semantic_logits=torch.randn(batch, num_classes, *size, requires_grad=True),
        targets=random_targets(rng, batch, size, num_things, num_stuff, max_things),
    )
    return with_points(case, rng, factor)


def check_point_match(case: Case, factor: int):
    """Pairs of all stages but the last: as many as can be, the cheapest; per stage and image."""
    matched, _ = case.criterion.match(case.stages, case.targets)
    plain = PlainTargets(case.targets)
    assert len(matched) == len(case.stages) - 1
    cells = case.stages[0].points.cells.tolist()
    result = [pairs_of_images(pairs, plain.batch) for pairs in matched]
    for chosen_of_images, stage in zip(result, case.stages):
        for image, chosen in enumerate(chosen_of_images):
            shares = [coarse_share(mask, factor) for mask in plain.thing_masks[image]]
            cost = np.full((case.num_kernels, len(shares)), np.inf)
            for kernel, cell in enumerate(cells[image]):
                for thing, share in enumerate(shares):
                    if share.flat[cell] > 0:
                        cost[kernel, thing] = slow.matching_cost(
                            stage.mask_logits[image, kernel].detach().numpy(),
                            stage.class_logits[image, kernel].tolist(),
                            plain.thing_masks[image][thing],
                            plain.thing_classes[image][thing],
                        )
            num_bad, total = slow.assignment_value(cost, chosen)
            assert num_bad == 0
            best_num_bad, best_total = slow.best_assignment_value(cost)
            assert len(chosen) == min(cost.shape) - best_num_bad
            assert total == pytest.approx(best_total, abs=2e-5)
    return result


def slow_largest_share(plain: PlainTargets, num_thing_classes):
    """Per image and cell the classes that it may have: several where objects draw."""
    result = []
    for image in range(plain.batch):
        allowed = np.empty(plain.size, dtype=object)
        for y, x in slow.pixels_of(allowed):
            things = [float(mask[y, x]) for mask in plain.thing_masks[image]]
            stuff = [float(mask[y, x]) for mask in plain.stuff_masks[image]]
            most = max([0.0, *things, *stuff])
            if most == 0:
                allowed[y, x] = {slow.NONE}
            elif most in things:
                classes = plain.thing_classes[image]
                allowed[y, x] = {label for label, s in zip(classes, things) if s == most}
            else:
                allowed[y, x] = {num_thing_classes + c for c, s in enumerate(stuff) if s == most}
        result.append(allowed)
    return result


@pytest.mark.parametrize("seed", range(4))
def test_largest_share(seed):
    rng = np.random.default_rng(seed)
    seen = set()
    for _ in range(60):
        num_things, num_stuff = int(rng.integers(1, 4)), int(rng.integers(0, 3))
        size = tuple(int(side) for side in rng.integers(1, 5, size=2))
        targets = random_targets(rng, int(rng.integers(1, 4)), size, num_things, num_stuff, 3)
        labels = largest_share(targets, num_things)
        expected = slow_largest_share(PlainTargets(targets), num_things)
        for image, allowed in enumerate(expected):
            for y, x in slow.pixels_of(allowed):
                assert int(labels[image, y, x]) in allowed[y, x]
                seen.add(int(labels[image, y, x]) - num_things)
    assert min(seen) < -1 and -1 in seen and max(seen) >= 0  # things, none, stuff


def test_things_win_a_draw_against_stuff():
    targets = Targets(
        thing_masks=torch.tensor([[[[0.5, 0.5, 0.25, 0.0]]]]),
        thing_classes=torch.tensor([[1]]),
        num_things=[1],
        stuff_masks=torch.tensor([[[[0.5, 0.25, 0.75, 0.0]]]]),
        stuff_present=torch.tensor([[True]]),
    )
    assert largest_share(targets, 2).tolist() == [[[1, 1, 2, -1]]]


def slow_point_losses(case: Case, pairs, factor: int):
    """All losses: those of other kernels but for three things."""
    expected, plain = slow_losses(case, pairs), PlainTargets(case.targets)
    # every object counts, whether or not a kernel may take it
    stuff = sum(map(sum, plain.stuff_present))
    positive = max(1, sum(case.targets.num_things) + stuff)
    for index in range(1, len(case.stages)):
        matched = sum(map(len, pairs[index - 1])) + stuff
        expected[f"loss_class_{index}"] *= max(1, matched) / positive
    # nor does the semantic branch ask for kernels
    labels = largest_share(case.targets, case.num_thing_classes).numpy()
    expected["loss_semantic"] = WEIGHTS["semantic"] * slow.semantic_loss(
        case.semantic_logits.detach().numpy(), labels
    )
    logits = case.stages[0].points.logits.detach().double().numpy()
    target, objects = slow_point_target(case.targets, *_split(logits.shape), factor)
    total = 0.0
    for logit, wanted in zip(logits.ravel(), target.ravel()):
        if wanted == 1:
            total -= slow.sigmoid(-logit) ** 2 * slow.log_sigmoid(logit)
        else:
            total -= (1 - wanted) ** 4 * slow.sigmoid(logit) ** 2 * slow.log_sigmoid(-logit)
    expected["loss_point"] = POINT_WEIGHT * total / max(1, objects)
    total = float(vote_loss(case.stages[0].points.votes.detach(), case.targets.thing_masks))
    expected["loss_vote"] = VOTE_WEIGHT * total / max(1, objects)
    return expected


def _split(shape):
    return shape[1], tuple(shape[2:])


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_matching_and_losses_with_points(seed, factor):
    """No kernel learns an object that is not in its cell; every loss against the loops."""
    rng = np.random.default_rng((seed, factor))
    torch.manual_seed(seed)
    fewer = 0
    for _ in range(20):
        case = random_point_case(rng, factor)
        pairs = check_point_match(case, factor)
        losses = case.losses()
        expected = slow_point_losses(case, pairs, factor)
        assert losses.keys() == expected.keys()
        for name, value in expected.items():
            assert losses[name].shape == () and losses[name].dtype == torch.float32
            found = float(losses[name].detach())
            # dice is 4 (1 - x), of which float32 loses what is below 4 x 1.2e-7
            assert found == pytest.approx(value, rel=1e-5, abs=5e-7), name
        sum(losses.values()).backward()
        assert torch.isfinite(case.stages[0].points.logits.grad).all()
        fewer += sum(map(len, pairs[0])) < sum(
            min(count, case.num_kernels) for count in case.targets.num_things
        )
    assert fewer > 3


def one_object_case(cell: int) -> Case:
    """An object in the left half of a map of 2 x 4 cells; both kernels start at one cell."""
    rng = np.random.default_rng(0)
    targets = random_targets(rng, 1, (2, 4), 2, 0, 0)
    targets.thing_masks = torch.tensor([[[[1.0, 1, 0, 0], [1, 1, 0, 0]]]])
    targets.thing_classes, targets.num_things = torch.tensor([[1]]), [1]
    case = Case(
        criterion=Criterion(matcher=Matcher(), num_kernels=2, num_thing_classes=2, rank_weight=0.0),
        stages=random_stages(rng, 1, 1, (2, 4), 2, 2),
        semantic_logits=torch.zeros(1, 2, 2, 4),
        targets=targets,
    )
    case = with_points(case, rng, 1)
    case.stages[0].points.cells[:] = cell
    return case


def test_an_object_that_no_kernel_reaches():
    """It has no mask loss, but is an object in the class, the semantic and the point loss."""
    case = one_object_case(cell=3)
    targets = case.targets
    # a second one like it
    targets.thing_masks = targets.thing_masks.repeat(1, 2, 1, 1)
    targets.thing_classes, targets.num_things = torch.tensor([[1, 1]]), [2]
    losses = case.losses()
    for name in ("loss_mask_0", "loss_dice_0", "loss_mask_1", "loss_dice_1"):
        assert float(losses[name].detach()) == 0 and losses[name].requires_grad
    no_object = sum(slow.focal_loss(x, 0) for x in case.stages[1].class_logits.flatten().tolist())
    assert float(losses["loss_class_1"].detach()) == pytest.approx(2 * no_object / 2, rel=1e-5)
    # 4 of the 8 cells are of class 1
    semantic = (4 * slow.focal_loss(0, 1) + 12 * slow.focal_loss(0, 0)) / 4
    assert float(losses["loss_semantic"].detach()) == pytest.approx(semantic, rel=1e-5)
    assert losses["loss_point"] > 0


def test_a_mask_that_is_no_number_stays_visible():
    """The only kernel that may take the object has it: its loss says that training is lost."""
    case = one_object_case(cell=0)
    case.stages[0].points.cells[0, 1] = 3
    assert torch.isfinite(case.losses()["loss_mask_0"])
    with torch.no_grad():
        case.stages[0].mask_logits[0, 0] = float("nan")
    assert torch.isnan(case.losses()["loss_mask_0"])


@pytest.mark.parametrize("num_stuff", [0, 2])
def test_no_object_at_all_with_points(num_stuff):
    rng = np.random.default_rng(11)
    targets = random_targets(rng, 2, (4, 6), 2, num_stuff, 0)
    targets.stuff_masks.zero_()
    targets.stuff_present.zero_()
    case = Case(
        criterion=Criterion(matcher=Matcher(), num_kernels=3, num_thing_classes=2),
        stages=random_stages(rng, 2, 2, (4, 6), 3 + num_stuff, 2 + num_stuff),
        semantic_logits=torch.randn(2, 2 + num_stuff, 4, 6, requires_grad=True),
        targets=targets,
    )
    losses = with_points(case, rng, 2).losses()
    for name, loss in losses.items():
        assert torch.isfinite(loss) and loss.requires_grad
        empty = any(part in name for part in ("mask", "dice", "rank", "vote"))
        assert (float(loss.detach()) == 0) == empty
    sum(losses.values()).backward()
    points = case.stages[0].points
    assert torch.isfinite(points.logits.grad).all() and points.logits.grad.any()
    assert not case.stages[0].mask_logits.grad.any()


@pytest.mark.parametrize("num_things", [0, 3])
def test_one_copy_to_the_host_with_points(num_things, monkeypatch):
    """No more than other kernels need."""
    rng = np.random.default_rng(14)
    case = Case(
        criterion=Criterion(matcher=Matcher(), num_kernels=4, num_thing_classes=2),
        stages=random_stages(rng, 3, 2, (4, 6), 7, 5),
        semantic_logits=torch.randn(2, 5, 4, 6),
        targets=random_targets(rng, 2, (4, 6), 2, 3, num_things),
    )
    case = with_points(case, rng, 2)
    reads = HostReads(monkeypatch)
    with reads:
        losses = case.losses()
    assert len(losses) == 18
    assert dict(reads.count) == {"cpu": 1, "numpy": 1}


def test_normalisers_are_averaged_over_workers(monkeypatch):
    """Of the class loss and of the point loss: here the other worker has 6 objects more."""
    case = one_object_case(cell=0)
    alone = case.losses()

    def all_reduce(tensor):
        assert tensor.dtype == torch.float32 and float(tensor) == 1
        tensor += 7

    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    together = case.losses()
    for name, loss in alone.items():
        averaged = any(part in name for part in ("class", "point", "vote"))
        factor = 1 / 4 if averaged else 1.0
        assert together[name].item() == pytest.approx(loss.item() * factor, rel=1e-6)
