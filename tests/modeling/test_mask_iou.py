"""The IoU of masks: against pycocotools, as a loss, and in the scores of results."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from knet.modeling.mask_iou import iou_loss, mask_ious, weigh_classes
from knet.modeling.point_kernel_head import PointKernelHead
from knet.modeling.structures import StagePrediction

from ..tiny_model import LAYOUT, SIZE, THINGS_ONLY, tiny_model, training_input

RATED = {"kernel_head": PointKernelHead, "residual": True, "iou_branch": True, "vote_weight": 1.0}
LAYOUTS = pytest.mark.parametrize("layout", [LAYOUT, THINGS_ONLY], ids=["panoptic", "instance"])


def test_ious_are_those_of_coco():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(40, 5, 7))).float()
    target = torch.from_numpy(rng.integers(0, 5, size=(40, 5, 7)) / 4).float()
    target[:3] = (logits[:3] > 0).float()  # right
    logits[3:6] = -1.0  # nothing found
    expected = []
    for mask, wanted in zip(logits > 0, target > 0.5):
        encoded = [coco_mask.encode(np.asfortranarray(x.byte().numpy())) for x in (mask, wanted)]
        expected.append(coco_mask.iou(encoded[:1], encoded[1:], [0])[0, 0])
    found = mask_ious(logits, target)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[:3].tolist() == [1, 1, 1] and found[3:6].tolist() == [0, 0, 0]
    assert mask_ious(torch.full((1, 2, 2), -1.0), torch.zeros(1, 2, 2)).tolist() == [0]


def test_the_loss_is_least_where_the_iou_is_told():
    ious = torch.tensor([0.2, 0.9, 1.0])
    told = ious.clamp(1e-4, 1 - 1e-4).logit().requires_grad_()
    loss = iou_loss(told, ious)
    expected = F.binary_cross_entropy(told.sigmoid(), ious)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    (slope,) = torch.autograd.grad(loss, told)
    assert slope.abs().max() < 1e-4
    assert iou_loss(told.detach() + 1, ious) > loss < iou_loss(told.detach() - 1, ious)


def test_the_loss_of_no_mask_is_zero_and_has_a_gradient():
    told = torch.zeros(0, requires_grad=True)
    loss = iou_loss(told, torch.zeros(0))
    assert float(loss) == 0 and loss.requires_grad


def prediction_of(classes, ious):
    count = classes.shape[1]
    maps = torch.zeros(1, count, 1)
    return StagePrediction(maps, maps[..., None], classes, iou_logits=ious)


def test_scores_of_things_are_multiplied_by_the_iou():
    values = torch.linspace(-12, 12, 25)
    classes = values.repeat(2)[None, :, None].repeat(1, 1, 3)  # 25 instance kernels, 25 of stuff
    ious = values.flip(0).repeat(2)[None]
    weighed = weigh_classes(prediction_of(classes, ious), num_kernels=25).class_logits
    product = classes[:, :25].double().sigmoid() * ious[:, :25, None].double().sigmoid()
    torch.testing.assert_close(weighed[:, :25].double().sigmoid(), product, rtol=1e-5, atol=0)
    assert torch.equal(weighed[:, 25:], classes[:, 25:])


@pytest.mark.parametrize("other", [-90.0, 90.0])
def test_scores_that_saturate_keep_their_order(other):
    """Where the product of probabilities would be 0 or 1 for all."""
    classes = torch.tensor([-100.0, -95, 95, 100])[None, :, None]
    stage = prediction_of(classes, torch.full((1, 4), other))
    weighed = weigh_classes(stage, num_kernels=4).class_logits[0, :, 0]
    assert torch.isfinite(weighed).all() and weighed[0] < weighed[1] < weighed[2] <= weighed[3]


def test_a_stage_without_the_branch_stays_as_it_is():
    stage = prediction_of(torch.randn(1, 4, 2), None)
    assert weigh_classes(stage, num_kernels=3) is stage


@LAYOUTS
def test_results_have_weighed_scores_and_losses_have_not(layout):
    """Each class score of the last stage alone is multiplied, and only in inference."""
    model = tiny_model(layout=layout, **RATED)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        learning, _ = model.train().predict(model.backbone(images))
        *before, result = model.eval().predict(model.backbone(images))[0]
    for stage, same in zip(learning, before):
        torch.testing.assert_close(stage.class_logits, same.class_logits)
    expected = weigh_classes(learning[-1], model.criterion.num_kernels).class_logits
    torch.testing.assert_close(result.class_logits, expected)
    assert not torch.allclose(result.class_logits, learning[-1].class_logits, atol=0.1)


@LAYOUTS
@pytest.mark.parametrize("num_things", [0, 2])
def test_every_stage_learns_its_ious(layout, num_things):
    rng = np.random.default_rng(5)
    model = tiny_model(layout=layout, **RATED, num_kernels=24).train()
    losses = model([training_input(rng, layout, SIZE, num_things=num_things) for _ in range(2)])
    ious = {name: loss for name, loss in losses.items() if "iou" in name}
    assert sorted(ious) == ["loss_iou_1", "loss_iou_2", "loss_iou_3"]
    sum(ious.values()).backward()
    for head in model.kernel_update_heads:
        for parameter in head.iou_branch.parameters():
            assert bool(parameter.grad.any()) == (num_things > 0)
    # the masks do not learn to be what the branch says of them
    assert all(head.mask_proj.weight.grad is None for head in model.kernel_update_heads)


def test_ious_are_learned():
    """Kernels of a batch learned by heart say how good their masks are."""
    rng = np.random.default_rng(6)
    model = tiny_model(layout=THINGS_ONLY, **RATED, num_stages=1).train()
    batch = [training_input(rng, THINGS_ONLY, SIZE) for _ in range(2)]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    course = []
    for _ in range(100):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        course.append(float(losses["loss_iou_1"].detach()))
    assert np.mean(course[-20:]) < 0.6 * max(course[:5])
