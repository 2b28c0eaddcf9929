"""Losses on some cells: what is read there, which cells they are, what is learned from them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from knet.modeling.criterion import Criterion
from knet.modeling.matcher import Matcher
from knet.modeling.sampled_cells import (
    OVERSAMPLING,
    UNSURE_SHARE,
    AllCells,
    SomeCells,
    choose_cells,
    random_cells,
    values_at,
)
from knet.modeling.structures import Pairs, StagePrediction, Targets

from ..host_reads import HostReads
from .test_criterion import Case, random_stages, random_targets
from .test_recompute import kept_bytes

# --- cells and what is there ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3, 4), (6, 8), (9, 12), (7, 5)])
def test_values_are_those_of_enlarged_maps(size):
    """At the border too; and so are the gradients."""
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 3, 4, requires_grad=True)
    cells = torch.stack([torch.randperm(size[0] * size[1]) for _ in range(2)])
    enlarged = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    found = values_at(maps, cells, size)
    weight = torch.randn_like(found)
    for image in range(2):
        for place, cell in enumerate(cells[image].tolist()):
            there = enlarged[image, :, cell // size[1], cell % size[1]]
            torch.testing.assert_close(found[image, :, place], there)
    wanted = torch.stack([e.flatten(1)[:, c] for e, c in zip(enlarged, cells)])
    gradients = (torch.autograd.grad((x * weight).sum(), maps)[0] for x in (found, wanted))
    torch.testing.assert_close(*gradients)


def test_random_cells_come_once_and_anywhere():
    torch.manual_seed(0)
    maps = torch.zeros(3, 1, 5, 4)
    drawn = torch.stack([random_cells(maps, 7) for _ in range(400)])
    assert drawn.shape == (400, 3, 7)
    assert all(len(set(cells)) == 7 for cells in drawn.flatten(0, 1).tolist())
    # 20 cells, 140 draws of each expected; 5 standard deviations
    for of_image in drawn.unbind(1):
        counts = of_image.flatten().bincount(minlength=20)
        assert (counts - 140).abs().max() < 5 * (400 * 0.35 * 0.65) ** 0.5
    assert sorted(random_cells(maps, 30)[0].tolist()) == list(range(20))


@pytest.mark.parametrize("count", [0, 20, 100])
def test_all_cells(count):
    """Of none wanted, or of no fewer than there are."""
    targets = random_targets(np.random.default_rng(0), 1, (5, 4), 2, 1, 3)
    assert type(choose_cells(targets, count)) is AllCells
    assert type(choose_cells(targets, 19)) is SomeCells
    with torch.no_grad():  # of validation images
        assert type(choose_cells(targets, 19)) is AllCells


STUFF = 10000


def numbered(batch, rows, size):
    """Targets whose masks tell image, row and cell; below 0, so that no cell is an object's."""
    cells = size[0] * size[1]
    masks = torch.arange(float(batch * rows * cells)).view(batch, rows, *size) - STUFF
    return Targets(
        thing_masks=masks,
        thing_classes=torch.zeros(batch, rows, dtype=torch.long),
        num_things=[rows] * batch,
        stuff_masks=masks - STUFF,
        stuff_present=torch.ones(batch, rows, dtype=torch.bool),
    )


def test_maps_of_an_image_are_read_at_the_same_cells():
    torch.manual_seed(0)
    targets = numbered(2, 3, (6, 8))
    cells = SomeCells(targets, 10)
    assert torch.equal(cells.of_images(targets.thing_masks), cells.targets.thing_masks)
    assert torch.equal(cells.targets.thing_masks, cells.targets.stuff_masks + STUFF)
    at = (cells.targets.thing_masks[:, :, 0].long() + STUFF) % 48
    assert (at == at[:, :1]).all() and at.shape == (2, 3, 10)
    assert not torch.equal(at[0], at[1])  # each image has its own


def pairs(*triples):
    return Pairs(*torch.tensor(triples, dtype=torch.long).view(-1, 3).unbind(1))


@pytest.mark.parametrize("factor", [1, 2])
def test_a_mask_is_looked_at_where_it_is_unsure(factor):
    """Of three times as many random cells, three quarters by the mask, the others at random."""
    torch.manual_seed(0)
    size, count = (6 * factor, 8 * factor), 12 * factor**2  # of 48: 3 times are fewer, or all
    targets = numbered(2, 3, size)
    mask_logits = torch.randn(2, 5, 6, 8)
    things, stuff = pairs((0, 4, 2), (1, 0, 1), (1, 3, 0)), pairs((1, 2, 1))
    cells = SomeCells(targets, count)
    predicted, wanted = cells.of_masks(mask_logits, things, stuff)
    assert predicted.shape == wanted.shape == (4, count)
    enlarged = F.interpolate(mask_logits, size, mode="bilinear", align_corners=False).flatten(2)
    number = wanted.long() + STUFF
    number[3] += STUFF
    there = number % (size[0] * size[1])
    for row, (image, kernel, target) in enumerate([(0, 4, 2), (1, 0, 1), (1, 3, 0), (1, 2, 1)]):
        assert (number[row] // (size[0] * size[1]) == image * 3 + target).all()
        torch.testing.assert_close(predicted[row], enlarged[image, kernel, there[row]])
        unsure = int(UNSURE_SHARE * count)
        candidates = cells._candidates[image]
        assert len(candidates) == OVERSAMPLING * count
        doubt = enlarged[image, kernel, candidates].abs().sort().values
        of_mask = predicted[row, :unsure].abs().sort().values
        torch.testing.assert_close(of_mask, doubt[:unsure])
        assert len(set(there[row, :unsure].tolist())) == unsure
        assert torch.equal(there[row, unsure:], candidates[: count - unsure])


def test_a_small_object_is_looked_at():
    """In all of its cells that are among the candidates, though the mask is sure of them."""
    torch.manual_seed(0)
    masks = torch.zeros(1, 1, 20, 30)
    masks[0, 0, 3:9, 5:11] = 0.25
    targets = numbered(1, 1, (20, 30))
    targets.thing_masks = masks
    mask_logits = -5 * masks - 2
    cells = SomeCells(targets, 150)
    _, wanted = cells.of_masks(mask_logits, pairs((0, 0, 0)), None)
    candidates = masks.flatten()[cells._candidates[0]] > 0
    assert 20 < int(candidates.sum()) <= int((wanted > 0).sum())
    assert int((wanted > 0).sum()) <= int(candidates.sum()) + 150 // 4


# --- losses --------------------------------------------------------------------------------------


def sampling(count, **options) -> Criterion:
    arguments = {"num_kernels": 4, "num_thing_classes": 2, **options}
    return Criterion(matcher=Matcher(), sampled_cells=count, **arguments)


def case_of(seed, count, *, batch=2, size=(6, 8), factor=2, num_stuff=2, max_things=4, **options):
    rng = np.random.default_rng(seed)
    num_classes = 2 + num_stuff
    return Case(
        criterion=sampling(count, **options),
        stages=random_stages(rng, 2, batch, size, 4 + num_stuff, num_classes),
        semantic_logits=torch.from_numpy(rng.normal(size=(batch, num_classes, *size)))
        .float()
        .requires_grad_(),
        targets=random_targets(
            rng, batch, tuple(factor * side for side in size), 2, num_stuff, max_things
        ),
    )


def with_all_cells(case: Case) -> Case:
    return case._replace(criterion=sampling(0, rank_weight=case.criterion.rank_weight))


def test_rank_and_semantic_loss_are_right_on_the_average():
    """Matching is the same in all draws, and for these targets the same as with all cells."""
    case = case_of(1, 40)
    expected = with_all_cells(case).losses()
    torch.manual_seed(0)
    draws = [case.losses() for _ in range(300)]
    names = [name for name in expected if "rank" in name or "semantic" in name]
    assert len(names) == 4
    for name in names:
        found = torch.stack([losses[name].detach() for losses in draws])
        error = found.std() / len(draws) ** 0.5
        assert error > 0
        assert abs(float(found.mean() - expected[name].detach())) < 4 * float(error)
    for stage in (1, 2):  # not of cells
        name = f"loss_class_{stage}"
        assert all(torch.equal(losses[name], draws[0][name]) for losses in draws)


@pytest.mark.parametrize("num_stuff, rank_weight", [(2, 0.1), (0, 0.0)])
@pytest.mark.parametrize("max_things", [0, 4])
def test_everything_learns_and_the_device_waits_once(
    num_stuff, rank_weight, max_things, monkeypatch
):
    case = case_of(2, 20, num_stuff=num_stuff, rank_weight=rank_weight, max_things=max_things)
    expected = with_all_cells(case).losses()
    reads = HostReads(monkeypatch)
    with reads:
        losses = case.losses()
    assert dict(reads.count) == {"cpu": 1, "numpy": 1}
    assert losses.keys() == expected.keys()
    leaves = [stage.mask_logits for stage in case.stages] + [case.semantic_logits]
    gradients = torch.autograd.grad(sum(losses.values()), leaves)
    positive = sum(case.targets.num_things) > 0
    for loss, gradient in zip(losses.values(), gradients):
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert all(gradient.any() for gradient in gradients) or not positive
    assert gradients[-1].any()


def test_less_is_kept():
    """For the gradient; rank and semantic loss have a quarter of the cells, masks of the neck."""
    case = case_of(3, 16 * 24, batch=1, size=(16, 24), num_stuff=20, max_things=6)
    kept = kept_bytes(case.losses)
    assert kept < 0.6 * kept_bytes(with_all_cells(case).losses)


# --- small objects -------------------------------------------------------------------------------


def objects_at(rows, size):
    """An image with objects that are 1 in some cells each."""
    masks = torch.zeros(1, len(rows), *size)
    for row, (y, x) in enumerate(rows):
        masks[0, row, y, x] = 1
    return Targets(
        thing_masks=masks,
        thing_classes=torch.zeros(1, len(rows), dtype=torch.long),
        num_things=[len(rows)],
        stuff_masks=torch.zeros(1, 0, *size),
        stuff_present=torch.zeros(1, 0, dtype=torch.bool),
    )


def test_objects_of_one_cell_find_their_kernels():
    """Of 768 cells losses look at 10, hardly ever at one of these."""
    torch.manual_seed(0)
    places = torch.randperm(12 * 16)[:6]
    y, x = torch.div(places, 16, rounding_mode="floor"), places % 16
    targets = objects_at(list(zip((2 * y).tolist(), (2 * x + 1).tolist())), (24, 32))
    order = torch.randperm(8)[:6]
    mask_logits = torch.full((1, 8, 12, 16), -5.0)
    mask_logits[0, order, y, x] = 5
    stages = [StagePrediction(torch.zeros(1, 8, 1), mask_logits)] * 2
    criterion = sampling(10, num_kernels=8, num_thing_classes=1)
    for _ in range(5):
        (matched,), _ = criterion.match(*SomeCells(targets, 10).to_match(stages, stages))
        assert dict(zip(matched.target.tolist(), matched.kernel.tolist())) == dict(
            enumerate(order.tolist())
        )


def test_a_small_object_that_is_missed_is_learned():
    """Its mask is sure of nothing there: no unsure cell is on it, few random ones are."""
    torch.manual_seed(0)
    targets = objects_at([(slice(20, 22), slice(30, 32))], (48, 64))
    mask_logits = (torch.randn(1, 1, 24, 32) / 2 - 6).requires_grad_()
    things, criterion = pairs((0, 0, 0)), sampling(0)

    def gradient(cells):
        losses = criterion.mask_losses(*cells.of_masks(mask_logits, things, None))
        return torch.autograd.grad(sum(losses.values()), mask_logits)[0][0, 0, 9:12, 14:17].sum()

    wanted = gradient(AllCells(targets))
    found = torch.stack([gradient(SomeCells(targets, 630)) for _ in range(40)])  # a fifth
    assert wanted < 0 and (found < wanted / 4).float().mean() > 0.85
    assert 0.6 < found.mean() / wanted < 1.6
