"""The results step in NumPy against the model's own."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from torch.nn import functional as F

from knet.export import knet_runtime
from knet.export.knet_runtime import Results
from knet.modeling.inference import ImageSizes, Postprocessor
from knet.modeling.semantic import SemanticKNet

from ..tiny_model import LAYOUT, THINGS_ONLY

# (padded, image, result): enlarged, shrunk, of the image's own size, smaller than a block
SIZES = [
    ((128, 160), (120, 150), (97, 211)),
    ((64, 96), (64, 70), (64, 70)),
    ((256, 224), (250, 200), (60, 48)),
    ((32, 32), (20, 9), (300, 20)),
]


def settings_of(post: Postprocessor, task: str = "panoptic") -> dict:
    ids = post.layout.ids
    things = post.layout.thing_ids
    return {
        "task": task,
        "results": ["panoptic_seg", "instances", "sem_seg"],
        "num_kernels": post.num_kernels,
        "thing_ids": list(things),
        "stuff_ids": list(post.layout.stuff_ids),
        "classes": [
            {"id": i, "dataset_id": 10 * i, "name": f"class {i}", "isthing": i in things}
            for i in ids
        ],
        "test": {
            "score_threshold": post.score_threshold,
            "overlap_threshold": post.overlap_threshold,
            "mask_threshold": post.mask_threshold,
            "max_instances": post.max_instances,
            "mask_quality": post.mask_quality,
            "mask_quality_power": post.mask_quality_power,
            "things_first": post.things_first,
            "enlarge_logits": post.enlarge_logits,
        },
    }


def made_up(layout, num_kernels, padded, seed):
    """Class logits, and blobs with sharp and soft outlines as mask logits at stride 4."""
    generator = torch.Generator().manual_seed(seed)
    count = num_kernels + layout.num_stuff
    classes = 2 * torch.randn(count, len(layout.ids), generator=generator)
    coarse = torch.randn(1, count, 4, 4, generator=generator)
    shape = [side // 4 for side in padded]
    masks = F.interpolate(coarse, shape, mode="bicubic")[0]
    return classes, masks * torch.logspace(0, 1.5, count)[:, None, None]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    "layout, options",
    [
        (LAYOUT, {}),
        (LAYOUT, {"things_first": True, "mask_quality": True, "max_instances": 7}),
        (LAYOUT, {"enlarge_logits": True}),
        (LAYOUT, {"enlarge_logits": True, "mask_quality": True, "max_instances": 7}),
        (LAYOUT, {"mask_quality": True, "mask_quality_power": 4.0, "max_instances": 7}),
        (THINGS_ONLY, {"overlap_threshold": 0.2, "score_threshold": 0.6}),
    ],
)
def test_panoptic_and_instances_and_semantic_are_the_models(layout, options, sizes):
    for seed in range(3):
        post = Postprocessor(layout=layout, num_kernels=9, **options)
        classes, masks = made_up(layout, 9, sizes[0], seed)
        expected = post(classes, masks, ImageSizes(*sizes))
        make = Results(settings_of(post), knet_runtime.RESULTS)
        result = make({"class_logits": classes.numpy(), "mask_logits": masks.numpy()}, *sizes)

        segments, info = expected["panoptic_seg"]
        assert np.array_equal(result["panoptic_seg"][0], segments.numpy())
        assert [s["kernel"] for s in result["panoptic_seg"][1]] == [s["kernel"] for s in info]
        for ours, theirs in zip(result["panoptic_seg"][1], info):
            assert ours.pop("category_name") == f"class {theirs['category_id']}"
            assert ours.pop("dataset_id") == 10 * theirs["category_id"]
            assert ours.pop("score") == pytest.approx(theirs.pop("score"), rel=1e-6)
            assert ours == theirs

        theirs, ours = expected["instances"], result["instances"]
        assert np.array_equal(ours["kernels"], theirs.pred_kernels.numpy())
        assert np.array_equal(ours["classes"], theirs.pred_classes.numpy())
        assert np.array_equal(ours["masks"], theirs.pred_masks.numpy())
        assert np.array_equal(ours["boxes"], theirs.pred_boxes.tensor.numpy())
        assert np.allclose(ours["scores"], theirs.scores.numpy(), rtol=1e-5)
        assert ours["names"].tolist() == [f"class {i}" for i in ours["classes"]]

        assert np.allclose(result["sem_seg"], expected["sem_seg"].numpy(), atol=2e-6)
        assert np.array_equal(result["class_map"], expected["sem_seg"].argmax(0).numpy())


def test_models_exported_before_do_not_tell_all():
    """What they do not tell is as it was then, and may be given."""
    post = Postprocessor(layout=LAYOUT, num_kernels=9, mask_quality=True)
    classes, masks = made_up(LAYOUT, 9, (64, 64), seed=0)
    outputs = {"class_logits": classes.numpy(), "mask_logits": masks.numpy()}
    settings, before = settings_of(post), settings_of(post)
    for name in ("mask_quality_power", "enlarge_logits"):
        del before["test"][name]

    def scores(settings, **test):
        make = Results(settings, ["instances"], **test)
        return make(outputs, (64, 64), (64, 64), (64, 64))["instances"]["scores"]

    assert np.array_equal(scores(before), scores(settings))
    power = np.float64(4)
    assert np.array_equal(
        scores(before, mask_quality_power=power), scores(settings, mask_quality_power=4)
    )
    assert scores(before, mask_quality_power=power).dtype == np.float32
    assert not np.array_equal(scores(before, mask_quality_power=power), scores(before))
    with pytest.raises(ValueError, match=r"mask_quality_power .* give mask_quality=True"):
        scores(settings, mask_quality=False, mask_quality_power=4.0)
    without = scores(settings, mask_quality=False)
    settings["test"]["mask_quality_power"] = 4.0
    assert np.array_equal(scores(settings, mask_quality=False), without)


@pytest.mark.parametrize("padded, image, size", SIZES)
def test_semantic_models_are_resized_as_the_model_does(padded, image, size):
    logits = 9 * made_up(LAYOUT, 5, padded, seed=1)[1]
    settings = {**settings_of(Postprocessor(layout=LAYOUT, num_kernels=5)), "task": "semantic"}
    settings["thing_ids"], settings["stuff_ids"] = [], list(range(len(logits)))

    images = ImageList(torch.empty(1, 3, *padded), [image])
    inputs = [{"height": size[0], "width": size[1]}]
    expected = SemanticKNet._results(logits[None], images, inputs)[0]["sem_seg"]
    make = Results(settings, ("sem_seg", "class_map"))
    result = make({"logits": logits.numpy()}, padded, image, size)
    assert np.allclose(result["sem_seg"], expected.numpy(), atol=1e-3)
    assert np.array_equal(result["class_map"], expected.argmax(0).numpy())


def test_thresholds_may_be_others_than_the_files():
    post = Postprocessor(layout=LAYOUT, num_kernels=9)
    classes, masks = made_up(LAYOUT, 9, (64, 64), seed=0)
    outputs = {"class_logits": classes.numpy(), "mask_logits": masks.numpy()}
    sizes = [(64, 64)] * 3
    things = []
    for test in ({}, {"score_threshold": 1.0}):
        make = Results(settings_of(post), ["panoptic_seg"], **test)
        things.append([s for s in make(outputs, *sizes)["panoptic_seg"][1] if s["isthing"]])
    assert things[0] and not things[1]
    with pytest.raises(ValueError, match="score_treshold: known are score_threshold"):
        Results(settings_of(post), score_treshold=1.0)
    with pytest.raises(ValueError, match="a semantic model makes some of class_map, sem_seg"):
        Results({**settings_of(post), "task": "semantic"}, ["instances"])


def test_the_file_stands_alone(tmp_path):
    """Copied elsewhere it imports NumPy and nothing of what a server does not have."""
    shutil.copy(knet_runtime.__file__, tmp_path)
    code = (
        "import sys; import knet_runtime as r; import numpy as np;"
        "r.resize_image(np.zeros((4, 5, 3), np.uint8), 8, 9);"
        "sys.exit(' '.join({'torch', 'detectron2', 'cv2', 'PIL', 'knet', 'onnxruntime'} "
        "& set(sys.modules)) or 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
