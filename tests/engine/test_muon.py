"""Muon: matrices step along the orthogonal factor of their gradient, all else as with AdamW."""

import copy
import re

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from knet.engine import build_optimizer
from knet.engine.muon import Muon, orthogonal_factors
from knet.modeling.semantic import find_classifier

from ..modeling.semantic.heads import BASE_HEADS, NUM_CLASSES, small_config


def random_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


class TestOrthogonalFactors:
    @pytest.mark.parametrize("shape", [(16, 90), (90, 16), (24, 24), (1, 30), (30, 1)])
    def test_they_keep_the_directions_and_make_them_one_length(self, shape):
        torch.manual_seed(0)
        u, _, v = torch.linalg.svd(torch.randn(3, *shape).double(), full_matrices=False)
        values = torch.linspace(0.02, 1, u.shape[2]) * torch.tensor([1e3, 1.0, 1e-3])[:, None]
        matrices = (u @ values.diag_embed().double() @ v).float()
        values = u.mT @ orthogonal_factors(matrices).double() @ v.mT
        of_directions = values.diagonal(dim1=1, dim2=2).clone()
        assert of_directions.min() > 0.6 and of_directions.max() < 1.3
        values.diagonal(dim1=1, dim2=2).zero_()
        assert values.abs().max() < 1e-4

    @pytest.mark.parametrize("shape", [(16, 90), (90, 16), (24, 24)])
    def test_equal_the_iteration_of_the_matrix_itself(self, shape):
        torch.manual_seed(0)
        # values over three powers of ten, as those of gradients are
        matrix = torch.randn(shape) @ torch.logspace(0, -3, shape[1]).diag()
        wanted = matrix.double() / matrix.double().norm()
        is_tall = shape[0] > shape[1]
        wanted = wanted.t() if is_tall else wanted
        for _ in range(5):
            square = wanted @ wanted.t()
            wanted = 3.4445 * wanted + (-4.7750 * square + 2.0315 * square @ square) @ wanted
        wanted = wanted.t() if is_tall else wanted
        (factor,) = orthogonal_factors(matrix[None])
        torch.testing.assert_close(factor.double(), wanted, rtol=0, atol=1e-3)

    def test_nothing_learned_moves_nothing(self):
        assert torch.equal(orthogonal_factors(torch.zeros(1, 3, 5)), torch.zeros(1, 3, 5))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to equal")
@pytest.mark.parametrize("shape", [(16, 90), (90, 16), (24, 24)])
def test_equals_that_of_torch(shape):
    """To the rounding of torch's, which computes in bfloat16."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    settings = {"lr": 0.01, "weight_decay": 0.05}
    pairs = [
        (ours, Muon([{"params": [ours], "muon": True}], **settings)),
        (theirs, torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)),
    ]
    for _ in range(5):
        gradient = torch.randn(shape)
        for parameter, optimizer in pairs:
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_step_is_of_the_size_of_one_of_adamw():
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, 3, bias=False)
    before = conv.weight.detach().clone()
    optimizer = Muon([{"params": [conv.weight], "muon": True}], lr=0.01, weight_decay=0.0)
    random_gradients(conv, seed=0)
    optimizer.step()
    moved = (conv.weight.detach() - before).square().mean().sqrt()
    assert moved == pytest.approx(0.01 * 0.2, rel=0.2)


@pytest.fixture
def config(tiny_config):
    tiny_config.SOLVER.OPTIMIZER, tiny_config.SOLVER.BASE_LR = "MUON", 0.01
    return tiny_config


def names_of_matrices(optimizer, model):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p] for g in optimizer.param_groups if g["muon"] for p in g["params"]}


def test_matrices_are_hidden_weights_outside_the_backbone(config):
    config.SOLVER.BACKBONE_MULTIPLIER, config.SOLVER.NO_DECAY = 0.25, ["*.mask_layers.0.weight"]
    config.MODEL.KNET.KERNEL_HEAD.NAME = "PointKernelHead"
    config.MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH = True
    model = build_model(config)
    optimizer = build_optimizer(config, model)
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(learned)
    matrices = names_of_matrices(optimizer, model)
    own = {
        name
        for name, p in learned.items()
        if p.dim() > 1 and not name.startswith("backbone.bottom_up.")
    }
    assert {re.sub(r"\d", "s", name, count=1) for name in own - matrices} == {
        f"{layer}.weight"
        for layer in (
            *("kernel_head.point_proj", "kernel_head.kernel_proj", "kernel_head.vote_proj"),
            *("kernel_head.semantic_kernels", "kernel_update_heads.s.mask_proj"),
            *("kernel_update_heads.s.class_proj", "kernel_update_heads.s.iou_branch.6"),
        )
    }
    for part in ("backbone.fpn_", "neck.", "kernel_head.", "kernel_update_heads."):
        assert any(name.startswith(part) for name in matrices), part
    assert "kernel_update_heads.0.updater.kernel_proj.weight" in matrices
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.0025}
    undecayed = [g for g in optimizer.param_groups if g["weight_decay"] == 0.0]
    assert undecayed and all(group["muon"] for group in undecayed)


@pytest.mark.parametrize("base_head", BASE_HEADS)
def test_classifiers_of_semantic_models_are_no_matrices(base_head):
    cfg = small_config(base_head)
    cfg.SOLVER.OPTIMIZER = "MUON"
    model = build_model(cfg)
    head = model.sem_seg_head
    matrices = names_of_matrices(build_optimizer(cfg, model), model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    _, classifier = find_classifier(head.base_head, NUM_CLASSES)
    predicting = [classifier, *(stage.mask_proj for stage in head.kernel_update_heads)]
    assert len(predicting) > 1
    assert not matrices & {names[layer.weight] for layer in predicting}
    assert any(name.startswith("sem_seg_head.base_head.") for name in matrices)


def test_which_are_not_is_a_choice(config):
    config.SOLVER.NO_MUON = ["neck.*"]
    model = build_model(config)
    matrices = names_of_matrices(build_optimizer(config, model), model)
    assert not any(name.startswith("neck.") for name in matrices)
    assert "kernel_update_heads.0.mask_proj.weight" in matrices


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Conv2d(4, 2, 3)


def test_all_else_learns_as_with_adamw(config):
    config.SOLVER.CLIP_GRADIENTS.ENABLED = False  # a sum over parameters, in another order
    torch.manual_seed(0)
    ours = Small()
    theirs = copy.deepcopy(ours)
    optimizers = [build_optimizer(config, ours)]
    config.SOLVER.OPTIMIZER = "ADAMW"
    optimizers.append(build_optimizer(config, theirs))
    for step in range(3):
        for model, optimizer in zip((ours, theirs), optimizers):
            random_gradients(model, seed=step)
            optimizer.step()
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, others[name]) == (name != "head.weight"), name


def test_gradients_are_clipped_together_before_the_step(config):
    """A batch with a hundredfold gradient counts in the momentum as the others do."""
    moved = []
    for scale in (1e4, 1e2):
        torch.manual_seed(0)
        model = Small()
        optimizer = build_optimizer(config, model)
        for factor in (10.0, scale):
            random_gradients(model, seed=int(factor == 10.0))
            for parameter in model.parameters():
                parameter.grad *= factor
            optimizer.step()
        moved.append(model.head.weight.detach().clone())
    torch.testing.assert_close(*moved)


def test_going_on_from_a_saved_state_is_going_on(config):
    torch.manual_seed(0)
    straight = Small()
    optimizer = build_optimizer(config, straight)
    for step in range(2):
        random_gradients(straight, seed=step)
        optimizer.step()
    resumed = copy.deepcopy(straight)
    other = build_optimizer(config, resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, its in ((straight, optimizer), (resumed, other)):
        random_gradients(model, seed=2)
        its.step()
    for a, b in zip(straight.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


def test_a_gradient_that_overflowed_moves_nothing(config):
    """A fused step would see to it itself, for its own part."""
    config.SOLVER.FUSED = None
    model = Small()
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(config, model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model.head.weight.sum()).backward()
    random_gradients(model, seed=0)
    model.norm.bias.grad[0] = torch.inf
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_weight_without_gradient_stays(config):
    model = Small()
    before = model.head.weight.detach().clone()
    optimizer = build_optimizer(config, model)
    random_gradients(model, seed=0)
    model.head.weight.grad = None
    optimizer.step()
    assert torch.equal(model.head.weight, before)
