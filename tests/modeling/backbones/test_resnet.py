"""ResNets: dilation, deep stem, deformable convolutions, what a config may ask for."""

import pytest
import torch
from detectron2.utils import comm
from torch.nn import functional as F

from knet.errors import UsageError
from knet.modeling.backbones.deform_conv import PortableDeformConv

from .building import backward, build, image, sizes, without_gradient

_LEVELS = ["res2", "res3", "res4", "res5"]
_TINY = {
    "RESNETS__STEM_OUT_CHANNELS": 8,
    "RESNETS__RES2_OUT_CHANNELS": 16,
    "RESNETS__WIDTH_PER_GROUP": 4,
    "RESNETS__OUT_FEATURES": _LEVELS,
    "RESNETS__NORM": "BN",
}
_DEFORMABLE = {"RESNETS__DEFORM_ON_PER_STAGE": [False, True, True, True]}


def build_deep_stem(**keys):
    return build("build_deep_stem_resnet_backbone", **{**_TINY, **keys})


def build_fpn(**keys):
    keys = {"FPN__IN_FEATURES": _LEVELS, **_TINY, **keys}
    return build("build_knet_resnet_fpn_backbone", **keys)


def _dilated(res4, res5, **keys):
    return build_deep_stem(RESNETS__RES4_DILATION=res4, RESNETS__RES5_DILATION=res5, **keys)


@pytest.mark.parametrize("dilation, strides", [((2, 4), (8, 8)), ((1, 2), (16, 16))])
@pytest.mark.parametrize("depth", [50, 101])
def test_dilated_network_is_the_strided_one_on_a_finer_grid(dilation, strides, depth):
    """Without stride, but with the right dilation everywhere, every s-th pixel stays the same."""
    plain = _dilated(1, 1, RESNETS__DEPTH=depth).eval()
    finer = _dilated(*dilation, RESNETS__DEPTH=depth).eval()
    finer.load_state_dict(plain.state_dict())
    assert [s.stride for s in plain.output_shape().values()] == [4, 8, 16, 32]
    assert [s.stride for s in finer.output_shape().values()] == [4, 8, *strides]
    images = image(128, 160)
    with torch.no_grad():
        expected, actual = plain(images), finer(images)
    for name, stride in zip(("res4", "res5"), strides):
        step = plain.output_shape()[name].stride // stride
        on_grid = actual[name][..., ::step, ::step]
        torch.testing.assert_close(on_grid, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 48), (33, 61), (50, 19)])
def test_any_image_size(size):
    resnet = _dilated(2, 4)
    assert resnet.size_divisibility == 0
    features = resnet.eval()(image(*size))
    eighth = tuple(-(-side // 8) for side in size)
    assert [shape[1:] for shape in list(sizes(features).values())[1:]] == [eighth] * 3


def test_deep_stem():
    resnet = build_deep_stem(RESNETS__STEM_OUT_CHANNELS=64, PIXEL_MEAN=[1.0] * 5)
    shapes = {name: tuple(p.shape) for name, p in resnet.stem.named_parameters() if p.dim() == 4}
    assert shapes == {
        "conv1.weight": (32, 5, 3, 3),
        "conv2.weight": (32, 32, 3, 3),
        "conv3.weight": (64, 32, 3, 3),
    }


def test_stride_is_in_the_3x3_convolution():
    block = build_deep_stem().res3[0]
    assert block.conv1.stride == (1, 1) and block.conv2.stride == (2, 2)


def test_sync_bn_learns_on_one_cpu():
    resnet = build_deep_stem(RESNETS__NORM="SyncBN")
    mean = resnet.stem.conv1.norm.running_mean.clone()
    backward(resnet(image(32, 32, batch=2)))
    assert not without_gradient(resnet)
    assert not torch.equal(resnet.stem.conv1.norm.running_mean, mean)


def test_freezing():
    resnet = build_deep_stem(BACKBONE__FREEZE_AT=2)
    backward(resnet(image(32, 32, batch=2)))
    learning = {name.split(".")[0] for name, p in resnet.named_parameters() if p.requires_grad}
    assert learning == {"res3", "res4", "res5"}


def _sampled_by_hand(x, offset, mask, weight, padding, dilation, stride):
    """Deformable convolution, kernel tap by kernel tap; zeros outside of the image."""
    batch, channels, height, width = x.shape
    kernel = weight.shape[-1]
    out_height, out_width = offset.shape[-2:]
    groups = offset.shape[1] // (2 * kernel**2)
    offset = offset.view(batch, groups, kernel**2, 2, out_height, out_width)
    out = 0
    for tap in range(kernel**2):
        rows = torch.arange(out_height) * stride - padding + tap // kernel * dilation
        columns = torch.arange(out_width) * stride - padding + tap % kernel * dilation
        for group in range(groups):
            part = slice(group * channels // groups, (group + 1) * channels // groups)
            y = rows[:, None] + offset[:, group, tap, 0]
            x_ = columns[None] + offset[:, group, tap, 1]
            grid = torch.stack([2 * x_ / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
            sampled = F.grid_sample(x[:, part], grid, align_corners=True)
            if mask is not None:
                sampled = sampled * mask[:, group * kernel**2 + tap, None]
            taps = weight[:, part].flatten(2)[..., tap]
            out = out + torch.einsum("oc,bchw->bohw", taps, sampled)
    return out


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("groups, stride, dilation", [(1, 1, 1), (2, 2, 1), (1, 1, 2)])
def test_deformable_convolution(modulated, groups, stride, dilation):
    torch.manual_seed(0)
    conv = PortableDeformConv(
        4, 6, 3, stride=stride, padding=dilation, dilation=dilation, deformable_groups=groups
    )
    x = torch.randn(2, 4, 9, 12)
    height, width = -(-9 // stride), -(-12 // stride)
    offset = 2 * torch.randn(2, 18 * groups, height, width)
    mask = torch.rand(2, 9 * groups, height, width) if modulated else None
    expected = _sampled_by_hand(x, offset, mask, conv.weight, dilation, dilation, stride)
    actual = conv(x, offset, mask) if modulated else conv(x, offset)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = conv(x.bfloat16(), offset, mask) if modulated else conv(x.bfloat16(), offset)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_resnet_learns_on_a_cpu(modulated):
    keys = {**_DEFORMABLE, "RESNETS__DEFORM_MODULATED": modulated, "RESNETS__DEPTH": 101}
    fpn = build_fpn(**keys)
    deformable = [name for name in fpn.state_dict() if name.endswith("conv2_offset.weight")]
    assert len(deformable) == 4 + 23 + 3
    backward(fpn(image(64, 64, batch=2)))
    assert not without_gradient(fpn)
    offsets = [p.grad for name, p in fpn.named_parameters() if "conv2_offset.weight" in name]
    assert all(gradient.abs().sum() > 0 for gradient in offsets)


def test_deformable_resnet_starts_as_the_plain_one():
    plain, deformable = build_fpn().eval(), build_fpn(**_DEFORMABLE).eval()
    missing = deformable.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(".conv2_offset." in name for name in missing)
    with torch.no_grad():
        expected, actual = plain(image(64, 96)), deformable(image(64, 96))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "keys, sentence",
    [
        ({"RESNETS__RES4_DILATION": 2, "RESNETS__RES5_DILATION": 2}, "do not fit together"),
        ({"RESNETS__DEPTH": 18}, "MODEL.RESNETS.DEPTH is 18.*50, 101, 152"),
        ({"RESNETS__OUT_FEATURES": ["p2"]}, "MODEL.RESNETS.OUT_FEATURES.*res2"),
        ({"RESNETS__DEFORM_ON_PER_STAGE": [True]}, "DEFORM_ON_PER_STAGE is .*four"),
    ],
)
def test_wrong_keys(keys, sentence):
    with pytest.raises(UsageError, match=sentence):
        build_deep_stem(**keys)


@pytest.mark.parametrize(
    "keys, sentence",
    [
        ({"RESNETS__DEPTH": 34, **_DEFORMABLE}, "DEPTH 34 has no deformable"),
        ({"FPN__IN_FEATURES": ["p2"]}, "MODEL.FPN.IN_FEATURES .*res2, res3, res4, res5"),
        ({"RESNETS__RES5_DILATION": 2}, r"strides \[4, 8, 16, 16\]"),
    ],
)
def test_wrong_pyramid(keys, sentence):
    with pytest.raises(UsageError, match=sentence):
        build_fpn(**keys)


def test_detectron2_without_compiled_operators(monkeypatch):
    """It puts classes that cannot be made where its deformable convolutions were."""
    for name in ("DeformConv", "ModulatedDeformConv"):
        monkeypatch.setattr(f"detectron2.modeling.backbone.resnet.{name}", None)
    assert "p5" in build_fpn(**_DEFORMABLE)(image(64, 64))


def test_sync_bn_among_cpus_is_told_at_once(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(UsageError, match=r"SyncBN .* naiveSyncBN or BN"):
        build_deep_stem(RESNETS__NORM="SyncBN")
