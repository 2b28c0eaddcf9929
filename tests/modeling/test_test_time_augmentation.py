"""Test-time augmentation: the views, what is merged of them, and who uses it."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from torch.nn import functional as F

from knet.engine import KNetTrainer
from knet.engine.main import load_config
from knet.errors import UsageError
from knet.modeling.masks import on_grid
from knet.modeling.test_time_augmentation import (
    AugmentedViews,
    KernelsOfView,
    KNetWithTTA,
    MergedKernels,
    SemanticSegmentorWithTTA,
    with_test_time_augmentation,
)
from knet.predictor import Predictor
from tests.conftest import DEMO_CONFIG, pairs
from tests.modeling.semantic.heads import small_config
from tests.tiny_model import tiny_model
from tests.tools.demo import make_model_file

SIZE = (64, 96)


def image(size=SIZE, seed=0, channels=3):
    """Spots, that mirrored and resized stay as they are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (channels, 8, 12)).astype(np.float32)
    pixels = F.interpolate(torch.from_numpy(coarse)[None], size, mode="bilinear")
    return pixels[0].to(torch.uint8)


def views(*min_sizes, flip=True, max_size=1000):
    return AugmentedViews(min_sizes, max_size, flip)


# ---------------------------------------------------------------------------------------- views


def test_views_are_the_image_in_each_size_and_mirrored_none_twice():
    x = {"image": image(), "height": 128, "width": 192, "file_name": "a.png"}
    found = views(32, 64, 96)(x)
    shapes = [(tuple(v.inputs["image"].shape[1:]), v.mirrored) for v in found]
    sizes = [(64, 96), (32, 48), (96, 144)]
    assert shapes == [(size, mirrored) for size in sizes for mirrored in (False, True)]
    assert torch.equal(found[0].inputs["image"], x["image"])
    assert torch.equal(found[1].inputs["image"], x["image"].flip(2))
    assert all((v.inputs["height"], v.inputs["width"]) == (128, 192) for v in found)
    assert len(views(32, 96, flip=False, max_size=96)(x)) == 2  # 96 is too large for the long side


def test_views_of_five_channels_and_16_bits_keep_their_values():
    pixels = image(channels=5).to(torch.int32) * 200
    view = views(128, flip=False)({"image": pixels.float()})[1].inputs["image"]
    assert view.shape == (5, 128, 192) and view.dtype == torch.float32
    assert view.mean() == pytest.approx(float(pixels.float().mean()), rel=0.01)


# ---------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("mirrored", [False, True])
def test_masks_on_a_grid_are_those_that_are_enlarged_cut_and_reduced(mirrored):
    masks = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(masks, (64, 96), mode="bilinear", align_corners=False)
    expected = whole[..., :60, :80]
    expected = expected.flip(3) if mirrored else expected
    found = on_grid(masks, (64, 96), (60, 80), (60, 80), mirrored)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(on_grid(masks, (64, 96), (64, 96), (16, 24)), masks)


# -------------------------------------------------------------------------------------- merging


def kernels(scores, boxes, size=(10, 20)):
    """Class scores, and masks that are sure within columns from .. to."""
    masks = torch.zeros(len(boxes), *size)
    for mask, (start, end) in zip(masks, boxes):
        mask[:, start:end] = 1
    return KernelsOfView(torch.tensor(scores), masks)


def test_kernels_are_averaged_with_their_likes():
    # kernel 0 and 2 see one object, 0 is better; kernel 1 sees another; 3 is of stuff
    first = kernels([[0.9, 0], [0.8, 0], [0.1, 0], [0, 0.6]], [(0, 8), (10, 18), (0, 8), (0, 20)])
    # in the view the order is another, the object of kernel 1 is not found
    view = kernels([[0.2, 0], [0.0, 0], [0.7, 0], [0, 0.2]], [(0, 8), (3, 5), (0, 10), (10, 20)])
    merged = MergedKernels(first, num_kernels=3)
    merged.add(view)
    scores, masks = merged.mean()
    expected = torch.tensor([[0.8, 0], [0.4, 0], [0.15, 0], [0, 0.4]])
    torch.testing.assert_close(scores, expected)
    assert masks[0, 0].tolist() == [1] * 8 + [0.5] * 2 + [0] * 10
    assert torch.equal(masks[1], first.masks[1])  # what is not found has no mask to average
    assert torch.equal(masks[2], first.masks[2])
    assert masks[3, 0].tolist() == [0.5] * 10 + [1] * 10


def test_an_object_of_another_class_is_no_like():
    first = kernels([[0.9, 0.0]], [(0, 8)])
    merged = MergedKernels(first, num_kernels=1)
    merged.add(kernels([[0.0, 0.9]], [(0, 8)]))
    merged.add(kernels([[0.6, 0.1]], [(0, 8)]))
    assert merged.mean().class_scores[0, 0] == pytest.approx(0.5)


def test_scores_of_a_model_that_has_diverged_do_not_end_it():
    nan = float("nan")
    merged = MergedKernels(kernels([[nan, nan], [0.5, 0]], [(0, 8), (10, 18)]), num_kernels=2)
    merged.add(kernels([[nan, nan], [0.5, 0]], [(0, 8), (10, 18)]))
    assert merged.mean().class_scores[1, 0] == 0.5


# --------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("enlarge_logits", [False, True])
def test_of_one_view_the_result_is_the_models(enlarge_logits):
    model = tiny_model().eval()
    model.postprocessor.enlarge_logits = enlarge_logits
    model.postprocessor.overlap_threshold = 0.0
    x = {"image": image(), "height": 80, "width": 110}
    ours = KNetWithTTA(model, views(flip=False))([x])[0]
    with torch.no_grad():
        theirs = model([x])[0]
    assert theirs["panoptic_seg"][1]
    assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
    assert [s["kernel"] for s in ours["panoptic_seg"][1]] == [
        s["kernel"] for s in theirs["panoptic_seg"][1]
    ]
    torch.testing.assert_close(ours["instances"].scores, theirs["instances"].scores)
    torch.testing.assert_close(ours["sem_seg"], theirs["sem_seg"])


def test_stuff_of_a_mirrored_image_is_mirrored():
    model = tiny_model().eval()
    x = {"image": image()}
    augmented = KNetWithTTA(model, views(32))
    stuff = [
        augmented([{"image": pixels}])[0]["sem_seg"][3:]
        for pixels in (x["image"], x["image"].flip(2))
    ]
    torch.testing.assert_close(stuff[0], stuff[1].flip(2))
    alone = model([x])[0]["sem_seg"][3:]
    assert not torch.allclose(alone, stuff[0], atol=1e-3)  # the views say something else


def test_a_semantic_result_is_the_mean_of_the_views():
    torch.manual_seed(0)
    model = build_model(small_config("SemSegFPNHead", "SemanticKNet")).eval()
    x = {"image": image(), "height": 70, "width": 100}
    merged = SemanticSegmentorWithTTA(model, views(96))([x])[0]["sem_seg"]
    total = 0
    for view in views(96)(x):
        with torch.no_grad():
            scores = model([view.inputs])[0]["sem_seg"].softmax(0)
        total = total + (scores.flip(2) if view.mirrored else scores)
    torch.testing.assert_close(merged, total / 4)
    assert merged.shape[1:] == (70, 100)


def test_an_evaluation_leaves_the_model_as_it_was():
    for training in (True, False):
        model = tiny_model().train(training)
        wrapped = KNetWithTTA(model, views())
        before = wrapped.training
        wrapped.eval()
        wrapped([{"image": image()}])
        wrapped.train(before)
        assert model.training == model.kernel_head.training == training


# ------------------------------------------------------------------------------------- programs


def test_evaluation_and_predictor_use_it(tiny_options, tmp_path, train_net):
    weights = make_model_file(tiny_options, tmp_path / "model.pth")
    options = {**tiny_options, "MODEL.WEIGHTS": weights, "TEST.AUG.MIN_SIZES": (48,)}
    found = {}
    for enabled in (False, True):
        options["TEST.AUG.ENABLED"] = enabled
        options["OUTPUT_DIR"] = str(tmp_path / str(enabled))
        outcome = train_net("--eval-only", options=options)
        assert outcome.status == 0, outcome.err
        (folder,) = (tmp_path / str(enabled) / "inference").iterdir()
        found[enabled] = json.loads((folder / "coco_instances_results.json").read_text())
    assert found[True] != found[False]

    opts = [word for pair in options.items() for word in pair if "TEST.AUG" in pair[0]]
    predictor = Predictor(weights, device="cpu", opts=opts)
    cfg = load_config(DEMO_CONFIG, pairs(options))
    inputs = next(iter(KNetTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    with Image.open(inputs[0]["file_name"]) as picture:
        scores = predictor(picture.copy())["instances"].scores
    evaluated = [a["score"] for a in found[True] if a["image_id"] == inputs[0]["image_id"]]
    assert scores.tolist() == pytest.approx(evaluated[: len(scores)])


def test_what_cannot_be_augmented_is_told(tiny_options, train_net):
    changes = {"TEST.AUG.ENABLED": True, "TEST.AUG.MIN_SIZES": (0,)}
    outcome = train_net("--eval-only", options={**tiny_options, **changes})
    assert "TEST.AUG.MIN_SIZES" in outcome.sentence()
    # before a training, not at its first evaluation
    changes = {"TEST.AUG.ENABLED": True, "MODEL.META_ARCHITECTURE": "PanopticFPN"}
    sentence = train_net(options={**tiny_options, **changes}).sentence()
    assert "PanopticFPN" in sentence and "TEST.AUG.ENABLED" in sentence
    cfg = load_config(DEMO_CONFIG, ["TEST.AUG.ENABLED", "True"])
    with pytest.raises(UsageError, match=r"TEST\.AUG\.ENABLED"):
        with_test_time_augmentation(cfg, torch.nn.Identity())
    cfg.TEST.AUG.ENABLED = False
    model = torch.nn.Identity()
    assert with_test_time_augmentation(cfg, model) is model
