"""The optimizer: its groups, and the gradient clipped as a whole."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from knet.engine import build_optimizer
from knet.engine.bad_steps import CheckedTrainer
from knet.errors import UsageError


@pytest.fixture
def tiny_config(tiny_config):
    tiny_config.SOLVER.FUSED = False  # what is compared is equal to the bit
    return tiny_config


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return build_model(tiny_config)


def named_groups(optimizer, model):
    """{parameter name: its group}; every parameter once."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], g) for g in optimizer.param_groups for p in g["params"]]
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


def test_the_backbone_alone_learns_slower_and_everything_decays(tiny_config, model):
    tiny_config.SOLVER.BASE_LR = 0.01
    tiny_config.SOLVER.BACKBONE_MULTIPLIER = 0.25
    optimizer = build_optimizer(tiny_config, model)
    groups = named_groups(optimizer, model)
    assert groups.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, group in groups.items():
        slow = name.startswith("backbone.bottom_up.")
        assert group["lr"] == pytest.approx(0.01 * (0.25 if slow else 1), rel=1e-12), name
        assert group["weight_decay"] == 0.05, name
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    for kind in ("backbone.fpn_", "kernel_update_heads.", "norm.weight", ".bias"):
        assert any(kind in name for name in groups), "the loop above must have seen them all"


def test_what_is_frozen_is_not_optimized(tiny_config):
    tiny_config.MODEL.BACKBONE.FREEZE_AT = 2
    model = build_model(tiny_config)
    groups = named_groups(build_optimizer(tiny_config, model), model)
    assert not any(".stem." in name or ".res2." in name for name in groups)
    assert any(".res3." in name for name in groups)


class Small(nn.Module):
    """Enough of a model: a backbone without pyramid, a norm, a bias."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


def test_a_backbone_without_pyramid_is_slow_as_a_whole(tiny_config):
    model = Small()
    tiny_config.SOLVER.BASE_LR, tiny_config.SOLVER.BACKBONE_MULTIPLIER = 1.0, 0.5
    groups = named_groups(build_optimizer(tiny_config, model), model)
    rates = {name: group["lr"] for name, group in groups.items()}
    assert {name for name, lr in rates.items() if lr == 0.5} == {"backbone.weight", "backbone.bias"}
    assert set(rates.values()) == {0.5, 1.0}


def gradients(model, scale, seed=0):
    """Random gradients whose norm over all parameters together is about `scale`."""
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
    norm = torch.cat([g.flatten() for g in grads]).norm()
    return [g * scale / norm for g in grads]


def set_gradients(model, grads):
    for p, grad in zip(model.parameters(), grads):
        p.grad = grad.clone()


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
@pytest.mark.parametrize("scale", [1000.0, 3.0, 0.01])
def test_two_steps_equal_clipping_by_hand(tiny_config, name, scale):
    torch.manual_seed(0)
    tiny_config.SOLVER.OPTIMIZER, tiny_config.SOLVER.BACKBONE_MULTIPLIER = name, 0.25
    ours = Small()
    by_hand = copy.deepcopy(ours)
    optimizer = build_optimizer(tiny_config, ours)
    groups = [
        {**group, "params": [dict(by_hand.named_parameters())[n] for n in names]}
        for group, names in (
            (g, [n for n, p in ours.named_parameters() if any(p is q for q in g["params"])])
            for g in optimizer.param_groups
        )
    ]
    cls = torch.optim.AdamW if name == "ADAMW" else torch.optim.SGD
    assert len(groups) == 2
    plain = cls(groups, lr=tiny_config.SOLVER.BASE_LR)
    for step in range(2):
        grads = gradients(ours, scale * (step + 1), seed=step)
        set_gradients(ours, grads)
        set_gradients(by_hand, grads)
        norm = nn.utils.clip_grad_norm_(list(by_hand.parameters()), 1.0)
        assert norm == pytest.approx(scale * (step + 1), rel=1e-4)
        optimizer.step()
        plain.step()
    for (key, a), b in zip(ours.named_parameters(), by_hand.parameters()):
        assert torch.equal(a, b), key
        for state, value in plain.state[b].items():
            assert torch.equal(optimizer.state[a][state], value), (key, state)


def test_the_norm_is_of_all_groups_together(tiny_config):
    # two groups of norm 0.8 each: clipped group by group, or each parameter alone, neither would
    # change; together they have the norm 1.13
    tiny_config.SOLVER.OPTIMIZER, tiny_config.SOLVER.BACKBONE_MULTIPLIER = "SGD", 0.25
    model = Small()
    optimizer = build_optimizer(tiny_config, model)
    assert len(optimizer.param_groups) == 2
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    model.backbone.weight.grad[0, 0] = 0.8
    model.head.weight.grad[0, 0] = 0.8
    optimizer.step()
    factor = 1 / (0.8 * 2**0.5)
    assert model.backbone.weight.grad[0, 0] == pytest.approx(0.8 * factor, rel=1e-5)
    assert model.head.weight.grad[0, 0] == pytest.approx(0.8 * factor, rel=1e-5)


def test_clipping_can_be_switched_off(tiny_config):
    tiny_config.SOLVER.CLIP_GRADIENTS.ENABLED = False
    model = Small()
    optimizer = build_optimizer(tiny_config, model)
    assert type(optimizer) is torch.optim.AdamW
    grads = gradients(model, 1000.0)
    set_gradients(model, grads)
    optimizer.step()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads))


def test_value_and_norm_type_are_the_configs(tiny_config):
    tiny_config.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    tiny_config.SOLVER.CLIP_GRADIENTS.NORM_TYPE = float("inf")
    model = Small()
    optimizer = build_optimizer(tiny_config, model)
    set_gradients(model, gradients(model, 1000.0))
    optimizer.step()
    largest = max(p.grad.abs().max() for p in model.parameters())
    assert largest == pytest.approx(0.5, rel=1e-4)


def test_sgd_has_the_configs_momentum(tiny_config):
    tiny_config.SOLVER.OPTIMIZER = "sgd"
    tiny_config.SOLVER.MOMENTUM, tiny_config.SOLVER.NESTEROV = 0.7, True
    optimizer = build_optimizer(tiny_config, Small())
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(g["momentum"] == 0.7 and g["nesterov"] for g in optimizer.param_groups)


def test_state_survives_saving(tiny_config):
    model = Small()
    optimizer = build_optimizer(tiny_config, model)
    set_gradients(model, gradients(model, 5.0))
    optimizer.step()
    other = build_optimizer(tiny_config, model)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(
        other.state[model.head.weight]["exp_avg"], optimizer.state[model.head.weight]["exp_avg"]
    )


@pytest.mark.parametrize(
    "key, value",
    [("OPTIMIZER", "LION"), ("OPTIMIZER", ""), ("CLIP_GRADIENTS.CLIP_TYPE", "value")],
)
def test_an_unknown_name_is_told_with_the_known_ones(tiny_config, key, value):
    tiny_config.merge_from_list([f"SOLVER.{key}", value])
    with pytest.raises(UsageError) as error:
        build_optimizer(tiny_config, Small())
    assert f"SOLVER.{key} is '{value}'" in str(error.value)
    assert ("ADAMW, MUON or SGD" if key == "OPTIMIZER" else "full_model") in str(error.value)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_gradient_is_neither_removed_nor_turned_around(tiny_config, value):
    tiny_config.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = value
    with pytest.raises(UsageError, match=r"SOLVER\.CLIP_GRADIENTS\.CLIP_VALUE"):
        build_optimizer(tiny_config, Small())


class TestFused:
    """One kernel for the step: on a CPU where this torch has one, else told."""

    @pytest.fixture
    def config(self, tiny_config):
        tiny_config.SOLVER.FUSED, tiny_config.SOLVER.BACKBONE_MULTIPLIER = True, 0.25
        return tiny_config

    @pytest.fixture
    def fused(self, config):
        try:
            return build_optimizer(config, Small()).param_groups[0]["fused"]
        except UsageError as error:
            assert "SOLVER.FUSED" in str(error) and "ADAMW for a cpu" in str(error)
            pytest.skip(str(error))

    def test_by_default_it_is_used_where_there_is_one(self, config, fused):
        config.SOLVER.FUSED = None
        assert build_optimizer(config, Small()).param_groups[0]["fused"] is True

    @pytest.mark.parametrize("name", ["ADAMW", "MUON", "SGD"])
    def test_by_default_every_torch_makes_a_step(self, config, name):
        """One that is built need not be one that has the kernel."""
        config.SOLVER.FUSED, config.SOLVER.OPTIMIZER = None, name
        model = Small()
        before = [parameter.clone() for parameter in model.parameters()]
        optimizer = build_optimizer(config, model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert not any(map(torch.equal, before, model.parameters()))

    def test_by_default_a_torch_without_it_does_without(self, config, monkeypatch):
        monkeypatch.setattr("knet.engine.optimizer._has_fused", lambda kind, device: False)
        config.SOLVER.FUSED = None
        assert not build_optimizer(config, Small()).param_groups[0]["fused"]
        config.SOLVER.FUSED = True
        with pytest.raises(UsageError, match=r"SOLVER\.FUSED is True.* no fused ADAMW for a cpu"):
            build_optimizer(config, Small())

    def test_other_devices_have_it_only_if_wanted(self, config):
        config.SOLVER.FUSED = None
        optimizer = build_optimizer(config, Small().to("meta"))
        assert not optimizer.param_groups[0]["fused"]

    @pytest.mark.parametrize("word", ["False", "None", "True"])
    def test_the_key_takes_all_three(self, config, word):
        config.merge_from_list(["SOLVER.FUSED", word])
        assert config.SOLVER.FUSED is {"False": False, "None": None, "True": True}[word]
        again = config.clone()
        again.merge_from_other_cfg(config.load_cfg(config.dump()))
        assert again.SOLVER.FUSED is config.SOLVER.FUSED

    @pytest.mark.parametrize("scale", [1000.0, 0.01])
    def test_it_does_the_same(self, config, fused, scale):
        torch.manual_seed(0)
        ours = Small()
        plain = copy.deepcopy(ours)
        first = build_optimizer(config, ours)
        config.SOLVER.FUSED = False
        second = build_optimizer(config, plain)
        for step in range(3):
            for model, optimizer in ((ours, first), (plain, second)):
                set_gradients(model, gradients(ours, scale, seed=step))
                optimizer.step()
        for a, b in zip(ours.parameters(), plain.parameters()):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)

    def test_the_clip_sees_gradients_without_the_scale(self, config, fused):
        """A fused optimizer unscales in its kernel, behind the clip, unless it is done before."""
        torch.manual_seed(0)
        ours = Learning()
        plain = copy.deepcopy(ours)
        trainers = []
        for model, scaled in ((ours, True), (plain, False)):
            trainer = CheckedTrainer(
                model, iter([[3.0], [2.0]]), build_optimizer(config, model), max_bad=0, mixed=False
            )
            trainer._scaler = torch.amp.GradScaler("cpu", enabled=scaled)
            trainers.append(trainer)
        for trainer in trainers:
            with EventStorage(0):
                for trainer.iter in range(2):
                    trainer.run_step()
        for a, b in zip(ours.parameters(), plain.parameters()):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        moments = [trainer.optimizer.state[trainer.model.head.weight] for trainer in trainers]
        torch.testing.assert_close(moments[0]["exp_avg"], moments[1]["exp_avg"])

    def test_a_state_of_another_kind_is_gone_on_with(self, config, fused):
        torch.manual_seed(0)
        first = Small()
        states = {}
        for is_fused in (True, False):
            config.SOLVER.FUSED = is_fused
            model = copy.deepcopy(first)
            optimizer = build_optimizer(config, model)
            set_gradients(model, gradients(model, 1.0))
            optimizer.step()
            states[is_fused] = model, optimizer
        (model, optimizer), (_, other) = states[True], states[False]
        optimizer.load_state_dict(other.state_dict())
        assert all(group["fused"] for group in optimizer.param_groups)
        optimizer.step()
        assert optimizer.state[model.head.weight]["step"] == 2


class Learning(Small):
    def forward(self, batch):
        return {"loss": batch[0] * self.head(self.norm(self.backbone(torch.ones(2, 3)))).mean()}
