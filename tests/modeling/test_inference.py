"""Results against the loops of ``slow_reference``, and what tiny models return."""

from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from knet.data.class_layout import ClassLayout
from knet.modeling import inference
from knet.modeling.inference import (
    ImageSizes,
    Postprocessor,
    mask_quality,
    masks_to_boxes,
    merge_panoptic,
    resize_masks,
)

from .. import slow_reference as slow
from ..host_reads import HostReads
from ..tiny_model import LAYOUT, THINGS_ONLY, tiny_model

# --- panoptic merge ------------------------------------------------------------------------------


def random_maps(rng, num_kernels, size) -> np.ndarray:
    """(N, H, W) probabilities: continuous, full of ties, empty, or equal to each other."""
    kind = rng.choice(["continuous", "quarters", "binary", "boxes"])
    shape = (num_kernels, *size)
    if kind == "continuous":
        masks = rng.random(shape)
    elif kind == "quarters":
        masks = rng.integers(0, 5, size=shape) / 4
    elif kind == "binary":
        masks = (rng.random(shape) < 0.5).astype(float)
    else:
        masks = np.full(shape, 0.1)
        for mask in masks:
            y, x = (int(rng.integers(side)) for side in size)
            mask[y : y + int(rng.integers(1, 6)), x : x + int(rng.integers(1, 6))] = 0.9
    masks *= rng.random((num_kernels, 1, 1)) > rng.choice([0, 0.2, 1.1], p=[0.5, 0.45, 0.05])
    if num_kernels > 2 and rng.random() < 0.3:
        masks[2] = masks[0]
    return masks.astype(np.float32)


def random_scores(rng, num_kernels) -> np.ndarray:
    """(N,): continuous or full of ties, also with the score threshold itself and with 0."""
    if rng.random() < 0.5:
        return rng.random(num_kernels).astype(np.float32)
    return rng.choice([0.0, 0.25, 0.3, 0.5, 0.75, 1.0], size=num_kernels).astype(np.float32)


def random_size(rng, highest=7):
    return tuple(int(side) for side in rng.integers(1, highest, size=2))


@pytest.mark.parametrize("seed", range(10))
def test_merge(seed):
    """Every pixel and every segment, 1000 images."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        num_kernels = int(rng.integers(1, 9))
        masks = random_maps(rng, num_kernels, random_size(rng))
        scores = random_scores(rng, num_kernels)
        is_thing = rng.random(num_kernels) < rng.choice([0, 0.6, 1])
        thresholds = {}
        if rng.random() < 0.3:
            thresholds = {
                "score_threshold": float(rng.choice([0.0, 0.5, 0.75])),
                "overlap_threshold": float(rng.choice([0.0, 0.5, 0.8, 1.0, 1.5])),
                "mask_threshold": float(rng.choice([0.25, 0.5, 0.75])),
            }
        expected_map, expected = slow.merge_panoptic(masks, scores, is_thing, **thresholds)
        segment_map, segment_ids, won = merge_panoptic(
            *map(torch.from_numpy, (masks, scores, is_thing)), **thresholds
        )
        assert segment_map.dtype == torch.int32
        assert np.array_equal(segment_map.numpy(), expected_map)
        expected_ids = [0] * num_kernels
        for number, (kernel, area) in enumerate(expected, start=1):
            expected_ids[kernel] = number
            assert int(won[kernel]) == area
        assert segment_ids.tolist() == expected_ids


def test_overlap_ratio_that_equals_the_threshold():
    """A kernel is dropped below the ratio, not at it: 55 of 100 pixels is not below 0.55."""
    masks = torch.zeros(2, 10, 10)
    masks[0] = 0.6
    masks[1].view(-1)[:45] = 1
    scores = torch.tensor([0.9, 0.9])
    is_thing = torch.tensor([True, True])
    segment_map, segment_ids, _ = merge_panoptic(masks, scores, is_thing, overlap_threshold=0.55)
    expected_map, expected = slow.merge_panoptic(
        masks.numpy(), scores.numpy(), is_thing.numpy(), overlap_threshold=0.55
    )
    assert [area for _, area in expected] == [55, 45]
    assert segment_ids.tolist() == [1, 2]
    assert np.array_equal(segment_map.numpy(), expected_map)


# --- the parts of the postprocessor --------------------------------------------------------------


def random_layout(rng) -> ClassLayout:
    """At least one thing class; contiguous ids in any order, with gaps."""
    ids = np.sort(rng.choice(10, size=int(rng.integers(1, 6)), replace=False))
    is_thing = rng.random(len(ids)) < 0.5
    is_thing[rng.integers(len(ids))] = True
    return ClassLayout(ids[is_thing], ids[~is_thing])


def check_panoptic(panoptic_seg, masks, class_scores, post: Postprocessor):
    """Every pixel and segment of Detectron2's ``panoptic_seg`` against the loops."""
    layout = post.layout
    labels = slow.kernel_labels(class_scores, post.num_kernels, layout.num_things)
    expected_map, expected = slow.merge_panoptic(
        masks,
        np.array([score for score, _ in labels], dtype=np.float32),
        [label < layout.num_things for _, label in labels],
        post.score_threshold,
        post.overlap_threshold,
        post.mask_threshold,
    )
    segment_map, info = panoptic_seg
    assert segment_map.dtype == torch.int32
    assert np.array_equal(segment_map.numpy(), expected_map)
    assert info == [
        {
            "id": number,
            "isthing": labels[kernel][1] < layout.num_things,
            "category_id": layout.ids[labels[kernel][1]],
            "score": float(labels[kernel][0]),
            "area": area,
            "kernel": kernel,
        }
        for number, (kernel, area) in enumerate(expected, start=1)
    ]
    for segment in info:
        assert type(segment["isthing"]) is bool
        assert all(type(segment[key]) is int for key in ("id", "category_id", "area"))


def check_instances(instances: Instances, masks, class_scores, post: Postprocessor):
    """Scores, classes, masks and boxes; pairs of one score may stand in any order."""
    layout = post.layout
    args = (class_scores, post.num_kernels, layout.num_things)
    expected = slow.select_instances(*args, post.max_instances)
    candidates = slow.select_instances(*args, class_scores.size)
    assert instances.scores.tolist() == [score for score, _, _ in expected]
    lowest = expected[-1][0]

    def described(pairs):
        return Counter(
            (score, layout.thing_ids[label], (masks[kernel] > post.mask_threshold).tobytes())
            for score, kernel, label in pairs
        )

    found = Counter(
        (float(score), int(label), mask.numpy().tobytes())
        for score, label, mask in zip(
            instances.scores, instances.pred_classes, instances.pred_masks
        )
    )
    # all above the lowest score, and of those with the lowest score as many as there is room for
    above = described(pair for pair in expected if pair[0] > lowest)
    assert Counter({key: n for key, n in found.items() if key[0] > lowest}) == above
    assert found <= described(candidates)
    assert np.array_equal(
        masks[instances.pred_kernels.numpy()] > post.mask_threshold, instances.pred_masks
    )
    boxes = slow.boxes_of(instances.pred_masks)
    assert torch.equal(instances.pred_boxes.tensor, boxes)
    assert instances.pred_boxes.tensor.dtype == torch.float32


@pytest.mark.parametrize("seed", range(6))
def test_postprocessor_parts(seed, monkeypatch):
    """Panoptic, instance and semantic results of masks and scores with and without ties."""
    if seed % 2:
        monkeypatch.setattr(inference, "_STRIP_PIXELS", 9)  # several strips an image
    rng = np.random.default_rng(seed)
    for _ in range(50):
        layout = random_layout(rng)
        num_kernels = int(rng.integers(1, 6))
        post = Postprocessor(
            layout=layout, num_kernels=num_kernels, max_instances=int(rng.integers(1, 12))
        )
        num_all = num_kernels + layout.num_stuff
        num_classes = layout.num_things + layout.num_stuff
        masks = random_maps(rng, num_all, random_size(rng))
        class_scores = np.stack([random_scores(rng, num_classes) for _ in range(num_all)])
        tensors = torch.from_numpy(masks), torch.from_numpy(class_scores)
        scores, labels = post.kernel_labels(tensors[1])
        expected = slow.kernel_labels(class_scores, num_kernels, layout.num_things)
        assert list(zip(scores.tolist(), labels.tolist())) == expected
        check_panoptic(post.panoptic(tensors[0], scores, labels), masks, class_scores, post)
        check_instances(post.instances(*tensors), masks, class_scores, post)
        semantic = post.semantic(tensors[0], scores, labels)
        assert semantic.dtype == torch.float32
        expected_semantic = slow.semantic_scores(masks, expected, layout.ids)
        assert np.array_equal(semantic.numpy(), expected_semantic)


def test_a_mask_comes_under_two_classes():
    post = Postprocessor(layout=THINGS_ONLY, num_kernels=2, max_instances=3)
    masks = torch.tensor([[[0.9, 0.1]], [[0.2, 0.7]]])
    scores = torch.tensor([[0.8, 0.7], [0.1, 0.6]])
    instances = post.instances(masks, scores)
    assert instances.scores.tolist() == pytest.approx([0.8, 0.7, 0.6])
    assert instances.pred_classes.tolist() == [0, 1, 1]
    assert instances.pred_masks.flatten(1).tolist() == [
        [True, False],
        [True, False],
        [False, True],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_boxes(seed):
    """Detectron2's boxes, also of empty, full and single-pixel masks, and of no mask."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        shape = (int(rng.integers(0, 6)), *random_size(rng, 12))
        masks = torch.from_numpy(rng.random(shape) < rng.choice([0, 0.02, 0.1, 0.6, 1]))
        boxes = masks_to_boxes(masks)
        assert boxes.dtype == torch.float32
        assert torch.equal(boxes, slow.boxes_of(masks))


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_resized_masks(stride):
    """Sigmoid, to the padded size, crop, to the wanted size; up or down, odd or even."""
    rng = np.random.default_rng(stride)
    for _ in range(12):
        image_size = tuple(int(side) for side in rng.integers(1, 24, size=2))
        padded_size = tuple(-(-side // 8) * 8 for side in image_size)
        output_size = image_size
        if rng.random() < 0.8:
            output_size = tuple(int(side) for side in rng.integers(1, 40, size=2))
        logits = rng.normal(size=(3, *(side // stride for side in padded_size))) * 4
        logits = logits.astype(np.float32)
        masks = resize_masks(torch.from_numpy(logits), padded_size, image_size, output_size)
        assert masks.shape == (3, *output_size) and masks.dtype == torch.float32
        for mask, kernel_logits in zip(masks, logits):
            expected = slow.result_mask(kernel_logits, padded_size, image_size, output_size)
            np.testing.assert_allclose(mask.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_postprocessor(seed):
    """From logits to all three results; the masks are checked above."""
    rng = np.random.default_rng((2, seed))
    for _ in range(20):
        layout = random_layout(rng)
        num_kernels = int(rng.integers(1, 6))
        post = Postprocessor(layout=layout, num_kernels=num_kernels)
        num_all = num_kernels + layout.num_stuff
        num_classes = layout.num_things + layout.num_stuff
        image = tuple(int(side) for side in rng.integers(5, 20, size=2))
        sizes = ImageSizes(
            padded=tuple(-(-side // 8) * 8 for side in image),
            image=image,
            output=tuple(int(side) for side in rng.integers(3, 25, size=2)),
        )
        mask_logits = torch.from_numpy(
            rng.normal(size=(num_all, *(side // 4 for side in sizes.padded))) * 3
        ).float()
        class_logits = torch.from_numpy(rng.normal(size=(num_all, num_classes))).float()
        results = post(class_logits, mask_logits, sizes)
        assert set(results) == {"panoptic_seg", "instances", "sem_seg"}
        masks = resize_masks(mask_logits, sizes.padded, sizes.image, sizes.output).numpy()
        class_scores = class_logits.sigmoid().numpy()
        check_panoptic(results["panoptic_seg"], masks, class_scores, post)
        check_instances(results["instances"], masks, class_scores, post)
        labels = slow.kernel_labels(class_scores, num_kernels, layout.num_things)
        expected = slow.semantic_scores(masks, labels, layout.ids)
        assert np.array_equal(results["sem_seg"].numpy(), expected)


@pytest.mark.parametrize("seed", range(3))
def test_mask_quality(seed, monkeypatch):
    """Mean over the pixels above the threshold, not at it; 0 where there are none."""
    if seed:
        monkeypatch.setattr(inference, "_STRIP_PIXELS", 9)  # several strips an image
    rng = np.random.default_rng((4, seed))
    for _ in range(50):
        masks = random_maps(rng, int(rng.integers(1, 5)), random_size(rng))
        threshold = float(rng.choice([0.25, 0.5, 0.75]))
        quality = mask_quality(torch.from_numpy(masks), threshold)
        assert quality.shape == (len(masks),)
        for value, mask in zip(quality.tolist(), masks):
            inside = [float(p) for p in mask.flatten() if p > threshold]
            assert value == pytest.approx(np.mean(inside) if inside else 0, rel=1e-6)
    half = torch.full((1, 2, 2), 0.5)
    half[0, 0, 0] = 0.75
    assert mask_quality(half).tolist() == [0.75]
    assert mask_quality(half, 0.25).tolist() == [0.5625]


@pytest.mark.parametrize("is_on", [False, True])
def test_scores_times_mask_quality(is_on):
    """In all three results, of every kernel and class; the masks stay as they are."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        layout = random_layout(rng)
        num_all, num_classes = 4 + layout.num_stuff, len(layout.ids)
        post = Postprocessor(
            layout=layout, num_kernels=4, mask_quality=is_on, mask_threshold=0.6, score_threshold=0
        )
        sizes = ImageSizes(padded=(16, 24), image=(13, 20), output=(9, 31))
        mask_logits = torch.from_numpy(rng.normal(size=(num_all, 4, 6)) * 3).float()
        class_logits = torch.from_numpy(rng.normal(size=(num_all, num_classes))).float()
        mask_logits[0] = -9  # empty
        results = post(class_logits, mask_logits, sizes)
        masks = resize_masks(mask_logits, sizes.padded, sizes.image, sizes.output)
        scores = class_logits.sigmoid()
        if is_on:
            scores *= mask_quality(masks, 0.6)[:, None]
            assert not scores[0].any()
        scores, masks = scores.numpy(), masks.numpy()
        check_panoptic(results["panoptic_seg"], masks, scores, post)
        check_instances(results["instances"], masks, scores, post)
        labels = slow.kernel_labels(scores, 4, layout.num_things)
        expected = slow.semantic_scores(masks, labels, layout.ids)
        assert np.array_equal(results["sem_seg"].numpy(), expected)


@pytest.mark.parametrize("wanted", ["panoptic", "instance", "semantic"])
def test_only_the_results_that_are_on(wanted):
    keys = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "sem_seg"}
    switches = {f"{task}_on": task == wanted for task in keys}
    post = Postprocessor(layout=LAYOUT, num_kernels=3, **switches)
    results = post(torch.zeros(5, 5), torch.zeros(5, 2, 2), ImageSizes((8, 8), (8, 8), (8, 8)))
    assert list(results) == [keys[wanted]]


# --- what waits for the device -------------------------------------------------------------------


def host_reads_of_merge(monkeypatch, num_kernels):
    """What `Postprocessor.panoptic` reads on the host, and the number of its segments."""
    layout = ClassLayout([0, 1], [2])
    post = Postprocessor(layout=layout, num_kernels=num_kernels)
    masks = torch.zeros(num_kernels + 1, 8, num_kernels + 1)
    for kernel, mask in enumerate(masks):
        mask[:, kernel] = 0.9
    scores = torch.linspace(0.9, 0.5, num_kernels + 1)
    labels = torch.tensor([0, 1] * num_kernels)[:num_kernels].tolist() + [2]
    labels = torch.tensor(labels)
    with monkeypatch.context() as patch:
        reads = HostReads(patch)
        with reads:
            _, info = post.panoptic(masks, scores, labels)
    return reads.count, len(info)


def test_one_copy_to_the_host_for_all_segments(monkeypatch):
    """One list of numbers, however many segments; nothing is read segment by segment."""
    few, num_few = host_reads_of_merge(monkeypatch, 2)
    many, num_many = host_reads_of_merge(monkeypatch, 30)
    assert (num_few, num_many) == (3, 31)
    assert few == many
    assert few.pop("tolist") == 1
    few.pop("bincount", None)  # waits too on a GPU, but not per segment
    assert not few


# --- whole models --------------------------------------------------------------------------------


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
        stages, _ = model.predict(model.backbone(padded))
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
