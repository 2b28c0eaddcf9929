"""Kernels that start at points of the image: first masks by loops, and whole tiny models."""

import copy
import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch import nn

from knet.engine.main import load_config
from knet.modeling.criterion import Criterion
from knet.modeling.kernel_head import KernelHead
from knet.modeling.point_kernel_head import PointKernelHead

from .. import slow_reference as slow
from ..conftest import DEMO_CONFIG, REPO, pairs
from ..host_reads import HostReads
from ..tiny_model import LAYOUT, SIZE, THINGS_ONLY, tiny_model, training_input

PRIOR = -math.log(99)
POINTS = {"kernel_head": PointKernelHead, "residual": True}
LAYOUTS = pytest.mark.parametrize("layout", [LAYOUT, THINGS_ONLY], ids=["panoptic", "instance"])


# --- the head alone ------------------------------------------------------------------------------


def random_head(num_things=2, num_stuff=2, num_kernels=7, seed=0) -> PointKernelHead:
    """Every weight is large enough to be seen in the results."""
    torch.manual_seed(seed)
    head = PointKernelHead(
        num_thing_classes=num_things,
        num_stuff_classes=num_stuff,
        num_kernels=num_kernels,
        channels=8,
        num_groups=2,
    )
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    nn.init.normal_(head.point_proj.bias, mean=PRIOR)
    return head


def maps(batch=2, size=(6, 9), channels=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, *size, generator=generator) for _ in range(2)]


def softplus(value):
    return math.log1p(math.exp(-abs(value))) + max(value, 0.0)


@pytest.mark.parametrize("size, num_kernels", [((6, 9), 7), ((1, 1), 3), ((2, 3), 10)])
def test_first_masks_and_kernels(size, num_kernels):
    """k F_ins + b - softplus(a) |p - p_n|^2 / 4^2 at every cell; k and what that mask found."""
    head, (instance_map, semantic_map) = random_head(num_kernels=num_kernels), maps(size=size)
    with torch.no_grad():
        feature_map, prediction, semantic_logits = head(instance_map, semantic_map)
        features = head.instance_conv(instance_map)
        both = (features + head.semantic_conv(semantic_map)).double().numpy()
        described = head.kernel_conv(instance_map).double().numpy()
    weight, bias = (p.detach().double().numpy() for p in head.kernel_proj.parameters())
    np.testing.assert_allclose(feature_map, both, rtol=1e-5, atol=1e-5)
    features = features.double().numpy()
    assert prediction.mask_logits.shape == (2, num_kernels + 2, *size)
    assert prediction.kernels.shape == (2, num_kernels + 2, 8)
    for image in range(2):
        for n, cell in enumerate(prediction.points.cells[image].tolist()):
            point_y, point_x = divmod(cell, size[1])
            at_point = weight @ described[image, :, point_y, point_x] + bias
            kernel, offset, fall_off = at_point[:8], at_point[8], softplus(at_point[9])
            found = kernel.copy()
            for y, x in slow.pixels_of(features[image, 0]):
                squared = (y - point_y) ** 2 + (x - point_x) ** 2
                expected = kernel @ features[image, :, y, x] + offset - fall_off * squared / 16
                logit = float(prediction.mask_logits[image, n, y, x])
                assert logit == pytest.approx(expected, rel=1e-4, abs=1e-4)
                assert abs(logit) > 1e-4  # else float32 does not tell which side of 0 it is on
                found += both[image, :, y, x] * (logit > 0)
            np.testing.assert_allclose(prediction.kernels[image, n], found, rtol=1e-4, atol=1e-4)
        for stuff in range(2):
            assert torch.equal(
                prediction.mask_logits[image, num_kernels + stuff],
                semantic_logits[image, 2 + stuff],
            )
            assert torch.equal(
                prediction.kernels[image, num_kernels + stuff],
                head.semantic_kernels.weight[2 + stuff, :, 0, 0].detach(),
            )


def test_first_class_logits():
    """Of a local maximum its logits; other cells start as no object, stuff and its columns too."""
    head = random_head(num_kernels=40)
    _, prediction, semantic_logits = head(*maps())
    logits, cells = prediction.points.logits.detach(), prediction.points.cells
    assert prediction.class_logits.shape == (2, 42, 4) and semantic_logits.shape == (2, 4, 6, 9)
    above = []
    for image in range(2):
        best = logits[image].amax(0)
        for n, cell in enumerate(cells[image].tolist()):
            y, x = divmod(cell, 9)
            around = best[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            is_peak = bool(best[y, x] == around.max())
            for label in range(2):
                found, own = float(prediction.class_logits[image, n, label]), logits[image, label]
                expected = float(own[y, x]) if is_peak else min(float(own[y, x]), PRIOR)
                assert found == pytest.approx(expected, rel=1e-6)
                above.append((is_peak, float(own[y, x]) > PRIOR))
    assert set(above) == {(False, False), (False, True), (True, False), (True, True)}
    rest = [prediction.class_logits[:, :40, 2:], prediction.class_logits[:, 40:]]
    for logits in rest:
        torch.testing.assert_close(logits, torch.full_like(logits, PRIOR))
    assert not prediction.class_logits.requires_grad
    assert prediction.mask_logits.requires_grad and prediction.points.logits.requires_grad


def test_a_new_head_sees_no_object():
    torch.manual_seed(0)
    head = PointKernelHead(num_thing_classes=3, num_stuff_classes=1, num_kernels=5)
    with torch.no_grad():
        _, prediction, semantic_logits = head(*maps(channels=256))
    for logits in (prediction.points.logits, prediction.class_logits, semantic_logits):
        assert float((logits - PRIOR).abs().max()) < 1


def neighbouring_maxima(head, instance_map, semantic_map):
    """How many of the chosen local maxima are beside another one."""
    with torch.no_grad():
        points = head(instance_map, semantic_map)[1].points
    best = points.logits.amax(1)
    peak = torch.nn.functional.max_pool2d(best, 3, 1, 1) == best
    around = torch.nn.functional.avg_pool2d(peak.float(), 3, 1, 1, divisor_override=1)
    return int((peak & (around > 1.5)).sum())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_points_stay_apart_under_autocast(dtype):
    """Half precision would make equal neighbours of most cells, and each of them a maximum."""
    torch.manual_seed(0)
    head = PointKernelHead(num_thing_classes=1, num_stuff_classes=0, channels=64, num_groups=8)
    smooth = [torch.nn.functional.avg_pool2d(m, 5, 1) for m in maps(1, (68, 68), 64)]
    assert neighbouring_maxima(head, *smooth) == 0
    with torch.autocast("cpu", dtype=dtype):
        assert neighbouring_maxima(head, *smooth) < 20  # of 64 x 64 cells


# --- training ------------------------------------------------------------------------------------


@LAYOUTS
def test_gradients_reach_every_parameter_of_points(layout):
    rng = np.random.default_rng(16)
    model = tiny_model(layout=layout, num_kernels=24, **POINTS).train()
    batch = [training_input(rng, layout, SIZE) for _ in range(2)]
    losses = model(batch)
    assert float(losses["loss_point"].detach()) > 0
    assert len(losses) == (4 if layout.num_stuff else 3) * 4 + 1
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    # kernel, bias and fall-off
    projection = model.kernel_head.kernel_proj
    assert projection.weight.grad.any(1).all() and projection.bias.grad.all()


@LAYOUTS
@pytest.mark.parametrize("labelled", [True, False])
def test_gradients_without_any_object_of_points(layout, labelled):
    rng = np.random.default_rng(17)
    model = tiny_model(layout=layout, **POINTS).train()
    batch = [training_input(rng, layout, SIZE, num_things=0) for _ in range(2)]
    for x in batch:
        if "sem_seg" in x and not labelled:
            x["sem_seg"] = torch.full_like(x["sem_seg"], 255)
    losses = model(batch)
    assert all(torch.isfinite(loss) and loss.requires_grad for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("strides", [(8, 4), (8, 8), (4, 2), (4, 4)])
def test_a_step_changes_every_parameter(strides, residual):
    """One image has no object, one more than there are kernels; stages of both kinds."""
    rng = np.random.default_rng(22)
    options = {**POINTS, "residual": residual, "neck_stride": strides[0], "mask_stride": strides[1]}
    model = tiny_model(num_kernels=5, **options).train()
    batch = [training_input(rng, LAYOUT, SIZE, count) for count in (0, 7)]
    before = copy.deepcopy(model.state_dict())
    losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(losses.values()).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all() and not torch.equal(parameter, before[name]), name


def three_boxes():
    """An image of two boxes of one class and one of another, with their masks."""
    image, masks = torch.full((3, 64, 96), 90, dtype=torch.uint8), torch.zeros(3, 64, 96)
    for n, (y, x, color) in enumerate([(6, 8, 220), (30, 30, 220), (10, 64, 30)]):
        masks[n, y : y + 22, x : x + 20] = 1
        image[n // 2, y : y + 22, x : x + 20] = color
    instances = Instances((64, 96))
    instances.gt_classes = torch.tensor([0, 0, 1])
    instances.gt_masks = BitMasks(masks > 0)
    return {"image": image, "instances": instances}


def test_learns_the_objects_of_one_image():
    """In 80 steps; then there is one instance an object, of its class and with its mask."""
    x = three_boxes()
    model = tiny_model(
        layout=THINGS_ONLY, num_kernels=12, neck_stride=4, mask_stride=2, seed=1, **POINTS
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(80):
        loss = sum(model([x]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.1 * totals[0]
    model.eval()
    (result,) = model([x])
    instances = result["instances"]
    found = instances[instances.scores > 0.5]
    assert len(found) == 3 and not ((instances.scores > 0.25) & (instances.scores < 0.5)).any()
    for mask, label in zip(x["instances"].gt_masks.tensor, [0, 0, 1]):
        inside, either = (
            (found.pred_masks & mask).sum((1, 2)),
            (found.pred_masks | mask).sum((1, 2)),
        )
        assert found.pred_classes[(inside / either > 0.9)].tolist() == [label]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_points_train_under_autocast(dtype):
    rng = np.random.default_rng(23)
    model = tiny_model(**POINTS).train()
    batch = [training_input(rng, LAYOUT, SIZE) for _ in range(2)]
    with torch.autocast("cpu", dtype=dtype):
        losses = model(batch)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_points_need_no_more_host_reads(monkeypatch):
    """A training step of a whole model, beside one of the published form."""
    counts = []
    for options in ({}, POINTS):
        batch = [training_input(np.random.default_rng(24), LAYOUT, SIZE) for _ in range(2)]
        model = tiny_model(**options).train()
        with monkeypatch.context() as patch:
            reads = HostReads(patch)
            with reads:
                sum(model(batch).values()).backward()
        counts.append(dict(reads.count))
    assert counts[0]["cpu"] >= 1
    assert counts[1] == counts[0]


# --- inference -----------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("size", [(2, 2), (20, 31)])
def test_an_image_with_fewer_cells_than_kernels(size, layout):
    """16 cells and 20 kernels: trains, and gives as many results as for a large image."""
    rng = np.random.default_rng(25)
    model = tiny_model(layout=layout, num_kernels=20, **POINTS).train()
    losses = model([training_input(rng, layout, size)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    model.eval()
    (result,) = model([{"image": training_input(rng, layout, size)["image"]}])
    instances = result["instances"]
    assert len(instances) == min(100, 20 * layout.num_things)
    assert instances.pred_masks.shape[1:] == size
    assert torch.isfinite(instances.scores).all() and torch.isfinite(result["sem_seg"]).all()


def test_a_batch_is_its_images_alone():
    rng = np.random.default_rng(26)
    model = tiny_model(num_kernels=10, **POINTS).eval()
    images = [{"image": training_input(rng, LAYOUT, SIZE)["image"]} for _ in range(2)]
    for x, together in zip(images, model(images)):
        (alone,) = model([x])
        found, expected = together["instances"], alone["instances"]
        assert torch.equal(found.pred_kernels, expected.pred_kernels)
        assert torch.equal(found.pred_classes, expected.pred_classes)
        assert torch.equal(found.pred_masks, expected.pred_masks)
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(together["sem_seg"], alone["sem_seg"])
        assert torch.equal(together["panoptic_seg"][0], alone["panoptic_seg"][0])


# --- config --------------------------------------------------------------------------------------

KEYS = {
    "MODEL.KNET.KERNEL_HEAD.NAME": "PointKernelHead",
    "MODEL.KNET.KERNEL_UPDATE.RESIDUAL": True,
    "MODEL.KNET.LOSS.POINT_WEIGHT": 0.5,
    "MODEL.KNET.TEST.MASK_QUALITY": True,
}


def test_a_config_builds_it(tiny_options):
    torch.manual_seed(0)
    model = build_model(load_config(DEMO_CONFIG, pairs({**tiny_options, **KEYS})))
    head = model.kernel_head
    assert type(head) is PointKernelHead
    assert head.num_kernels == 8 and head.kernel_proj.out_features == 16 + 2
    assert head.point_proj.out_channels == head.num_thing_classes
    assert head.semantic_kernels.out_channels > head.num_thing_classes
    assert len(model.kernel_update_heads) == 2
    assert all(stage.residual for stage in model.kernel_update_heads)
    assert model.criterion.point_weight == 0.5 and model.postprocessor.mask_quality is True
    size, layout = (48, 64), model.target_builder.layout
    losses = model.train()([training_input(np.random.default_rng(0), layout, size)])
    assert torch.isfinite(losses["loss_point"])


def test_a_config_without_the_keys_builds_the_published_form(tiny_options):
    model = build_model(load_config(DEMO_CONFIG, pairs(tiny_options)))
    assert type(model.kernel_head) is KernelHead
    assert not any(stage.residual for stage in model.kernel_update_heads)
    assert model.postprocessor.mask_quality is False


def test_the_config_of_the_comparison():
    cfg = load_config(str(REPO / "configs" / "compare" / "nuclei_knet_fast.yaml")).MODEL.KNET
    assert cfg.KERNEL_HEAD.NAME == "PointKernelHead"
    assert cfg.KERNEL_UPDATE.RESIDUAL is True and cfg.TEST.MASK_QUALITY is True


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_point_weight(weight):
    rng = np.random.default_rng(27)
    model = tiny_model(**POINTS).train()
    batch = [training_input(rng, LAYOUT, SIZE)]
    before = model(batch)
    assert isinstance(model.criterion, Criterion) and model.criterion.point_weight == 1
    model.criterion.point_weight = weight
    for name, loss in model(batch).items():
        factor = weight if name == "loss_point" else 1
        assert loss.item() == pytest.approx(before[name].item() * factor, rel=1e-6)
