"""Semantic models whose stages add to the masks of the head underneath."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from .heads import BASE_HEADS, small_config, training_batch


def build(base_head, residual=True, num_stages=3, seed=0):
    cfg = small_config(base_head)
    cfg.MODEL.KNET.NUM_STAGES = num_stages
    cfg.MODEL.KNET.KERNEL_UPDATE.RESIDUAL = residual
    torch.manual_seed(seed)
    return build_model(cfg)


def logits_of_stages(model):
    images = torch.stack([x["image"] for x in training_batch()])
    with torch.no_grad():
        features = model.eval().backbone((images - model.pixel_mean) / model.pixel_std)
        stages = model.sem_seg_head.predict(features)
    return [stage.mask_logits for stage in stages]


def loud_classifier(model):
    """The base head's logits are as large as those of one that has learned."""
    head = model.sem_seg_head
    nn.init.normal_(head.base_head.get_submodule(head._kernels).weight)
    return model


@pytest.mark.parametrize("base_head", BASE_HEADS)
def test_new_stages_leave_the_base_heads_logits_nearly_alone(base_head):
    """Three stages together move them by a few hundredths; stages that start anew replace them."""
    changes = {}
    for residual in (True, False):
        first, *others = logits_of_stages(loud_classifier(build(base_head, residual)))
        assert len(others) == 3
        scale = first.std()
        changes[residual] = [float((logits - first).std() / scale) for logits in others]
    assert all(0 < change < 0.1 for change in changes[True])
    assert min(changes[False]) > 5 * max(changes[True])


def test_stages_that_have_learned_nothing_change_nothing():
    model = build("SemSegFCNHead")
    for stage in model.sem_seg_head.kernel_update_heads:
        assert stage.residual and stage.class_proj is None
        nn.init.zeros_(stage.mask_proj.weight)
        assert not stage.mask_proj.bias.any()
    first, *others = logits_of_stages(model)
    assert all(torch.equal(logits, first) for logits in others)
    assert first.std() > 0


def test_a_stage_adds_to_the_one_before():
    """What the same weights would give anew."""
    model, anew = build("SemSegFCNHead", num_stages=1), build("SemSegFCNHead", False, num_stages=1)
    nn.init.normal_(model.sem_seg_head.kernel_update_heads[0].mask_proj.weight)
    anew.load_state_dict(model.state_dict())
    (first, added), (_, made) = logits_of_stages(model), logits_of_stages(anew)
    assert made.std() > 0.1
    torch.testing.assert_close(added, first + made)


@pytest.mark.parametrize("base_head", ["SemSegFCNHead", "SemSegFPNHead"])
def test_a_residual_model_trains(base_head):
    """Every parameter learns, and the last stage's loss falls by heart."""
    model = build(base_head, num_stages=2).train()
    batch = training_batch(ignored=0.0)
    for x in batch:  # blocks that features of stride 32 can tell
        x["sem_seg"] = torch.zeros(64, 96, dtype=torch.long)
        x["sem_seg"][:, 32:64], x["sem_seg"][:32, 64:] = 1, 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        optimizer.step()
        history.append(losses["loss_semantic_2"].item())
    assert history[-1] < 0.5 * history[0]
