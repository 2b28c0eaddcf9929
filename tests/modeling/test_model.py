"""The whole model, tiny: gradients, images without objects, free settings, autocast."""

import copy

import numpy as np
import pytest
import torch

from knet.data.class_layout import ClassLayout

from .. import slow_reference as slow
from ..tiny_model import LAYOUT, SIZE, THINGS_ONLY, tiny_model, training_input
from .test_criterion import Case, check_match, slow_losses


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
