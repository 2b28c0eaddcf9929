"""The parts of the postprocessor, and their results, against the loops of ``slow_reference``."""

from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from knet.data.class_layout import ClassLayout
from knet.modeling import enlarging
from knet.modeling.enlarging import EnlargedLogits, EnlargedMasks
from knet.modeling.inference import ImageSizes, Postprocessor, mask_quality, masks_to_boxes

from .. import slow_reference as slow
from ..host_reads import HostReads
from ..tiny_model import LAYOUT, THINGS_ONLY
from .test_enlarging import whole
from .test_panoptic_merge import random_maps, random_scores, random_size

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
        monkeypatch.setattr(enlarging, "_SIDE", 2)  # many blocks an image
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
        tensors = EnlargedMasks.of_size(torch.from_numpy(masks)), torch.from_numpy(class_scores)
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
    masks = EnlargedMasks.of_size(torch.tensor([[[0.9, 0.1]], [[0.2, 0.7]]]))
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


@pytest.mark.parametrize("enlarge_logits", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_postprocessor(seed, enlarge_logits, monkeypatch):
    """From logits to all three results; see test_enlarging.py for the masks."""
    monkeypatch.setattr(enlarging, "_SIDE", 4 + seed)
    rng = np.random.default_rng((2, seed))
    for _ in range(20):
        layout = random_layout(rng)
        num_kernels = int(rng.integers(1, 6))
        post = Postprocessor(layout=layout, num_kernels=num_kernels, enlarge_logits=enlarge_logits)
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
        if enlarge_logits:
            masks = EnlargedLogits(mask_logits, sizes)
        else:
            masks = EnlargedMasks(mask_logits.sigmoid(), sizes)
        masks = whole(masks).numpy()
        class_scores = class_logits.sigmoid().numpy()
        check_panoptic(results["panoptic_seg"], masks, class_scores, post)
        check_instances(results["instances"], masks, class_scores, post)
        labels = slow.kernel_labels(class_scores, num_kernels, layout.num_things)
        expected = slow.semantic_scores(masks, labels, layout.ids)
        np.testing.assert_allclose(results["sem_seg"].numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_mask_quality(seed, monkeypatch):
    """Mean over the pixels above the threshold, not at it; 0 where there are none."""
    if seed:
        monkeypatch.setattr(enlarging, "_SIDE", 2)  # many blocks an image
    rng = np.random.default_rng((4, seed))
    for _ in range(50):
        masks = random_maps(rng, int(rng.integers(1, 5)), random_size(rng))
        threshold = float(rng.choice([0.25, 0.5, 0.75]))
        quality = mask_quality(EnlargedMasks.of_size(torch.from_numpy(masks)), threshold)
        assert quality.shape == (len(masks),)
        for value, mask in zip(quality.tolist(), masks):
            inside = [float(p) for p in mask.flatten() if p > threshold]
            assert value == pytest.approx(np.mean(inside) if inside else 0, rel=1e-6)
    half = torch.full((1, 2, 2), 0.5)
    half[0, 0, 0] = 0.75
    half = EnlargedMasks.of_size(half)
    assert mask_quality(half).tolist() == [0.75]
    assert mask_quality(half, 0.25).tolist() == [0.5625]


@pytest.mark.parametrize("is_on, power", [(False, 4.0), (True, None), (True, 1.0), (True, 4.0)])
def test_scores_times_mask_quality(is_on, power):
    """Of the instances alone, every kernel and class; masks and other results stay as they are."""
    options = {"mask_quality": is_on, "mask_threshold": 0.6, "max_instances": 9}
    if power is not None:
        options["mask_quality_power"] = power
    rng = np.random.default_rng(5)
    changed = 0
    for _ in range(20):
        layout = random_layout(rng)
        num_all, num_classes = 4 + layout.num_stuff, len(layout.ids)
        post = Postprocessor(layout=layout, num_kernels=4, **options)
        sizes = ImageSizes(padded=(16, 24), image=(13, 20), output=(9, 31))
        mask_logits = torch.from_numpy(rng.normal(size=(num_all, 4, 6)) * 3).float()
        class_logits = torch.from_numpy(rng.normal(size=(num_all, num_classes))).float()
        mask_logits[0] = -9  # empty
        results = post(class_logits, mask_logits, sizes)
        masks = EnlargedMasks(mask_logits.sigmoid(), sizes)
        quality = mask_quality(masks, 0.6)[:, None]
        assert quality[0] == 0
        masks, scores = whole(masks).numpy(), class_logits.sigmoid()
        of_instances = (scores * quality ** (power or 1) if is_on else scores).numpy()
        check_instances(results["instances"], masks, of_instances, post)
        scores = scores.numpy()
        check_panoptic(results["panoptic_seg"], masks, scores, post)
        labels = slow.kernel_labels(scores, 4, layout.num_things)
        expected = slow.semantic_scores(masks, labels, layout.ids)
        np.testing.assert_allclose(results["sem_seg"].numpy(), expected, rtol=0, atol=1e-6)
        changed += not np.array_equal(of_instances, scores)
    assert changed == (20 if is_on else 0)


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
    masks = EnlargedMasks.of_size(masks)
    scores = torch.linspace(0.9, 0.5, num_kernels + 1)
    labels = torch.tensor([0, 1] * num_kernels)[:num_kernels].tolist() + [2]
    labels = torch.tensor(labels)
    with monkeypatch.context() as patch:
        reads = HostReads(patch)
        with reads:
            _, info = post.panoptic(masks, scores, labels)
    return reads.count, len(info)


def test_two_copies_to_the_host_for_all_segments(monkeypatch):
    """How many blocks there are to compute, and one list of all segments."""
    few, num_few = host_reads_of_merge(monkeypatch, 2)
    many, num_many = host_reads_of_merge(monkeypatch, 30)
    assert (num_few, num_many) == (3, 31)
    assert few == many
    assert few.pop("tolist") == 2
    few.pop("bincount", None)  # waits too on a GPU, but not per segment
    assert not few
