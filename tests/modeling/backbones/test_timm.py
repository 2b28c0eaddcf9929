"""Any timm model as a backbone: its features, its names, freezing, what does not do."""

import sys

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from knet.errors import UsageError
from knet.modeling.backbones.timm_backbone import TimmBackbone

from .building import backward, build, image, sizes, without_gradient

timm = pytest.importorskip("timm")

_LEVELS = ["res2", "res3", "res4", "res5"]
_MODELS = [
    "mobilenetv2_100",
    "resnet18",
    "efficientnet_lite0",
    "tf_efficientnet_lite0",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
]


def build_timm(name, **keys):
    return build("build_timm_backbone", TIMM__NAME=name, **keys)


def build_timm_fpn(name, **keys):
    keys = {"FPN__IN_FEATURES": _LEVELS, **keys}
    return build("build_timm_fpn_backbone", TIMM__NAME=name, **keys)


@pytest.mark.parametrize("name", _MODELS)
def test_features_are_timms(name):
    ours = build_timm(name).eval()
    settings = {"strict_img_size": False} if "swin" in name else {}
    theirs = timm.create_model(name, features_only=True, **settings).eval()
    # it calls some module "layers_0" that is "layers.0" in the model
    weights = {k.replace("_", "."): v for k, v in ours.model.state_dict().items()}
    theirs.load_state_dict({k: weights[k.replace("_", ".")] for k in theirs.state_dict()})
    images = image(64, 96)
    with torch.no_grad():
        features, expected = ours(images), theirs(images)[-4:]
    for (level, stride), feature, other in zip(zip(_LEVELS, (4, 8, 16, 32)), features, expected):
        if name.startswith("swin"):
            other = other.permute(0, 3, 1, 2)
        assert feature == level
        assert ours.output_shape()[level].stride == stride
        assert ours.output_shape()[level].channels == other.shape[1]
        torch.testing.assert_close(features[level], other)


@pytest.mark.parametrize("name", _MODELS)
def test_names_are_timms_and_everything_learns(name):
    ours = build_timm(name)
    wanted = timm.create_model(name).state_dict()
    names = [parameter for parameter, _ in ours.named_parameters()]
    assert all(parameter.startswith("model.") for parameter in names)
    assert {parameter[len("model.") :] for parameter in names} <= set(wanted)
    assert ours.training
    backward(ours(image(64, 64, batch=2)))
    assert not without_gradient(ours)


@pytest.mark.parametrize("name, padded", [("mobilenetv2_100", False), ("convnext_atto", True)])
@pytest.mark.parametrize("size", [(37, 65), (50, 94)])
def test_image_size(name, padded, size):
    """Models whose features would lose the last pixels ask for padding."""
    backbone = build_timm(name).eval()
    divisor = backbone.size_divisibility
    assert divisor == (32 if padded else 0)
    if padded:
        size = tuple(-(-side // divisor) * divisor for side in size)
    features = backbone(image(*size))
    for level, spec in backbone.output_shape().items():
        expected = (spec.channels, *(-(-side // spec.stride) for side in size))
        assert sizes(features)[level] == expected


def test_images_of_one_channel():
    backbone = build_timm("resnet18", PIXEL_MEAN=[1.0], PIXEL_STD=[1.0])
    assert list(backbone(image(64, 64, channels=1, batch=2))) == _LEVELS


def test_only_what_the_outputs_need_is_built():
    images = image(64, 64)
    whole = build_timm("mobilenetv2_100").eval()
    part = build_timm("mobilenetv2_100", TIMM__OUT_FEATURES=["res4", "res3"]).eval()
    part.load_state_dict(whole.state_dict(), strict=False)
    expected, features = whole(images), part(images)
    assert list(features) == ["res3", "res4"]
    assert all(torch.equal(features[name], expected[name]) for name in features)
    assert len(part.state_dict()) < len(whole.state_dict())
    backward(features)
    assert not without_gradient(part)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "swin_tiny_patch4_window7_224"])
def test_pyramid(name):
    fpn = build_timm_fpn(name, TIMM__OUT_FEATURES=["res5"])
    features = fpn(image(64, 96, batch=2))
    assert sizes(features) == {
        "p2": (8, 16, 24),
        "p3": (8, 8, 12),
        "p4": (8, 4, 6),
        "p5": (8, 2, 3),
    }
    assert fpn.size_divisibility == 32
    backward(features)
    assert not without_gradient(fpn)


def test_pyramid_pads_for_the_network_below():
    """This one asserts sides that 32 divides, whatever levels are taken."""
    fpn = build_timm_fpn("hrnet_w18_small", FPN__IN_FEATURES=["res2", "res3"])
    assert fpn.size_divisibility == 32


def test_model_without_stride_4():
    with pytest.raises(UsageError, match="features of stride 16, 32, 64 only, but res2 has str"):
        build_timm("shvit_s1")
    fpn = build_timm_fpn("shvit_s1", FPN__IN_FEATURES=["res4", "res5"])
    assert list(fpn(image(64, 64, batch=2))) == ["p4", "p5"]


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18"])
def test_freezing(name):
    backbone = build_timm(name, BACKBONE__FREEZE_AT=3, BACKBONE__NORM_EVAL=False)
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = image(64, 64, batch=2)
    features = backbone(images)
    backward(features)
    assert not features["res2"].requires_grad and not features["res3"].requires_grad
    # all else learns, statistics too
    changed = {key for key, value in backbone.state_dict().items() if not value.equal(before[key])}
    for key, module in backbone.named_modules():
        if isinstance(module, _BatchNorm):
            learns = module.weight.requires_grad
            assert (module.weight.grad is not None) == learns
            assert (f"{key}.running_mean" in changed) == learns
    assert 0 < len(without_gradient(backbone)) < len(list(backbone.parameters()))


@pytest.mark.parametrize("norm_eval", [True, False])
def test_statistics_stay_or_are_learned_in_any_model(norm_eval):
    """Detectron2's meta-architectures know nothing of the key."""
    backbone = build_timm_fpn("mobilenetv2_100", BACKBONE__NORM_EVAL=norm_eval)
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backward(backbone(image(64, 64, batch=2)))
    after = backbone.state_dict()
    means = [key for key in after if key.endswith("running_mean")]
    assert means and all(after[key].equal(before[key]) == norm_eval for key in means)
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    assert all(m.weight.grad is not None for m in norms), "scale and shift learn"


def test_batch_norm_is_what_norm_eval_looks_for():
    norms = [m for m in build_timm("mobilenetv2_100").modules() if "Norm" in type(m).__name__]
    assert norms and all(isinstance(norm, _BatchNorm) for norm in norms)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("mobilenetv2_10", "MODEL.TIMM.NAME is 'mobilenetv2_10'.*mobilenetv2_100"),
        ("", "MODEL.TIMM.NAME is ''"),
        ("hf-hub:timm/resnet18.a1_in1k", r"timm\.list_models\(\), such as resnet18,"),
        ("resnet18.no_such_tag", "timm cannot make MODEL.TIMM.NAME resnet18.no_such_tag: .*tag"),
        ("vit_tiny_patch16_224", "features of stride 16 only, but res2"),
        ("inception_v3", "inception_v3 makes features whose sizes are not"),
        ("coatnet_0_rw_224", "coatnet_0_rw_224 does not take images of any size"),
    ],
)
def test_models_that_do_not_do(name, sentence):
    with pytest.raises(UsageError, match=sentence):
        build_timm(name)


def test_pretrained_weights_that_cannot_be_had(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no network\nmore about it")

    monkeypatch.setattr(timm, "create_model", fail)
    sentence = r"resnet18 with its weights \(MODEL.TIMM.PRETRAINED\): no network$"
    with pytest.raises(UsageError, match=sentence):
        build_timm("resnet18", TIMM__PRETRAINED=True)


@pytest.mark.parametrize("freeze_at", [1, 6])
def test_wrong_freezing(freeze_at):
    with pytest.raises(UsageError, match=rf"FREEZE_AT is {freeze_at}: .*\(0\).*res2 \(2\)"):
        build_timm("resnet18", BACKBONE__FREEZE_AT=freeze_at)


@pytest.mark.parametrize("wanted", [[], ["p2"]])
def test_wrong_features(wanted):
    with pytest.raises(UsageError, match=r"MODEL.TIMM.OUT_FEATURES .*res2, res3, res4, res5"):
        build_timm("resnet18", TIMM__OUT_FEATURES=wanted)
    with pytest.raises(UsageError, match=r"MODEL.FPN.IN_FEATURES .*res2, res3, res4, res5"):
        build_timm_fpn("resnet18", FPN__IN_FEATURES=wanted)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="timm is not installed"):
        build_timm("resnet18")


def test_output_stride_dilates():
    """The last feature keeps its channels and weights, at a finer grid."""
    image = torch.rand(1, 3, 96, 128)
    plain = TimmBackbone(name="mobilenetv2_035", out_features=["res5"]).eval()
    dilated = TimmBackbone(name="mobilenetv2_035", out_features=["res4"], output_stride=16).eval()
    dilated.load_state_dict(plain.state_dict())
    feature = dilated(image)["res4"]
    assert dilated.output_shape()["res4"].channels == plain.output_shape()["res5"].channels
    assert feature.shape[-2:] == (6, 8)
    # the strided network sees every second cell of what the dilated one computes
    torch.testing.assert_close(feature[..., ::2, ::2], plain(image)["res5"])
    with pytest.raises(UsageError, match=r"has features of stride 2, 4, 8 only, but res4"):
        TimmBackbone(name="mobilenetv2_035", out_features=["res4"], output_stride=8)
