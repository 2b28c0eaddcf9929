"""What a state dict is taken for, and where its tensors go."""

import pytest
import torch
import torchvision
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import nn
from torch.nn import functional as F

from knet.checkpoint import from_official
from knet.checkpoint.architecture import describe, differences, published_config
from knet.checkpoint.fit import is_computed, require_fit
from knet.checkpoint.recognize import content_of, recognize
from knet.errors import UsageError
from tests.config.test_published_models import PUBLISHED
from tests.modeling.backbones.building import build as build_backbone

from . import key_lists, models

R50, R101 = "det__knet__knet_s3_r50_fpn_1x_coco", "det__knet__knet_s3_r101_fpn_ms-3x_coco"
SWIN_L = "det__knet__knet_s3_swin-l_fpn_ms-3x_16x2_coco-panoptic"
FCN = "seg__knet__knet_s3_fcn_r50-d8_80k_adamw_ade20k"
UPERNET = "seg__knet__knet_s3_upernet_r50-d8_80k_adamw_ade20k"
UPERNET_SWIN = "seg__knet__knet_s3_upernet_swin-t_80k_adamw_ade20k"


def ours(name: str) -> dict:
    return from_official(key_lists.official(name))[0]


def shapes(state_dict: dict) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


class Model(nn.Module):
    """A model that is all backbone."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone


def backbone_of(name: str, kind: str = "") -> dict:
    """A published model's backbone, under the names of the framework it comes from."""
    prefix = f"backbone.{kind}"
    names = key_lists.official(name).items()
    return {k[len("backbone.") :]: v for k, v in names if k.startswith(prefix)}


def places(state_dict: dict, model: dict):
    """(what it was taken for, the model's backbone tensors that get nothing, what is left over)"""
    recognized = recognize(state_dict, model)
    taken = recognized.state_dict
    for name in set(taken) & set(model):
        assert taken[name].shape == model[name].shape, name
    wanted = {n for n in model if n.startswith("backbone.") and "fpn_" not in n}
    missing = {name for name in wanted - set(taken) if not is_computed(name)}
    return recognized.what, missing, set(taken) - set(model)


@pytest.mark.parametrize("name", key_lists.NAMES)
def test_every_published_model_is_recognised_and_its_config_named(name):
    model = ours(name)
    recognized = recognize(key_lists.official(name), model)
    assert "official" in recognized.what and shapes(recognized.state_dict) == shapes(model)
    require_fit(recognized, model, path="weights.pth")  # raises if it does not fit
    config = published_config(recognized.architecture)
    published = from_official(key_lists.official(PUBLISHED[config].removesuffix(".json")))[0]
    if "baselines" in name:  # the same without any update
        assert recognized.architecture.stages == 0
        published = {k: v for k, v in published.items() if "kernel_update_heads" not in k}
    assert shapes(published) == shapes(model)


@pytest.mark.parametrize(
    "file, model, told",
    [
        (R101, R50, "backbone ResNet-101 and not ResNet-50.*coco/instance/knet_r101_ms3x.yaml"),
        (SWIN_L, R101, "backbone Swin-L and not ResNet-101.*coco/panoptic/knet_swin_l_ms3x.yaml"),
        (FCN, UPERNET, "head FCN and not UPerNet.*channels 512 and not 256.*knet_fcn_r50.yaml"),
        (UPERNET_SWIN, R50, "for semantic segmentation and not for panoptic.*upernet_swin_t.yaml"),
        (
            "mmseg__knet_s3_upernet_r50-d8_8x2_512x512_adamw_80k_ade20k",
            UPERNET,
            "channels 512 and not 256.*ade20k/mmseg_knet_upernet_r50.yaml",
        ),
        (
            "seg__baselines__fcn_r50-d8_512x512_80k_8x2_adamw_ade20k",
            FCN,
            "stages 0 and not 3.*knet_fcn_r50.yaml MODEL.KNET.NUM_STAGES 0",
        ),
    ],
)
def test_weights_of_another_model_are_told_apart(file, model, told):
    model = ours(model)
    with pytest.raises(UsageError, match=f"weights.pth.*{told}.*MODEL.WEIGHTS"):
        require_fit(recognize(key_lists.official(file), model), model, path="weights.pth")


def test_what_the_architecture_does_not_tell_is_named():
    file, model = key_lists.official(R50), ours(R50)
    name = "kernel_update_heads.0.feedforward.0.weight"
    for change, told in (
        (dict(model, **{name: torch.empty(1, 256)}), rf"{name} of shape \(2048, 256\) and not \(1"),
        ({k: v for k, v in model.items() if k != name}, f"with {name}, which this one lacks"),
        (dict(model, extra=torch.empty(1)), "without extra"),
    ):
        with pytest.raises(UsageError, match=told):
            require_fit(recognize(file, change), change, path="weights.pth")


def test_unusual_backbones_are_described():
    model = ours(R50)
    model["backbone.bottom_up.res2.0.conv3.weight"] = torch.empty(64, 16, 1, 1)
    model.pop("backbone.bottom_up.res5.2.conv1.weight")
    assert describe(model).backbone == "ResNet-50 of 64 channels"
    swin = {k: v for k, v in ours(SWIN_L).items() if ".layers.2.blocks.17." not in k}
    assert describe(swin).backbone == "Swin of 192 channels and (2, 2, 17, 2) blocks"
    assert describe({"backbone.x": torch.empty(1)}) is None


def started_at_points(model: dict) -> dict:
    """The tensors of a published model, but for the instance kernels that are learned."""
    model = {k: v for k, v in model.items() if "instance_kernels" not in k}
    return {**model, "kernel_head.point_proj.weight": torch.empty(80, 256, 1, 1)}


def test_where_kernels_start_is_described():
    learned, points = describe(ours(R50)), describe(started_at_points(ours(R50)))
    assert "ResNet-50, 100 instance kernels, 80 classes" in str(learned)
    assert "ResNet-50, instance kernels that start at points, 80 classes" in str(points)
    told = "kernels that are learned where this model's start at points"
    assert differences(learned, points) == [told]
    told = "kernels that start at points where this model's are learned"
    assert differences(points, learned) == [told]
    assert not differences(points, points)


@pytest.mark.parametrize("name", [R50, f"{R50}-panoptic", R101])
def test_no_published_config_starts_at_points(name):
    assert published_config(describe(ours(name)))
    assert published_config(describe(started_at_points(ours(name)))) is None


def test_a_whole_model_that_starts_at_points_is_described():
    model = models.build(models.PANOPTIC, MODEL__KNET__KERNEL_HEAD__NAME="PointKernelHead")
    found = describe(model.state_dict())
    assert (found.start, found.kernels) == ("points", 0)
    assert (found.classes, found.channels, found.stages) == (5, 16, 3)
    assert found.backbone == "ResNet-50 of 16 channels"


@pytest.mark.parametrize("name, depth", [(R50, 50), (R101, 101)])
def test_torchvision_resnet(name, depth):
    with torch.device("meta"):
        file = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    what, missing, left_over = places(file, ours(name))
    assert "torchvision" in what
    assert not missing and left_over == {"fc.weight", "fc.bias"}


def test_a_resnet_of_another_stem_gives_its_stages():
    model = ours(R50)
    taken = recognize(backbone_of(FCN), model).state_dict
    fitting = {name for name in set(taken) & set(model) if taken[name].shape == model[name].shape}
    assert {name for name in model if ".bottom_up.res" in name} <= fitting


@pytest.mark.parametrize("prefix", ["", "backbone.", "module."])
def test_mmseg_deep_stem_resnet(prefix):
    file = {prefix + k: v for k, v in backbone_of(FCN).items()}
    file[f"{prefix}fc.weight"] = torch.empty(1000, 2048)
    what, missing, left_over = places(content_of({"state_dict": file}), ours(FCN))
    assert "deep-stem" in what
    assert not missing and left_over == {"fc.weight"}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("name", [SWIN_L, UPERNET_SWIN])
def test_mm_swin(name, prefix):
    file = {prefix + k: v for k, v in backbone_of(name).items()}
    file["head.fc.weight"] = torch.empty(1000, 8)
    what, missing, left_over = places(file, ours(name))
    assert "mmdet" in what
    assert not missing and left_over == {"head.fc.weight"}


def test_mm_swin_changes_its_order_of_channels_too():
    file = {"backbone." + k: v for k, v in backbone_of(UPERNET_SWIN).items()}
    name = "backbone.stages.0.downsample.norm.weight"
    file[name] = torch.arange(384.0)
    expected = from_official({**key_lists.official(UPERNET_SWIN), **file})[0]
    name = "backbone.layers.0.downsample.norm.weight"
    taken = recognize(file, ours(UPERNET_SWIN)).state_dict[name]
    assert torch.equal(taken, expected[name]) and not torch.equal(taken, torch.arange(384.0))


@pytest.mark.parametrize("name", [SWIN_L, UPERNET_SWIN])
def test_original_swin(name):
    model = ours(name)
    prefix = "backbone.bottom_up." if name == SWIN_L else "backbone."
    norms = {f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias")}
    file = {k[len(prefix) :]: v for k, v in model.items() if k.startswith(prefix)}
    file = {k: v for k, v in file.items() if k not in norms and not k.startswith("fpn_")}
    extra = {"norm.weight", "norm.bias", "head.weight", "layers.0.blocks.1.attn_mask"}
    file.update((name, torch.empty(1)) for name in extra)
    what, missing, left_over = places(content_of({"model": file}), model)
    assert "mmdet" not in what and "timm" not in what
    assert missing == {prefix + name for name in norms} and left_over == extra


def test_timm_swin_computes_the_same():
    timm_swin = pytest.importorskip("timm.models.swin_transformer").SwinTransformer
    sizes = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 7}
    theirs = timm_swin(img_size=448, num_classes=2, **sizes).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = Model(SwinTransformer(drop_path_rate=0.0, **sizes)).eval()
    recognized = recognize(theirs.state_dict(), model.state_dict())
    assert "timm" in recognized.what
    model.load_state_dict(recognized.state_dict, strict=False)
    image = torch.randn(1, 3, 448, 448)
    features = theirs.forward_intermediates(image, intermediates_only=True)
    outputs = model.backbone(image)
    for i, expected in enumerate(features):
        expected = F.layer_norm(expected.movedim(1, -1), expected.shape[1:2]).movedim(-1, 1)
        assert torch.allclose(outputs[f"p{i}"], expected, atol=1e-5)


def test_timm_deep_stem_resnet_computes_the_same():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet50c").eval()
    keys = {"RESNETS__OUT_FEATURES": ["res5"], "RESNETS__NORM": "BN"}
    keys["RESNETS__STEM_OUT_CHANNELS"] = 64
    model = Model(build_backbone("build_deep_stem_resnet_backbone", **keys)).eval()
    recognized = recognize(theirs.state_dict(), model.state_dict())
    missing = model.load_state_dict(recognized.state_dict, strict=False).missing_keys
    assert not missing
    image = torch.rand(1, 3, 64, 64)
    outputs = model.backbone(image)["res5"]
    assert torch.allclose(outputs, theirs.forward_features(image), atol=1e-6)


@pytest.mark.parametrize("kind", ["build_timm_backbone", "build_timm_fpn_backbone"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050"])
def test_timm_model(name, kind):
    timm = pytest.importorskip("timm")
    keys = {"TIMM__NAME": name, "FPN__IN_FEATURES": ["res2", "res3", "res4", "res5"]}
    model = Model(build_backbone(kind, **keys)).state_dict()
    what, missing, _ = places(timm.create_model(name).state_dict(), model)
    assert "under the model's names" in what and not missing


def test_a_model_of_ours_stays_as_it_is():
    model = ours(R50)
    recognized = recognize(model, model)
    assert "this project" in recognized.what
    assert recognized.architecture is None and list(recognized.state_dict) == list(model)


def test_mmsegs_other_models_give_their_backbone():
    file = {f"backbone.{k}": v for k, v in backbone_of(R50).items()}
    file["decode_head.query_embed.weight"] = torch.empty(100, 256)
    what, missing, left_over = places(file, ours(R50))
    assert "a backbone" in what
    assert not missing and left_over == {"decode_head.query_embed.weight"}


NAMELESS = {0: torch.ones(1)}


@pytest.mark.parametrize(
    "content", [{}, {"a": 1}, [torch.ones(1)], {"model": 3}, NAMELESS, {"state_dict": NAMELESS}]
)
def test_no_state_dict(content):
    with pytest.raises(ValueError, match="no state dict"):
        content_of(content)
