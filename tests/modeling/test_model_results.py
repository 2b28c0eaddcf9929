"""What tiny models return: types, sizes, batches, class ids, and the loops on their prediction."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from knet.data.class_layout import ClassLayout
from knet.modeling.cpu import to_fast_layout
from knet.modeling.inference import ImageSizes, Postprocessor

from .. import slow_reference as slow
from ..tiny_model import LAYOUT, THINGS_ONLY, tiny_model
from .test_inference import check_instances, check_panoptic


def image(rng, height, width, channels=3):
    return torch.from_numpy(rng.integers(0, 256, size=(channels, height, width), dtype=np.uint8))


def infer(model, batch):
    with torch.no_grad():
        return model.eval()(batch)


def test_predictions_of_a_batch_are_those_of_its_images():
    rng = np.random.default_rng(1)
    model = tiny_model().eval()
    images = torch.from_numpy(rng.normal(size=(2, 3, 64, 96))).float()
    with torch.no_grad():
        together, together_semantic = model.predict(model.backbone(images))
        for i in range(2):
            alone, semantic = model.predict(model.backbone(images[i : i + 1]))
            assert_close(together_semantic[i], semantic[0])
            for a, b in zip(together, alone, strict=True):
                assert_close(a.kernels[i], b.kernels[0])
                assert_close(a.mask_logits[i], b.mask_logits[0])
                if b.class_logits is not None:
                    assert_close(a.class_logits[i], b.class_logits[0])


def assert_close(actual, expected):
    scale = float(expected.abs().max())
    assert float((actual - expected).abs().max()) < 1e-5 * scale


def test_results_of_a_batch_are_those_of_its_images():
    """Images of one size; one whose neighbour is larger sees other padding, and may differ."""
    rng = np.random.default_rng(2)
    model = tiny_model(seed=4)
    batch = [{"image": image(rng, 61, 75), "height": 50 + i, "width": 90} for i in range(2)]
    for x, together in zip(batch, infer(model, batch), strict=True):
        (alone,) = infer(model, [x])
        assert torch.equal(together["panoptic_seg"][0], alone["panoptic_seg"][0])
        for a, b in zip(together["panoptic_seg"][1], alone["panoptic_seg"][1], strict=True):
            assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-5)
            assert a == b
        np.testing.assert_allclose(together["sem_seg"], alone["sem_seg"], rtol=0, atol=1e-5)
        for field in ("pred_masks", "pred_classes"):
            assert torch.equal(together["instances"].get(field), alone["instances"].get(field))


@pytest.mark.parametrize("layout", [LAYOUT, THINGS_ONLY], ids=["panoptic", "instance"])
@pytest.mark.parametrize("size", [(33, 47), (64, 64), (1, 1), (97, 5)])
@pytest.mark.parametrize("wanted", [None, (51, 39), (1, 1), (128, 101)])
def test_types_and_sizes(size, wanted, layout):
    """Detectron2's types and dtypes at the wanted size, or at the input's size without one."""
    rng = np.random.default_rng(3)
    x = {"image": image(rng, *size)}
    if wanted is not None:
        x["height"], x["width"] = wanted
    (result,) = infer(tiny_model(layout=layout), [x])
    height, width = wanted or size
    segment_map, info = result["panoptic_seg"]
    assert segment_map.shape == (height, width) and segment_map.dtype == torch.int32
    assert set(segment_map.unique().tolist()) - {0} == {segment["id"] for segment in info}
    for segment in info:
        assert int((segment_map == segment["id"]).sum()) == segment["area"]
        assert segment["isthing"] == (segment["category_id"] in layout.thing_ids)
    instances = result["instances"]
    assert isinstance(instances, Instances) and instances.image_size == (height, width)
    num_pairs = min(100, 6 * layout.num_things)
    assert instances.pred_masks.shape == (num_pairs, height, width)
    assert instances.pred_masks.dtype == torch.bool
    assert instances.scores.shape == (num_pairs,) and instances.scores.dtype == torch.float32
    assert (instances.scores.diff() <= 0).all()
    assert instances.pred_classes.shape == (num_pairs,)
    assert instances.pred_classes.dtype == torch.long
    assert isinstance(instances.pred_boxes, Boxes)
    assert torch.equal(instances.pred_boxes.tensor, slow.boxes_of(instances.pred_masks))
    assert result["sem_seg"].shape == (max(layout.ids) + 1, height, width)
    assert result["sem_seg"].dtype == torch.float32


def test_images_of_different_sizes_and_wishes():
    rng = np.random.default_rng(4)
    batch = [
        {"image": image(rng, 33, 70), "height": 66, "width": 141},
        {"image": image(rng, 90, 31)},
        {"image": image(rng, 64, 64), "height": 20, "width": 21},
    ]
    results = infer(tiny_model(), batch)
    for result, size in zip(results, [(66, 141), (90, 31), (20, 21)], strict=True):
        assert result["panoptic_seg"][0].shape == size
        assert result["sem_seg"].shape[1:] == size
        assert result["instances"].pred_masks.shape[1:] == size


@pytest.mark.parametrize("seed", [1, 4, 11])  # weights that make two segments
def test_results_of_a_model_are_the_postprocessors(seed):
    """Last stage, resized to the mask stride; sizes are padded, image's and wanted."""
    rng = np.random.default_rng(5)
    model = tiny_model(seed=seed).eval()
    pixels = image(rng, 41, 59)
    (result,) = infer(model, [{"image": pixels, "height": 37, "width": 80}])
    padded = torch.zeros(1, 3, 64, 64)
    padded[0, :, :41, :59] = (pixels.float() - 100) / 50
    with torch.no_grad():
        stages, _ = model.predict(model.backbone(to_fast_layout(padded)))
    last = stages[-1]
    at_mask_stride = np.stack(
        [slow.bilinear(one.double().numpy(), (16, 16)) for one in last.mask_logits[0]]
    )
    masks = np.stack(
        [slow.result_mask(one, (64, 64), (41, 59), (37, 80)) for one in at_mask_stride]
    ).astype(np.float32)
    class_scores = last.class_logits[0].sigmoid().numpy()
    assert len(result["panoptic_seg"][1]) == 2
    check_panoptic(result["panoptic_seg"], masks, class_scores, model.postprocessor)
    check_instances(result["instances"], masks, class_scores, model.postprocessor)
    labels = slow.kernel_labels(class_scores, 6, LAYOUT.num_things)
    expected = slow.semantic_scores(masks, labels, LAYOUT.ids)
    np.testing.assert_allclose(result["sem_seg"], expected, rtol=0, atol=1e-5)


def test_category_ids_are_the_data_sets():
    """Things and stuff in mixed order: every class comes back under its own contiguous id."""
    layout = ClassLayout(thing_ids=[1, 4], stuff_ids=[0, 7])
    post = Postprocessor(layout=layout, num_kernels=2)
    class_logits = torch.full((4, 4), -9.0)
    for kernel, label in enumerate([1, 0, 2, 3]):  # model classes: things first
        class_logits[kernel, label] = 5.0
    mask_logits = torch.full((4, 4, 4), -9.0)
    for kernel in range(4):
        mask_logits[kernel, kernel] = 9.0
    sizes = ImageSizes((4, 4), (4, 4), (4, 4))
    results = post(class_logits, mask_logits, sizes)
    segment_map, info = results["panoptic_seg"]
    category_of = {segment["id"]: segment["category_id"] for segment in info}
    assert [category_of[int(segment_map[row, 0])] for row in range(4)] == [4, 1, 0, 7]
    assert {s["category_id"]: s["isthing"] for s in info} == {4: True, 1: True, 0: False, 7: False}
    best = results["instances"][:2]
    rows = [int(mask[:, 0].float().argmax()) for mask in best.pred_masks]
    assert dict(zip(rows, best.pred_classes.tolist())) == {0: 4, 1: 1}
    assert results["sem_seg"].shape == (8, 4, 4)
    assert results["sem_seg"].argmax(0)[:, 0].tolist() == [4, 1, 0, 7]
    assert not results["sem_seg"][[2, 3, 5, 6]].any()


def test_category_ids_of_a_model():
    rng = np.random.default_rng(6)
    layout = ClassLayout(thing_ids=[1, 4], stuff_ids=[0, 7])
    (result,) = infer(tiny_model(layout=layout), [{"image": image(rng, 40, 40)}])
    assert {s["category_id"] for s in result["panoptic_seg"][1]} <= {0, 1, 4, 7}
    assert set(result["instances"].pred_classes.tolist()) == {1, 4}
    assert result["sem_seg"].shape[0] == 8
