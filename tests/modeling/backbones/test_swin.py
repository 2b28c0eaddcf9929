"""Swin Transformer: Detectron2's own, for any image, stage selection, freezing, checkpointing."""

import copy
import sys

import pytest
import torch
from detectron2.modeling.backbone.swin import SwinTransformer

from knet.errors import UsageError

from .building import backward, build, image, sizes, without_gradient

_TINY = {
    "SWIN__EMBED_DIM": 8,
    "SWIN__DEPTHS": [2, 2, 2, 1],
    "SWIN__NUM_HEADS": [1, 2, 2, 4],
    "SWIN__WINDOW_SIZE": 4,
}
_ALL = ["p0", "p1", "p2", "p3"]


def build_swin(**keys):
    return build("build_swin_backbone", **{**_TINY, **keys})


def build_swin_fpn(**keys):
    keys = {"FPN__IN_FEATURES": _ALL, **_TINY, **keys}
    return build("build_swin_fpn_backbone", **keys)


def _detectron2s_own(drop_path_rate):
    pytest.importorskip("timm.models.layers")  # theirs imports it
    torch.manual_seed(0)
    return SwinTransformer(
        embed_dim=8,
        depths=[2, 2, 2, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        drop_path_rate=drop_path_rate,
    )


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_is_detectron2s_in_training_with_drop_path():
    ours, theirs = build_swin(SWIN__DROP_PATH_RATE=0.6), _detectron2s_own(0.6)
    ours.load_state_dict(theirs.state_dict())
    images = image(40, 56, batch=6)
    expected = [torch.manual_seed(3), theirs(images)][1]
    actual = [torch.manual_seed(3), ours(images)][1]
    undropped = copy.deepcopy(ours).eval()(images)
    for name in _ALL:
        assert torch.equal(actual[name], expected[name])
    assert not torch.equal(actual["p3"], undropped["p3"])


def test_needs_no_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models.layers", None)
    features = build_swin(SWIN__DROP_PATH_RATE=0.5)(image(32, 32, batch=2))
    assert list(features) == _ALL


@pytest.mark.filterwarnings("error")
def test_gives_no_warning():
    backward(build_swin(SWIN__CHECKPOINT=True)(image(32, 32)))


@pytest.mark.parametrize("size", [(32, 64), (33, 61), (9, 50), (3, 5), (1, 1)])
def test_any_image_size(size):
    swin = build_swin().eval()
    assert swin.size_divisibility == 0
    with torch.no_grad():
        features = swin(image(*size))
    height, width = size
    for i, name in enumerate(_ALL):
        stride = swin.output_shape()[name].stride
        assert stride == 4 * 2**i
        expected = (8 * 2**i, -(-height // stride), -(-width // stride))
        assert sizes(features)[name] == expected
        assert torch.isfinite(features[name]).all()


def test_images_of_four_channels():
    swin = build_swin(PIXEL_MEAN=[1.0] * 4, PIXEL_STD=[1.0] * 4)
    assert list(swin(image(32, 32, channels=4))) == _ALL


def test_only_what_the_outputs_need_is_built():
    images = image(40, 64)
    whole, part = build_swin(), build_swin(SWIN__OUT_FEATURES=["p1", "p2"])
    norms = [name for name, _ in part.named_children() if name.startswith("norm")]
    assert norms == ["norm1", "norm2"]
    part.load_state_dict(whole.state_dict(), strict=False)
    expected = whole.eval()(images)
    features = part.eval()(images)
    assert list(features) == ["p1", "p2"]
    assert all(torch.equal(features[name], expected[name]) for name in features)
    backward(features)
    assert not without_gradient(part)
    rates = [getattr(b.drop_path, "p", 0.0) for layer in part.layers for b in layer.blocks]
    assert rates == pytest.approx([0.2 * i / 6 for i in range(6)])  # of 7 blocks in all


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3])
def test_freezing(freeze_at):
    swin = build_swin(BACKBONE__FREEZE_AT=freeze_at, SWIN__DROP_PATH_RATE=0.5)
    swin.train()
    backward(swin(image(32, 48)))
    frozen = ["patch_embed.", "layers.0.", "layers.1."][:freeze_at]
    expected = [name for name, _ in swin.named_parameters() if name.startswith(tuple(frozen))]
    assert without_gradient(swin) == expected
    # no drop path where nothing learns
    assert [layer.training for layer in swin.layers] == [i >= freeze_at - 1 for i in range(4)]


def test_checkpointing_changes_nothing():
    plain, saving = build_swin(), build_swin(SWIN__CHECKPOINT=True)
    assert list(plain.state_dict()) == list(saving.state_dict())
    for swin in (plain, saving):
        torch.manual_seed(5)  # drop path
        backward(swin(image(33, 50, batch=3)))
    for a, b in zip(plain.parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_checkpointing_keeps_less():
    def kept(swin):
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            swin(image(64, 64))
        return total

    assert kept(build_swin(SWIN__CHECKPOINT=True)) < 0.5 * kept(build_swin())


def test_pyramid():
    fpn = build_swin_fpn(SWIN__OUT_FEATURES=["p3"])
    features = fpn(image(64, 96))
    assert sizes(features) == {
        "p2": (8, 16, 24),
        "p3": (8, 8, 12),
        "p4": (8, 4, 6),
        "p5": (8, 2, 3),
    }
    assert fpn.size_divisibility == 32
    backward(features)
    assert not without_gradient(fpn)
    weight = fpn.fpn_output3.weight
    bound = (6 / (9 * 8 + 9 * 8)) ** 0.5  # Xavier
    assert 0.9 * bound < weight.abs().max() <= bound
    assert not fpn.fpn_output3.bias.any()
    assert {"bottom_up.patch_embed.proj.weight", "bottom_up.norm0.weight"} <= set(fpn.state_dict())


def test_pyramid_of_fewer_levels():
    fpn = build_swin_fpn(FPN__IN_FEATURES=["p1", "p2"])
    assert list(fpn(image(32, 32))) == ["p3", "p4"]
    assert fpn.size_divisibility == 16


@pytest.mark.parametrize(
    "keys, sentence",
    [
        ({"SWIN__DEPTHS": [2, 2, 2]}, "MODEL.SWIN.DEPTHS .* one number for each of the 4"),
        ({"SWIN__NUM_HEADS": [1, 2, 3, 4]}, "NUM_HEADS has 3 heads for the 32 channels of stage 2"),
        ({"SWIN__OUT_FEATURES": ["res2"]}, "MODEL.SWIN.OUT_FEATURES .* p0, p1, p2, p3"),
        ({"SWIN__OUT_FEATURES": []}, "MODEL.SWIN.OUT_FEATURES"),
        ({"SWIN__DROP_PATH_RATE": 1.0}, "MODEL.SWIN.DROP_PATH_RATE is 1.0"),
        ({"BACKBONE__FREEZE_AT": 6}, "MODEL.BACKBONE.FREEZE_AT is 6"),
    ],
)
def test_wrong_keys(keys, sentence):
    with pytest.raises(UsageError, match=sentence):
        build_swin(**keys)


@pytest.mark.parametrize(
    "features, sentence",
    [
        ([], "MODEL.FPN.IN_FEATURES is .*p0, p1, p2, p3"),
        (["res2", "res3"], "MODEL.FPN.IN_FEATURES is .*p0, p1, p2, p3"),
        (["p0", "p2"], r"MODEL.FPN.IN_FEATURES .* strides \[4, 16\]"),
    ],
)
def test_wrong_pyramid(features, sentence):
    with pytest.raises(UsageError, match=sentence):
        build_swin_fpn(FPN__IN_FEATURES=features)
