"""Losses of semantic models on some pixels of each image."""

import pytest
import torch
from detectron2.modeling import build_model

from ..test_recompute import kept_bytes
from .heads import small_config, training_batch

PIXELS = 64 * 96


def model_and_losses(count, dice_weight=0.0):
    """A head with an auxiliary one, and what gives its losses, of features that stay the same."""
    cfg = small_config("SemSegFPNHead")
    cfg.MODEL.KNET.LOSS.SAMPLED_CELLS = count
    cfg.MODEL.KNET.SEMANTIC.DICE_WEIGHT = dice_weight
    cfg.MODEL.KNET.SEMANTIC.AUXILIARY_IN_FEATURE = "p4"
    cfg.MODEL.KNET.SEMANTIC.AUXILIARY_CHANNELS = 8
    cfg.MODEL.KNET.SEMANTIC.DROPOUT = 0.0
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batch = training_batch()
    labels = torch.stack([x["sem_seg"] for x in batch])
    images = torch.stack([x["image"] for x in batch]).float() / 64 - 2
    with torch.no_grad():
        features = model.backbone(images)
    head = model.sem_seg_head
    return lambda: head(features, labels)[1]


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
@pytest.mark.parametrize("count, learns", [(PIXELS, True), (PIXELS // 10, False)])
def test_all_pixels(count, learns, dice_weight):
    """Where there are no more, and of validation images."""
    with torch.set_grad_enabled(learns):
        expected = model_and_losses(0, dice_weight)()
        found = model_and_losses(count, dice_weight)()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], loss) for name, loss in expected.items())


def test_right_on_the_average():
    expected, losses = model_and_losses(0)(), model_and_losses(PIXELS // 10)
    torch.manual_seed(1)
    draws = [losses() for _ in range(100)]
    assert draws[0].keys() == expected.keys() and "loss_auxiliary" in expected
    for name, loss in expected.items():
        found = torch.stack([of_draw[name].detach() for of_draw in draws])
        error = float(found.std()) / len(draws) ** 0.5
        assert error > 0
        assert abs(float(found.mean() - loss.detach())) < 4 * error


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
def test_it_learns_and_keeps_less(dice_weight):
    losses = model_and_losses(PIXELS // 10, dice_weight)
    sum(losses().values()).backward()
    assert kept_bytes(losses) < 0.5 * kept_bytes(model_and_losses(0, dice_weight))
