"""SemanticKNet: sizes, padding and classes as in the published recipe."""

import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from knet.errors import DatasetError, UsageError
from knet.modeling.cpu import to_fast_layout

from .heads import NUM_CLASSES, small_config, training_batch


def build(**keys):
    cfg = small_config("SemSegFCNHead", "SemanticKNet")
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    torch.manual_seed(0)
    return build_model(cfg)


def test_logits_are_resized_to_the_input_then_to_the_result():
    """The input's size is no multiple of the stride, and nothing is padded."""
    model = build().eval()
    image = training_batch(((61, 75),))[0]["image"]
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 122, "width": 149}])
        normalised = (image - model.pixel_mean) / model.pixel_std
        features = model.backbone(to_fast_layout(normalised[None]))
        logits = model.sem_seg_head.predict(features)[-1].mask_logits
    for size in ((61, 75), (122, 149)):
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    assert torch.equal(result["sem_seg"], logits[0])


def test_a_batch_of_images_of_two_sizes():
    model = build().eval()
    batch = training_batch(((64, 96), (32, 64)))
    with torch.no_grad():
        results = model(batch)
    assert [tuple(r["sem_seg"].shape[-2:]) for r in results] == [(64, 96), (32, 64)]


def test_training_images_are_padded_to_the_crop():
    """Padding is 0 after normalisation, has no label, and counts in the mean."""
    keys = {"INPUT__CROP__ENABLED": True, "INPUT__CROP__SIZE": [96, 128]}
    model = build(**keys, INPUT__CROP__TYPE="absolute").train()
    seen = {}
    model.backbone.register_forward_pre_hook(lambda m, x: seen.update(images=x[0]))
    model.sem_seg_head.register_forward_pre_hook(lambda m, x: seen.update(labels=x[1]))
    batch = training_batch(((96, 100), (64, 128)), ignored=0.0)
    model(batch)
    assert seen["images"].shape[-2:] == seen["labels"].shape[-2:] == (96, 128)
    assert (seen["images"][0, :, :, 100:] == 0).all() and (seen["images"][1, :, 64:] == 0).all()
    assert (seen["labels"][0, :, 100:] == 255).all() and (seen["labels"][1, 64:] == 255).all()
    assert torch.equal(seen["labels"][1, :64], batch[1]["sem_seg"])


@pytest.mark.parametrize("norm_eval", [True, False])
def test_statistics_of_the_backbone_stay_or_are_learned(norm_eval):
    model = build(MODEL__BACKBONE__NORM_EVAL=norm_eval).train()
    norm = model.backbone.res2[0].conv1.norm
    before = norm.running_mean.clone()
    sum(model(training_batch()).values()).backward()
    assert torch.equal(norm.running_mean, before) == norm_eval
    assert norm.weight.grad.abs().sum() > 0
    assert model.sem_seg_head.base_head.convs[0].norm.training  # the head learns in any case


def test_images_that_cannot_be_used():
    model = build().eval()
    with pytest.raises(DatasetError, match=r"1 channels, MODEL.PIXEL_MEAN has 3"):
        model([{"image": torch.zeros(1, 32, 32), "file_name": "grey.png"}])
    with pytest.raises(DatasetError, match=r"grey.png has NaN"):
        model([{"image": torch.full((3, 32, 32), float("nan")), "file_name": "grey.png"}])


@pytest.mark.parametrize(
    "labels, mention",
    [
        (None, "no 'sem_seg'"),
        (torch.zeros(32, 48, dtype=torch.long), r"labels of \(32, 48\).* image of \(48, 32\)"),
        (torch.full((48, 32), NUM_CLASSES), rf"label {NUM_CLASSES} .*{NUM_CLASSES} classes"),
        (torch.full((48, 32), -1), "label -1 .*IGNORE_VALUE 255"),
    ],
)
def test_labels_that_cannot_be_used(labels, mention):
    model = build().train()
    x = {"image": torch.zeros(3, 48, 32), "file_name": "a.png"}
    with pytest.raises(DatasetError, match=rf"a\.png has .*{mention}"):
        model([x if labels is None else {**x, "sem_seg": labels}])


def test_class_count_must_come_from_somewhere():
    with pytest.raises(UsageError, match=r"MODEL.SEM_SEG_HEAD.NUM_CLASSES"):
        build(MODEL__SEM_SEG_HEAD__NUM_CLASSES=-1)
    assert build().sem_seg_head.base_head.predictor[1].out_channels == NUM_CLASSES
