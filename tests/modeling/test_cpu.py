"""What is faster on a CPU gives the same."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from knet.modeling.cpu import prefer_onednn, to_fast_layout
from tests.modeling.semantic.heads import small_config, training_batch

mkldnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN")


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(32, 64, 1),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 1, stride=2),
        nn.Conv2d(64, 32, 1, padding=1),
        nn.Conv2d(32, 32, 1, bias=False, groups=4),
    )


@mkldnn
def test_the_same_results_and_gradients():
    plain = convolutions()
    fast = copy.deepcopy(plain)
    prefer_onednn(fast)
    x = torch.rand(1, 32, 50, 60)
    torch.testing.assert_close(fast(x), plain(x))
    for model in (plain, fast):
        model(x).square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@mkldnn
def test_one_thread_computes_pixels_by_onednn():
    model = convolutions()[0]
    x, threads = torch.rand(1, 32, 50, 60), torch.get_num_threads()

    def kernels() -> set:
        with torch.no_grad(), torch.profiler.profile() as profile:
            model(x)
        return {event.key for event in profile.key_averages()}

    torch.set_num_threads(1)
    try:
        assert "aten::mkldnn_convolution" not in kernels()  # else there is nothing to mend
        prefer_onednn(model)
        assert "aten::mkldnn_convolution" in kernels()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_built_for_another_device_is_left_alone(device):
    cfg = small_config("SemSegFPNHead", "SemanticKNet")
    cfg.MODEL.DEVICE = device
    dilations = {m.dilation for m in build_model(cfg).modules() if isinstance(m, nn.Conv2d)}
    changed = device == "cpu" and torch.backends.mkldnn.is_available()
    assert dilations == ({(1, 1), (2, 2)} if changed else {(1, 1)})


def test_the_layout_is_for_inference():
    images = torch.rand(1, 3, 8, 8)
    assert to_fast_layout(images) is images
    with torch.no_grad():
        fast = to_fast_layout(images)
    assert fast.is_contiguous(memory_format=torch.channels_last) and torch.equal(fast, images)


def test_results_in_the_fast_layout_are_the_same():
    torch.manual_seed(0)
    model = build_model(small_config("DeepLabV3PlusHead", "SemanticKNet")).eval()
    batch, seen = training_batch(), []
    model.backbone.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    with torch.no_grad():
        result = model(batch)[0]["sem_seg"]
        assert seen[0].is_contiguous(memory_format=torch.channels_last)
        logits = model.sem_seg_head.predict(model.backbone(seen[0].contiguous()))[-1].mask_logits
    logits = nn.functional.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)
    assert (result - logits[0]).abs().max() < 1e-5 * logits.abs().max()


def frozen_at(number: int):
    cfg = small_config("SemSegFPNHead", "SemanticKNet")
    cfg.MODEL.BACKBONE.FREEZE_AT = number
    torch.manual_seed(0)
    return build_model(cfg).train()


@pytest.mark.parametrize("number, layers", [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_frozen_layers_alone_are_channels_last_in_training(number, layers):
    model, are_last = frozen_at(number), []
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
    for module in (bottom_up.stem, *bottom_up.stages):
        module.register_forward_pre_hook(
            lambda m, x: are_last.append(x[0].is_contiguous(memory_format=torch.channels_last))
        )
    losses = model(training_batch())
    assert are_last == [True] * layers + [False] * (len(are_last) - layers)
    sum(losses.values()).backward()


def test_losses_are_those_of_the_layout_before(monkeypatch):
    batch = training_batch()
    fast = frozen_at(2)(batch)
    monkeypatch.setattr("knet.modeling.semantic.meta_arch.frozen_in_fast_layout", lambda x: None)
    plain = frozen_at(2)(batch)
    for name, loss in plain.items():
        torch.testing.assert_close(fast[name], loss, rtol=1e-4, atol=0)
