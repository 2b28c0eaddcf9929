"""Targets of a batch against PyTorch's own resizing of padded masks, and what is refused."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

from knet.data.class_layout import ClassLayout
from knet.errors import DatasetError
from knet.modeling.targets import TargetBuilder

from .. import slow_reference as slow

STRIDES = [1, 2, 3, 4, 8]
CASES_PER_SEED = 25
IGNORED, UNKNOWN = 255, 200
CPU = torch.device("cpu")


def random_layout(rng) -> ClassLayout:
    """Things and stuff in any order of contiguous ids, with gaps; stuff may be missing."""
    ids = np.sort(rng.choice(12, size=int(rng.integers(1, 7)), replace=False))
    is_thing = rng.random(len(ids)) < 0.5
    is_thing[rng.integers(len(ids))] = True
    return ClassLayout(ids[is_thing], ids[~is_thing])


def random_input(rng, layout, height, width) -> dict:
    """One image's ground truth: blobs, single pixels, empty and full masks; things may overlap."""
    num_things = int(rng.integers(0, 5))
    masks = np.zeros((num_things, height, width), dtype=bool)
    for mask in masks:
        kind = rng.choice(["noise", "box", "pixel", "empty", "full"])
        y, x = int(rng.integers(height)), int(rng.integers(width))
        if kind == "noise":
            mask[:] = rng.random(mask.shape) < 0.5
        elif kind == "box":
            mask[y : y + int(rng.integers(1, height + 1)), x : x + int(rng.integers(1, 9))] = True
        elif kind == "pixel":
            mask[y, x] = True
        elif kind == "full":
            mask[:] = True
    instances = Instances((height, width))
    instances.gt_classes = torch.from_numpy(rng.choice(layout.thing_ids, size=num_things)).long()
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    labels = [*layout.ids, IGNORED]
    coarse = rng.choice(labels, size=(height // 3 + 1, width // 3 + 1))
    sem_seg = coarse.repeat(3, axis=0).repeat(3, axis=1)[:height, :width]
    noise = rng.random((height, width)) < rng.choice([0, 0.02, 0.3])
    sem_seg = np.where(noise, rng.choice(labels, size=(height, width)), sem_seg)
    dtype = rng.choice([np.uint8, np.int32, np.int64])
    return {"instances": instances, "sem_seg": torch.from_numpy(sem_seg.astype(dtype))}


def random_batch(rng, layout, stride):
    """(inputs of several sizes, padded size): sizes are odd or even, down to one pixel."""
    sizes = rng.integers(1, 30, size=(int(rng.integers(1, 4)), 2))
    inputs = [random_input(rng, layout, int(h), int(w)) for h, w in sizes]
    extra = rng.integers(0, 3, size=2)  # ImageList pads more where the backbone asks for it
    padded = tuple(int((-(-side // stride) + e) * stride) for side, e in zip(sizes.max(0), extra))
    return inputs, padded


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("seed", range(4))
def test_random_batches(seed, stride):
    """Exactly PyTorch's bilinear resizing; stuff is present if one full-size pixel has it."""
    rng = np.random.default_rng((seed, stride))
    for _ in range(CASES_PER_SEED):
        layout = random_layout(rng)
        inputs, padded = random_batch(rng, layout, stride)
        targets = TargetBuilder(layout, stride)(inputs, padded, CPU)
        cells = (padded[0] // stride, padded[1] // stride)
        counts = [len(x["instances"]) for x in inputs]
        assert targets.num_things == counts
        assert targets.thing_masks.shape == (len(inputs), max(1, *counts), *cells)
        assert targets.stuff_masks.shape == (len(inputs), layout.num_stuff, *cells)
        assert targets.thing_masks.dtype == targets.stuff_masks.dtype == torch.float32
        assert targets.thing_classes.dtype == torch.long
        assert targets.stuff_present.dtype == torch.bool
        for i, x in enumerate(inputs):
            instances, sem_seg = x["instances"], x["sem_seg"].numpy().astype(int)
            for thing, mask in enumerate(instances.gt_masks.tensor.numpy()):
                expected = slow.soft_mask(mask, padded, stride)
                assert np.array_equal(targets.thing_masks[i, thing].numpy(), expected)
                model_class = layout.ids.index(int(instances.gt_classes[thing]))
                assert int(targets.thing_classes[i, thing]) == model_class
            assert not targets.thing_masks[i, counts[i] :].any()
            assert not targets.thing_classes[i, counts[i] :].any()
            for stuff, contiguous_id in enumerate(layout.stuff_ids):
                expected = slow.soft_mask(sem_seg == contiguous_id, padded, stride)
                assert np.array_equal(targets.stuff_masks[i, stuff].numpy(), expected)
                present = any(contiguous_id in row for row in sem_seg.tolist())
                assert bool(targets.stuff_present[i, stuff]) == present


def one_thing(mask, contiguous_id=0, **more) -> dict:
    instances = Instances(tuple(mask.shape))
    instances.gt_classes = torch.tensor([contiguous_id])
    instances.gt_masks = BitMasks(mask[None])
    return {"instances": instances, **more}


def test_soft_values_at_stride_4():
    """The share of the four middle pixels of each cell; the twelve around them do not count."""
    for pixels, share in ((1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)):
        mask = torch.zeros(4, 4, dtype=torch.bool)
        for y, x in [(1, 1), (1, 2), (2, 1), (2, 2)][:pixels]:
            mask[y, x] = True
        targets = TargetBuilder(ClassLayout([0], []), 4)([one_thing(mask)], (4, 4), CPU)
        assert targets.thing_masks.flatten().tolist() == [share]
    rim = torch.ones(4, 4, dtype=torch.bool)
    rim[1:3, 1:3] = False
    targets = TargetBuilder(ClassLayout([0], []), 4)([one_thing(rim)], (4, 4), CPU)
    assert targets.thing_masks.flatten().tolist() == [0.0]


def test_stuff_is_present_with_a_pixel_that_no_cell_reads():
    sem_seg = torch.full((8, 8), IGNORED)
    sem_seg[0, 0] = 1
    x = one_thing(torch.ones(8, 8, dtype=torch.bool), sem_seg=sem_seg)
    targets = TargetBuilder(ClassLayout([0], [1, 2]), 4)([x], (8, 8), CPU)
    assert targets.stuff_present.tolist() == [[True, False]]
    assert not targets.stuff_masks.any()


def test_a_label_map_with_a_channel():
    sem_seg = torch.ones(8, 8, dtype=torch.long)
    x = one_thing(torch.ones(8, 8, dtype=torch.bool), sem_seg=sem_seg)
    build = TargetBuilder(ClassLayout([0], [1, 2]), 4)
    expected = build([x], (8, 8), CPU).stuff_masks
    found = build([{**x, "sem_seg": sem_seg[None]}], (8, 8), CPU).stuff_masks
    assert torch.equal(found, expected) and expected[0, 0].all()


def test_ignore_label_that_is_a_class():
    """With more than 255 classes, the label for "ignored" must not become stuff."""
    layout = ClassLayout([0], range(1, 300))
    sem_seg = torch.full((4, 4), 255)
    x = one_thing(torch.ones(4, 4, dtype=torch.bool), sem_seg=sem_seg)
    targets = TargetBuilder(layout, 4)([x], (4, 4), CPU)
    assert not targets.stuff_present.any() and not targets.stuff_masks.any()
    x["sem_seg"] = torch.full((4, 4), 256)
    targets = TargetBuilder(layout, 4)([x], (4, 4), CPU)
    assert targets.stuff_present[0].nonzero().flatten().tolist() == [255]


@pytest.mark.parametrize("stride", STRIDES)
def test_polygons_and_plain_tensors(stride):
    """Both give what the same object gives as BitMasks."""
    polygon = np.array([2.0, 1.0, 17.0, 3.5, 12.0, 15.0, 4.0, 13.0])
    bits = BitMasks.from_polygon_masks([[polygon]], 19, 21)
    padded = (24, 24)
    wanted = slow.soft_mask(bits.tensor[0].numpy(), padded, stride)
    assert wanted.any()
    for masks in (PolygonMasks([[polygon]]), bits, bits.tensor, bits.tensor.to(torch.uint8)):
        x = one_thing(bits.tensor[0])
        x["instances"].gt_masks = masks
        targets = TargetBuilder(ClassLayout([0], []), stride)([x], padded, CPU)
        assert np.array_equal(targets.thing_masks[0, 0].numpy(), wanted)


INTERLEAVED = ClassLayout(thing_ids=[0, 5], stuff_ids=[1, 3])


def refused(x) -> str:
    with pytest.raises(DatasetError) as error:
        TargetBuilder(INTERLEAVED, 4)([x], (8, 8), CPU)
    return str(error.value)


@pytest.mark.parametrize("wrong", [1, 2, 6, 77, -1])
def test_thing_class_outside_the_layout(wrong):
    """Stuff ids, gaps, ids behind the last and negative ones."""
    sem_seg = torch.zeros(8, 8, dtype=torch.long)
    x = one_thing(torch.ones(8, 8, dtype=torch.bool), wrong, sem_seg=sem_seg, file_name="a/b.jpg")
    message = refused(x)
    assert "a/b.jpg" in message and f"thing class {wrong}," in message and "[0, 5]" in message


def test_the_wrong_thing_class_is_named_among_right_ones():
    """The class that is refused is the one in the sentence, not a right one beside it."""
    x = one_thing(torch.ones(8, 8, dtype=torch.bool), file_name="a/b.jpg")
    x["sem_seg"] = torch.zeros(8, 8, dtype=torch.long)
    instances = Instances((8, 8))
    instances.gt_classes = torch.tensor([0, 5, 1])  # 1 is stuff
    instances.gt_masks = BitMasks(torch.ones(3, 8, 8, dtype=torch.bool))
    x["instances"] = instances
    assert "thing class 1," in refused(x)


@pytest.mark.parametrize("wrong", [2, 6, 77, -1])
def test_label_that_is_no_class(wrong):
    """It must not become unlabelled without a word."""
    sem_seg = torch.full((8, 8), IGNORED)
    sem_seg[3, 4] = wrong
    x = one_thing(torch.ones(8, 8, dtype=torch.bool), sem_seg=sem_seg, file_name="a/b.jpg")
    message = refused(x)
    assert "a/b.jpg" in message and f"label {wrong} in 'sem_seg'" in message


def test_missing_sem_seg():
    message = refused(one_thing(torch.ones(8, 8, dtype=torch.bool), file_name="a/b.jpg"))
    assert "a/b.jpg" in message and "sem_seg" in message
    assert "MODEL.KNET.NUM_STUFF_CLASSES" in message


def test_missing_instances():
    message = refused({"file_name": "a/b.jpg", "sem_seg": torch.zeros(8, 8, dtype=torch.long)})
    assert "a/b.jpg" in message and "instances" in message


def test_an_instance_model_needs_no_sem_seg():
    mask = torch.ones(8, 8, dtype=torch.bool)
    targets = TargetBuilder(ClassLayout([0], []), 4)([one_thing(mask)], (8, 8), CPU)
    assert targets.stuff_masks.shape == (1, 0, 2, 2)
    assert targets.stuff_present.shape == (1, 0)
