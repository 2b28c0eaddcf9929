"""Kernel update on top of any semantic head, in Detectron2's own SemanticSegmentor."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model
from torch import nn
from torch.nn import functional as F

from knet.errors import UsageError
from knet.modeling.semantic import KNetSemSegHead, find_classifier, segmentation_loss

from .heads import BASE_HEADS, NUM_CLASSES, small_config, training_batch


def build(cfg, seed: int = 0):
    torch.manual_seed(seed)
    return build_model(cfg)


@pytest.mark.parametrize("base_head", BASE_HEADS)
def test_every_parameter_learns(base_head):
    model = build(small_config(base_head)).train()
    losses = model(training_batch())
    assert list(losses) == [f"loss_semantic_{s}" for s in range(4)]
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("base_head", BASE_HEADS)
def test_results_have_the_wanted_size(base_head):
    model = build(small_config(base_head)).eval()
    image = training_batch(((64, 96),))[0]["image"]
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 50, "width": 71}])
    assert result["sem_seg"].shape == (NUM_CLASSES, 50, 71)


@pytest.mark.parametrize("base_head", BASE_HEADS)
def test_the_base_head_is_unchanged(base_head):
    """Stage 0 is what the head alone predicts, and the first kernels are its classifier's."""
    cfg = small_config(base_head)
    wrapped = build(cfg).eval()
    cfg.MODEL.SEM_SEG_HEAD.NAME = base_head
    alone = build(cfg).eval()
    alone.backbone.load_state_dict(wrapped.backbone.state_dict())
    alone.sem_seg_head.load_state_dict(wrapped.sem_seg_head.base_head.state_dict())
    images = torch.stack([x["image"] for x in training_batch()]).float()
    with torch.no_grad():
        features = wrapped.backbone(images)
        stages = wrapped.sem_seg_head.predict(features)
        expected, _ = alone.sem_seg_head(features)
        first = F.interpolate(
            stages[0].mask_logits, expected.shape[-2:], mode="bilinear", align_corners=False
        )
    assert torch.equal(first, expected)
    _, conv = find_classifier(alone.sem_seg_head, NUM_CLASSES)
    for kernels in stages[0].kernels:
        assert torch.equal(kernels, conv.weight.flatten(1))
    assert len(stages) == 4


@pytest.mark.parametrize("base_head", ["DeepLabV3Head", "DeepLabV3PlusHead"])
def test_deeplab_pools_an_image_of_any_size(base_head):
    """Detectron2's would pool windows of the crop's size, and take multiples of it only."""
    cfg = small_config(base_head, "SemanticKNet")
    cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE = 16  # wrong, which is of no matter here
    whole = build(cfg)
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [64, 96]
    model = build(cfg)
    (image,) = training_batch(((61, 130),))
    with torch.no_grad():
        result, expected = (m.eval()([{"image": image["image"]}])[0] for m in (model, whole))
    assert torch.equal(result["sem_seg"], expected["sem_seg"])
    cfg.INPUT.CROP.SIZE = [60, 90]  # no multiple of the stride
    assert sum(build(cfg).train()(training_batch(((60, 90), (50, 90)))).values()) > 0


@pytest.mark.parametrize("base_head", BASE_HEADS)
def test_the_base_head_is_left_at_its_classifier(base_head, monkeypatch):
    """Its own loss is not used: its labels may have any size, and no time is spent on it."""
    head = build(small_config(base_head)).sem_seg_head.train()
    called = []
    monkeypatch.setattr(head.base_head, "losses", lambda *_: called.append(1), raising=False)
    shapes = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
    channels = {"res2": 16, "res3": 32, "res4": 64, "res5": 128}
    features = {n: torch.rand(2, channels.get(n, 16), 64 // s, 64 // s) for n, s in shapes.items()}
    assert len(head.predict(features, torch.zeros(2, 61, 63, dtype=torch.long))) == 4
    assert not called
    _, classifier = find_classifier(head.base_head, NUM_CLASSES)
    assert not classifier._forward_hooks


def test_without_stages_it_is_the_base_head():
    cfg = small_config("SemSegFCNHead")
    cfg.MODEL.KNET.NUM_STAGES = 0
    model = build(cfg).eval()
    image = training_batch()[0]["image"]
    with torch.no_grad():
        features = model.backbone(image[None].float())
        assert torch.equal(
            model.sem_seg_head(features)[0], model.sem_seg_head.base_head(features)[0]
        )


def test_dropout_stands_before_the_classifier_only():
    """Masks of stage 0 come from the dropped feature, the update from the whole one (recipe)."""
    cfg = small_config("SemSegFCNHead")
    cfg.MODEL.KNET.SEMANTIC.DROPOUT = 0.9
    head = build(cfg).sem_seg_head.train()
    seen = []
    head.kernel_update_heads[0].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    features = {"res5": torch.rand(2, 128, 8, 8)}
    stages = head.predict(features)
    (feature_map,) = seen
    dropped = (feature_map == 0).flatten(2).all(2).float().mean()
    assert dropped < 0.5  # ReLU leaves some channels dark, dropout would leave nine of ten so
    undropped = head.base_head.predictor[1](feature_map)
    assert not torch.allclose(stages[0].mask_logits, undropped)


def test_a_head_of_one_own():
    """Nothing but a 1x1 classifier and common_stride is asked of a head."""

    class Tiny(nn.Module):
        common_stride = 32

        def __init__(self, cfg, input_shape):
            super().__init__()
            self.classify = nn.Conv2d(input_shape["res5"].channels, NUM_CLASSES, 1, bias=False)

        def forward(self, features, targets=None):
            return self.classify(features["res5"]), {}

    SEM_SEG_HEADS_REGISTRY._do_register("TinyHeadOfOneOwn", Tiny)
    try:
        model = build(small_config("TinyHeadOfOneOwn"))
        losses = model.train()(training_batch())
        sum(losses.values()).backward()
        assert model.sem_seg_head.base_head.classify.weight.grad.abs().sum() > 0
    finally:
        del SEM_SEG_HEADS_REGISTRY._obj_map["TinyHeadOfOneOwn"]


def test_loss_counts_every_pixel():
    logits = torch.randn(2, NUM_CLASSES, 4, 6, dtype=torch.float32)
    labels = torch.randint(0, NUM_CLASSES, (2, 8, 12))
    labels[0, :4] = 255
    enlarged = F.interpolate(logits, (8, 12), mode="bilinear", align_corners=False)
    log_probabilities = enlarged.log_softmax(1)
    total = 0.0
    for b in range(2):
        for y in range(8):
            for x in range(12):
                if labels[b, y, x] != 255:
                    total -= float(log_probabilities[b, labels[b, y, x], y, x])
    expected = total / (2 * 8 * 12)
    assert float(segmentation_loss(logits, labels)) == pytest.approx(expected, rel=1e-5)
    labels[:] = 255
    assert float(segmentation_loss(logits, labels)) == 0.0


def test_auxiliary_head_helps_in_training_only():
    cfg = small_config("SemSegFCNHead")
    cfg.MODEL.KNET.SEMANTIC.AUXILIARY_IN_FEATURE = "res4"
    cfg.MODEL.KNET.SEMANTIC.AUXILIARY_CHANNELS = 8
    model = build(cfg).train()
    losses = model(training_batch())
    assert "loss_auxiliary" in losses
    cfg.MODEL.KNET.SEMANTIC.AUXILIARY_WEIGHT = 0.8
    twice = build(cfg).train()
    for m in (model, twice):
        m.sem_seg_head.auxiliary_head.predictor[0].p = 0.0
    first, second = model(training_batch()), twice(training_batch())
    ratio = float(second["loss_auxiliary"]) / float(first["loss_auxiliary"])
    assert ratio == pytest.approx(2.0, rel=1e-5)
    model.eval()
    called = []
    model.sem_seg_head.auxiliary_head.register_forward_hook(lambda *_: called.append(1))
    model([{"image": training_batch()[0]["image"]}])
    assert not called


class TestWrongInput:
    def test_a_classifier_that_is_not_called(self):
        class Other(nn.Module):
            common_stride = 32

            def __init__(self):
                super().__init__()
                self.unused = nn.Conv2d(8, NUM_CLASSES, 1)
                self.layers = nn.ModuleList([nn.Conv2d(8, NUM_CLASSES, 3)])

            def forward(self, features, targets=None):
                return self.layers[0](features["res5"]), {}

        head = KNetSemSegHead(Other(), [], num_classes=NUM_CLASSES)
        with pytest.raises(UsageError, match=r"Other does not call its 'unused'"):
            head.predict({"res5": torch.rand(1, 8, 4, 4)})

    def test_no_classifier(self):
        cfg = small_config("SemSegFCNHead")
        cfg.MODEL.KNET.SEMANTIC.CLASSIFIER = "convs"
        with pytest.raises(UsageError, match=r"no 1x1 convolution of 5 outputs"):
            build(cfg)

    def test_classifier_of_another_name(self):
        cfg = small_config("SemSegFCNHead")
        cfg.MODEL.KNET.SEMANTIC.CLASSIFIER = "head"
        with pytest.raises(UsageError, match=r"MODEL.KNET.SEMANTIC.CLASSIFIER is 'head'"):
            build(cfg)

    def test_two_candidates(self):
        head = nn.ModuleDict({"a": nn.Conv2d(8, 5, 1), "b": nn.Conv2d(5, 5, 1)})
        with pytest.raises(UsageError, match=r"more than one .*\(a, b\)"):
            find_classifier(head, 5)
        assert find_classifier(head, 5, "b") == ("b", head["b"])

    def test_a_normalised_convolution_is_no_classifier(self):
        cfg = small_config("DeepLabV3Head")
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 16  # as many as the ASPP's convolutions have outputs
        model = build(cfg)
        assert model.sem_seg_head._classifier == "predictor"

    def test_channels_that_do_not_divide(self):
        cfg = small_config("SemSegFCNHead")
        cfg.MODEL.KNET.KERNEL_UPDATE.NUM_HEADS = 5
        with pytest.raises(UsageError, match=r"features of 16 channels.*NUM_HEADS 5"):
            build(cfg)
        cfg.MODEL.KNET.KERNEL_UPDATE.NUM_HEADS = 4
        cfg.MODEL.KNET.SEMANTIC.UPDATE_CHANNELS = 6
        with pytest.raises(UsageError, match=r"UPDATE_CHANNELS 6"):
            build(cfg)

    def test_features_that_the_backbone_lacks(self):
        cfg = small_config("SemSegFCNHead")
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p5"]
        with pytest.raises(UsageError, match=r"MODEL.SEM_SEG_HEAD.IN_FEATURES"):
            build(cfg)
        cfg = small_config("SemSegFCNHead")
        cfg.MODEL.KNET.SEMANTIC.AUXILIARY_IN_FEATURE = "p4"
        with pytest.raises(UsageError, match=r"AUXILIARY_IN_FEATURE is p4"):
            build(cfg)

    def test_itself_underneath(self):
        with pytest.raises(UsageError, match=r"name the head underneath"):
            build(small_config("KNetSemSegHead"))

    def test_class_count_that_nobody_gave(self):
        cfg = small_config("SemSegFCNHead")
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = -1
        with pytest.raises(UsageError, match=r"MODEL.SEM_SEG_HEAD.NUM_CLASSES is -1"):
            build(cfg)


def test_512_channels_are_two_vectors_of_256():
    """The updater's weights are those of half the width; each half is updated by itself."""
    cfg = small_config("SemSegFCNHead")
    cfg.MODEL.KNET.SEMANTIC.UPDATE_CHANNELS = 8
    head = build(cfg).sem_seg_head.eval()
    updater = head.kernel_update_heads[0].updater
    assert updater.out_proj.weight.shape == (8, 8)
    feature, kernels = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    whole = updater(feature, kernels)
    halves = torch.cat(
        [updater(feature[..., i : i + 8], kernels[..., i : i + 8]) for i in (0, 8)], 2
    )
    assert torch.allclose(whole, halves, atol=1e-6)


def test_shape_of_an_unpadded_input():
    """A plain head alone knows its stride, so a padded input comes back at the padded size."""
    shape = {"res5": ShapeSpec(channels=6, stride=8)}
    head = SEM_SEG_HEADS_REGISTRY.get("SemSegFCNHead")(
        shape, in_features=["res5"], num_classes=3, channels=4, norm="BN"
    ).eval()
    logits, losses = head({"res5": torch.randn(1, 6, 5, 7)})
    assert logits.shape == (1, 3, 40, 56) and losses == {}
