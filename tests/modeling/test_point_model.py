"""Whole tiny models whose kernels start at points: training, results, config."""

import copy

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from knet.engine.main import load_config
from knet.modeling.criterion import SEMANTIC_LOSSES, Criterion
from knet.modeling.kernel_head import KernelHead
from knet.modeling.point_kernel_head import PointKernelHead

from ..conftest import DEMO_CONFIG, REPO, pairs
from ..host_reads import HostReads
from ..tiny_model import LAYOUT, SIZE, THINGS_ONLY, tiny_model, training_input

POINTS = {"kernel_head": PointKernelHead, "residual": True}
LAYOUTS = pytest.mark.parametrize("layout", [LAYOUT, THINGS_ONLY], ids=["panoptic", "instance"])


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


@pytest.mark.parametrize("semantic_loss, steps", [("cross_entropy", 80), ("focal", 120)])
def test_learns_the_objects_of_one_image(semantic_loss, steps):
    """Then there is one instance an object, of its class and with its mask."""
    x = three_boxes()
    options = {"neck_stride": 4, "mask_stride": 2, "semantic_loss": semantic_loss, **POINTS}
    model = tiny_model(layout=THINGS_ONLY, num_kernels=12, seed=1, **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(steps):
        loss = sum(model([x]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.02 * totals[0]
    model.eval()
    (result,) = model([x])
    instances = result["instances"]
    found = instances[instances.scores > 0.5]
    assert len(found) == 3 and not ((instances.scores > 0.2) & (instances.scores < 0.8)).any()
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
    "MODEL.KNET.NECK.INIT": "msra",
    "MODEL.KNET.LOSS.POINT_WEIGHT": 0.5,
    "MODEL.KNET.LOSS.SEMANTIC": "cross_entropy",
    "MODEL.KNET.TEST.MASK_QUALITY": True,
    "MODEL.KNET.TEST.MASK_QUALITY_POWER": 2.0,
    "MODEL.KNET.TEST.THINGS_FIRST": True,
    "MODEL.KNET.TEST.ENLARGE_LOGITS": True,
}


def test_a_config_builds_it(tiny_options):
    torch.manual_seed(0)
    model = build_model(load_config(DEMO_CONFIG, pairs({**tiny_options, **KEYS})))
    head = model.kernel_head
    assert type(head) is PointKernelHead
    assert head.num_kernels == 8 and head.kernel_proj.out_features == 16 + 4
    assert head.point_proj.out_channels == head.num_thing_classes
    assert head.semantic_kernels.out_channels > head.num_thing_classes
    assert len(model.kernel_update_heads) == 2
    assert all(stage.residual for stage in model.kernel_update_heads)
    assert model.criterion.point_weight == 0.5
    assert model.criterion.semantic_loss_of_cells is SEMANTIC_LOSSES["cross_entropy"]
    assert model.postprocessor.mask_quality is True and model.postprocessor.things_first is True
    assert model.postprocessor.enlarge_logits is True
    assert model.postprocessor.mask_quality_power == 2
    size, layout = (48, 64), model.target_builder.layout
    losses = model.train()([training_input(np.random.default_rng(0), layout, size)])
    assert torch.isfinite(losses["loss_point"])


def test_a_config_without_the_keys_builds_the_published_form(tiny_options):
    path = REPO / "configs" / "coco" / "panoptic" / "Base-Panoptic.yaml"
    cfg = load_config(str(path), pairs(tiny_options))
    assert cfg.MODEL.KNET.NECK.INIT == "normal" and cfg.MODEL.KNET.LOSS.SEMANTIC == "focal"
    model = build_model(cfg)
    assert type(model.kernel_head) is KernelHead
    assert not any(stage.residual for stage in model.kernel_update_heads)
    assert model.criterion.semantic_loss_of_cells is SEMANTIC_LOSSES["focal"]
    assert model.postprocessor.mask_quality is False and model.postprocessor.things_first is False
    assert model.postprocessor.enlarge_logits is False
    assert model.postprocessor.mask_quality_power == 1
    assert not any(stage.iou_branch for stage in model.kernel_update_heads)
    assert model.criterion.vote_weight == 0
    assert float(model.neck.semantic_conv.weight.std().detach()) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("name", ["Base-KNet-Fast", "compare/nuclei_knet_fast"])
def test_configs_of_the_fast_form(name):
    cfg = load_config(str(REPO / "configs" / f"{name}.yaml")).MODEL.KNET
    assert cfg.KERNEL_HEAD.NAME == "PointKernelHead"
    assert cfg.NECK.INIT == "msra"
    assert cfg.KERNEL_UPDATE.RESIDUAL is True and cfg.TEST.MASK_QUALITY is True
    assert cfg.TEST.ENLARGE_LOGITS is True
    assert cfg.KERNEL_UPDATE.IOU_BRANCH is True and cfg.LOSS.VOTE_WEIGHT == 1


@pytest.mark.parametrize("weight", [0.0, 3.0])
@pytest.mark.parametrize("name", ["point", "iou"])
def test_weights_of_losses(name, weight):
    rng = np.random.default_rng(27)
    model = tiny_model(**POINTS, iou_branch=True).train()
    batch = [training_input(rng, LAYOUT, SIZE)]
    before = model(batch)
    assert isinstance(model.criterion, Criterion)
    assert getattr(model.criterion, f"{name}_weight") == 1
    setattr(model.criterion, f"{name}_weight", weight)
    for loss_name, loss in model(batch).items():
        factor = weight if loss_name.startswith(f"loss_{name}") else 1
        assert loss.item() == pytest.approx(before[loss_name].item() * factor, rel=1e-6)


def test_a_vote_weight_adds_a_loss():
    rng = np.random.default_rng(28)
    model = tiny_model(**POINTS).train()
    batch = [training_input(rng, LAYOUT, SIZE)]
    before = model(batch)
    losses = []
    for weight in (1.0, 3.0):
        model.criterion.vote_weight = weight
        losses.append(model(batch))
    assert losses[0].keys() - before.keys() == {"loss_vote"}
    assert losses[0].pop("loss_vote").item() * 3 == pytest.approx(losses[1].pop("loss_vote").item())
    for name, loss in before.items():
        assert loss.item() == losses[0][name].item() == losses[1][name].item()
