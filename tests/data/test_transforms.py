"""Augmentations: OpenCV's pixels without antialias (or Detectron2's own), scale, crop, colours."""

import random

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import NoOpTransform
from PIL import Image

from knet.data import KNetDatasetMapper
from knet.data.transforms import (
    CheckedResizeShortestEdge,
    OpenCVResizeShortestEdge,
    OpenCVResizeTransform,
    RandomlyScaledResize,
    build_augmentations,
)
from knet.errors import UsageError

SIZES = [(37, 53, 20, 29), (37, 53, 74, 106), (60, 40, 31, 90), (5, 7, 5, 7), (64, 64, 1, 1)]


def noise(*shape, dtype=np.uint8, high=256):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


@pytest.mark.parametrize("h, w, new_h, new_w", SIZES)
def test_images_resize_as_opencv_does_without_antialias(h, w, new_h, new_w):
    transform = OpenCVResizeTransform(h, w, new_h, new_w)
    for image in (noise(h, w, 3), noise(h, w), noise(h, w, 3).astype(np.float32)):
        expected = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        result = transform.apply_image(image)
        assert result.dtype == image.dtype and np.array_equal(result, expected)


@pytest.mark.parametrize("h, w, new_h, new_w", SIZES)
@pytest.mark.parametrize("dtype, high", [(np.uint8, 256), (np.int32, 2**24)])
def test_label_maps_resize_by_nearest(h, w, new_h, new_w, dtype, high):
    transform = OpenCVResizeTransform(h, w, new_h, new_w)
    for labels in (noise(h, w, dtype=dtype, high=high), noise(h, w, 3, dtype=dtype, high=high)):
        expected = cv2.resize(labels, (new_w, new_h), interpolation=cv2.INTER_NEAREST)
        result = transform.apply_segmentation(labels)
        assert result.dtype == labels.dtype and np.array_equal(result, expected)


@pytest.mark.parametrize("h, w, new_h, new_w", [*SIZES, (256, 300, 700, 224)])
@pytest.mark.parametrize("interpolation, of_pixel", [("nearest", 0.0), ("nearest-exact", 0.5)])
def test_exact_masks_lie_on_the_image_and_published_ones_beside_it(
    h, w, new_h, new_w, interpolation, of_pixel
):
    """The pixel at the new one's middle is taken, where the image is read, or at its corner."""
    transform = OpenCVResizeTransform(h, w, new_h, new_w, interpolation)
    for taken, old, new in (
        (transform.apply_segmentation(np.mgrid[:h, :w][0].astype(np.int32))[:, 0], h, new_h),
        (transform.apply_segmentation(np.mgrid[:h, :w][1].astype(np.int32))[0], w, new_w),
    ):
        place = (np.arange(new) + of_pixel) * old / new
        assert (taken <= place + 1e-6).all() and (place <= taken + 1 + 1e-6).all()


def test_exact_masks_of_a_very_long_image():
    """OpenCV counts in 16 bits and 16 beyond the point, and reads beside such an image."""
    labels = np.arange(40000, dtype=np.int32)
    for shape, size in (((1, 40000), (1, 800)), ((40000, 1), (800, 1))):
        transform = OpenCVResizeTransform(*shape, *size, "nearest-exact")
        resized = transform.apply_segmentation(labels.reshape(shape))
        assert resized.shape == size and np.array_equal(resized.ravel(), labels[25::50])


def test_the_key_says_how_masks_are_resized(tiny_config):
    labels = noise(40, 60)
    for key in ("nearest", "nearest-exact"):
        tiny_config.INPUT.MASK_INTERPOLATION = key
        tiny_config.INPUT.SCALE_RANGE = (0.5, 0.5)
        resize = build_augmentations(tiny_config, is_train=True)[0].get_transform(labels)
        assert resize.mask_interpolation == resize.inverse().mask_interpolation == key
    tiny_config.INPUT.MASK_INTERPOLATION = "linear"
    with pytest.raises(
        UsageError, match=r"INPUT\.MASK_INTERPOLATION is 'linear': .* nearest-exact"
    ):
        build_augmentations(tiny_config, is_train=True)


def test_it_differs_from_the_antialiased_resize():
    image = noise(200, 200, 3)
    ours = OpenCVResizeTransform(200, 200, 50, 50).apply_image(image)
    antialiased = T.ResizeTransform(200, 200, 50, 50, Image.BILINEAR).apply_image(image)
    assert ours.std() > 1.5 * antialiased.std()


def test_one_channel_keeps_its_axis_and_strides_do_not_matter():
    image = noise(31, 47, 3)[:, ::-1]  # flipped: negative strides
    transform = OpenCVResizeTransform(31, 47, 16, 20)
    expected = cv2.resize(np.ascontiguousarray(image), (20, 16), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(transform.apply_image(image), expected)
    assert transform.apply_image(image[..., :1]).shape == (16, 20, 1)


def test_points_and_inverse_follow():
    transform = OpenCVResizeTransform(10, 20, 30, 40)
    assert transform.apply_coords(np.array([[5.0, 5.0]])).tolist() == [[10.0, 15.0]]
    inverse = transform.inverse()
    assert isinstance(inverse, OpenCVResizeTransform)
    assert inverse.apply_image(noise(30, 40, 3)).shape == (10, 20, 3)


@pytest.mark.parametrize("h, w", [(480, 640), (640, 480), (100, 1000), (800, 800), (333, 500)])
def test_the_size_is_detectron2s(h, w):
    image = np.zeros((h, w, 3), np.uint8)
    ours = OpenCVResizeShortestEdge(800, 1333).get_transform(image)
    theirs = T.ResizeShortestEdge(800, 1333).get_transform(image)
    assert (ours.new_h, ours.new_w) == (theirs.new_h, theirs.new_w)
    assert max(ours.new_h, ours.new_w) <= 1333


def test_size_0_leaves_the_image_as_it_is():
    transform = OpenCVResizeShortestEdge(0, 1333).get_transform(np.zeros((5, 6, 3), np.uint8))
    assert isinstance(transform, NoOpTransform)


# ------------------------------------------------------------------------------ from a config


def kinds(augmentations):
    return [type(a) for a in augmentations]


def test_training_resizes_then_flips_and_inference_only_resizes(tiny_config):
    resize, flip = build_augmentations(tiny_config, is_train=True)
    assert (type(resize), type(flip)) == (OpenCVResizeShortestEdge, T.RandomFlip)
    assert (resize.short_edge_length, resize.max_size, resize.is_range) == ((64,), 96, False)
    assert flip.prob == 0.5 and flip.horizontal and not flip.vertical
    (resize,) = build_augmentations(tiny_config, is_train=False)
    assert type(resize) is OpenCVResizeShortestEdge
    assert (resize.short_edge_length, resize.max_size) == ((64, 64), 96)


def test_a_range_of_sizes_stays_a_range(tiny_config):
    tiny_config.INPUT.MIN_SIZE_TRAIN = (20, 40)
    tiny_config.INPUT.MAX_SIZE_TRAIN = 1000
    tiny_config.INPUT.RANDOM_FLIP = "none"
    image = np.zeros((50, 60, 3), np.uint8)
    drawn = {}
    for sampling in ("range", "choice"):
        tiny_config.INPUT.MIN_SIZE_TRAIN_SAMPLING = sampling
        (resize,) = build_augmentations(tiny_config, is_train=True)
        drawn[sampling] = {resize.get_transform(image).new_h for _ in range(60)}
    assert drawn["choice"] == {20, 40}
    assert len(drawn["range"]) > 5 and drawn["range"] <= set(range(20, 41))


def test_with_antialias_it_is_detectron2s_own(tiny_config):
    tiny_config.INPUT.RESIZE_ANTIALIAS = True
    image = noise(120, 200, 3)
    in_training = build_augmentations(tiny_config, is_train=True)[0]
    (resize,) = build_augmentations(tiny_config, is_train=False)
    for each in (in_training, resize):
        assert type(each.get_transform(image)) is T.ResizeTransform
    expected = np.asarray(Image.fromarray(image).resize((96, 58), Image.BILINEAR))
    assert np.array_equal(resize.get_transform(image).apply_image(image), expected)


# ------------------------------------------------------------------- scale, crop, photometric


@pytest.fixture
def published(tiny_config):
    """The published augmentation of ADE20K, at an eighth of its sizes."""
    cfg = tiny_config.INPUT
    cfg.MIN_SIZE_TRAIN, cfg.MAX_SIZE_TRAIN, cfg.SCALE_RANGE = (64,), 256, (0.5, 2.0)
    cfg.CROP.ENABLED, cfg.CROP.TYPE, cfg.CROP.SIZE = True, "absolute", [64, 64]
    cfg.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    cfg.COLOR_AUG_SSD = True
    return tiny_config


@pytest.fixture(autouse=True)
def seeded():
    """Detectron2's augmentations draw from NumPy's and Python's global generators."""
    before = np.random.get_state(), random.getstate()
    np.random.seed(0)
    random.seed(0)
    yield
    np.random.set_state(before[0])
    random.setstate(before[1])


def test_the_published_order_and_in_training_only(published):
    resize, crop, flip, color = build_augmentations(published, is_train=True)
    assert type(resize) is RandomlyScaledResize and type(resize.resize) is OpenCVResizeShortestEdge
    assert type(crop) is T.RandomCrop_CategoryAreaConstraint
    assert (crop.single_category_max_area, crop.ignored_category) == (0.75, 255)
    assert type(flip) is T.RandomFlip and type(color) is ColorAugSSDTransform
    assert color.is_rgb and (color.brightness_delta, color.hue_delta) == (32, 18)
    assert (color.contrast_low, color.contrast_high) == (0.5, 1.5)
    assert (color.saturation_low, color.saturation_high) == (0.5, 1.5)
    assert kinds(build_augmentations(published, is_train=False)) == [OpenCVResizeShortestEdge]


def test_a_crop_comes_after_the_resize(tiny_config):
    tiny_config.INPUT.CROP.ENABLED = True
    for antialias, resize in (
        (False, OpenCVResizeShortestEdge),
        (True, CheckedResizeShortestEdge),
    ):
        tiny_config.INPUT.RESIZE_ANTIALIAS = antialias
        augmentations = build_augmentations(tiny_config, is_train=True)
        assert kinds(augmentations) == [resize, T.RandomCrop, T.RandomFlip]
    tiny_config.INPUT.SCALE_RANGE = (0.5, 2.0)
    scaled = build_augmentations(tiny_config, is_train=True)[0]
    assert type(scaled.get_transform(noise(40, 50, 3))) is T.ResizeTransform


@pytest.mark.parametrize("h, w", [(48, 64), (64, 48), (20, 300), (512, 683)])
def test_scaled_sizes_are_those_of_the_recipe(published, h, w):
    """Short side 64 r unless the long one would be above 256 r; r uniform in 0.5..2."""
    scaled = build_augmentations(published, is_train=True)[0]
    for r in (0.5, 0.77, 1.0, 1.603, 2.0):
        scaled.scale_range = (r, r)
        transform = scaled.get_transform(np.zeros((h, w, 3), np.uint8))
        factor = min(int(256 * r) / max(h, w), int(64 * r) / min(h, w))
        assert transform.new_h == int(h * factor + 0.5)
        assert transform.new_w == int(w * factor + 0.5)


def test_the_scale_is_uniform_and_the_augmentation_keeps_its_own_sizes(published):
    scaled = build_augmentations(published, is_train=True)[0]
    image = np.zeros((100, 120, 3), np.uint8)
    sides = np.array([scaled.get_transform(image).new_h for _ in range(2000)])
    assert sides.min() >= 32 and sides.max() <= 128
    assert (sides < 34).any() and (sides > 125).any()
    assert abs(np.mean(sides) - 1.25 * 64) < 3 * 0.433 * 64 / 2000**0.5 + 0.5
    quarters = np.histogram(sides, bins=[32, 56, 80, 104, 129])[0] / 2000
    assert np.abs(quarters - 0.25).max() < 0.04
    assert tuple(scaled.resize.short_edge_length) == (64,) and scaled.resize.max_size == 256


def test_several_sizes_are_all_scaled_and_0_stays_no_resize():
    resize = OpenCVResizeShortestEdge((40, 60), 1000, "choice")
    scaled = RandomlyScaledResize(resize, (0.5, 0.5))
    image = np.zeros((50, 50, 3), np.uint8)
    assert {scaled.get_transform(image).new_h for _ in range(40)} == {20, 30}
    scaled = RandomlyScaledResize(OpenCVResizeShortestEdge(0, 1000, "choice"), (0.5, 2.0))
    assert isinstance(scaled.get_transform(image), NoOpTransform)


# four classes whose colours tell them, and unlabelled pixels
COLORS = np.array([[10, 200, 30], [250, 20, 20], [60, 60, 220], [128, 128, 128], [0, 0, 0]])


def stripes(h, w):
    """(H, W) classes 0 to 3 in wide stripes, 255 at the left."""
    labels = np.minimum(np.arange(w) * 4 // w + np.arange(h)[:, None] // (h // 2), 3)
    labels[:, : w // 10] = 255
    return labels.astype(np.uint8)


def test_image_and_labels_stay_together(published, tmp_path):
    labels = stripes(90, 150)
    Image.fromarray(COLORS[np.minimum(labels, 4)].astype(np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(labels).save(tmp_path / "l.png")
    published.INPUT.COLOR_AUG_SSD = False
    mapper = KNetDatasetMapper(
        augmentations=build_augmentations(published, is_train=True), mask_on=False
    )
    sizes = set()
    for _ in range(30):
        record = {"file_name": f"{tmp_path}/i.png", "sem_seg_file_name": f"{tmp_path}/l.png"}
        result = mapper(record)
        image, classes = result["image"].numpy(), result["sem_seg"].numpy()
        assert image.shape[1:] == classes.shape
        sizes.add(classes.shape)
        for label in np.unique(classes):
            # not near a border between classes, of which one may lie just outside of the crop
            mask = np.pad((classes == label).astype(np.uint8), 3)
            inner = cv2.erode(mask, np.ones((7, 7)))[3:-3, 3:-3] > 0
            color = COLORS[min(label, 4)]
            assert np.abs(image[:, inner].astype(int) - color[:, None]).max(initial=0) <= 1
    assert (64, 64) in sizes
    assert all(h <= 64 and w <= 64 for h, w in sizes) and len(sizes) > 5, "never padded here"


def shares(labels):
    """Share of each class among the labelled pixels."""
    counts = np.bincount(labels[labels != 255], minlength=1)
    return counts[counts > 0] / max(1, counts.sum())


def acceptable(labels):
    return len(shares(labels)) > 1 and shares(labels).max() < 0.75


def test_no_class_fills_a_crop_where_that_can_be_avoided(published):
    """Brute force over every window: the crop takes a good one if they are not rare."""
    crop = build_augmentations(published, is_train=True)[1]
    checked = 0
    for border in (30, 50, 70, 99):
        labels = np.zeros((100, 100), np.uint8)
        labels[:, border:], labels[:20] = 1, 255
        windows = [labels[y : y + 64, x : x + 64] for y in range(37) for x in range(37)]
        good = np.mean([acceptable(window) for window in windows])
        if good == 0:
            transform = crop.get_transform(labels, labels)  # the tenth, whatever it is
            assert transform.apply_segmentation(labels).shape == (64, 64)
        elif (1 - good) ** 10 < 1e-4:
            checked += 1
            for _ in range(30):
                transform = crop.get_transform(labels, labels)
                assert acceptable(transform.apply_segmentation(labels))
    assert checked


def test_panoptic_and_instance_data_show_the_crop_their_classes(published, shapes):
    """Without the constraint many crops are nearly all of one class, with it hardly any."""
    crop = build_augmentations(published, is_train=True)[1]
    crop.crop_aug.crop_size = (24, 24)
    free = T.RandomCrop("absolute", (24, 24))
    records = DatasetCatalog.get(shapes.train)
    fractions = []
    for augmentation in (free, crop):
        mapper = KNetDatasetMapper(augmentations=[augmentation])
        results = [mapper(r) for r in records for _ in range(6)]
        assert all(r["sem_seg"].shape == (24, 24) for r in results)
        assert all(m.any() for r in results for m in r["instances"].gt_masks.tensor)
        fractions.append(np.mean([acceptable(r["sem_seg"].numpy()) for r in results]))
    assert fractions[1] > fractions[0] + 0.2

    mapper = KNetDatasetMapper(augmentations=[crop, T.RandomFlip(0.5)])
    for record in DatasetCatalog.get(shapes.train.replace("panoptic", "instance")):
        result = mapper(record)
        instances = result["instances"]
        assert instances.image_size == tuple(result["image"].shape[1:]) == (24, 24)
        assert instances.gt_masks.tensor.flatten(1).any(1).all() and "sem_seg" not in result


def test_photometric_distortion_leaves_labels_and_is_the_same_in_rgb_and_bgr():
    image, labels = noise(30, 40, 3), noise(30, 40)
    rgb, bgr = ColorAugSSDTransform("RGB"), ColorAugSSDTransform("BGR")
    changed = 0
    for seed in range(20):
        random.seed(seed)
        result = rgb.apply_image(image)
        random.seed(seed)
        assert np.array_equal(result, bgr.apply_image(image[..., ::-1].copy())[..., ::-1])
        assert result.dtype == np.uint8 and result.shape == image.shape
        changed += not np.array_equal(result, image)
    assert 12 < changed <= 20 and rgb.apply_segmentation(labels) is labels


def test_distorted_images_keep_their_channels_in_the_mapper(published, shapes):
    published.INPUT.FORMAT = "BGR"
    mapper = KNetDatasetMapper(published, is_train=True)
    (record, *_) = DatasetCatalog.get(shapes.train)
    for _ in range(8):  # flipped too: negative strides
        assert mapper(record)["image"].shape[0] == 3


@pytest.mark.parametrize(
    "key, value",
    [
        ("SCALE_RANGE", (0.5,)),
        ("SCALE_RANGE", (2.0, 0.5)),
        ("SCALE_RANGE", (0.0, 1.0)),
        ("CROP.TYPE", "square"),
        ("CROP.SIZE", [64]),
        ("CROP.SIZE", [0, 64]),
        ("CROP.SIZE", [64.5, 64]),
        ("FORMAT", "L"),
        ("MIN_SIZE_TRAIN", ()),
        ("MIN_SIZE_TRAIN_SAMPLING", "all"),
        ("RANDOM_FLIP", "both"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(published, key, value):
    *parents, last = key.split(".")
    node = published.INPUT.CROP if parents else published.INPUT
    node[last] = value
    with pytest.raises(UsageError, match=rf"INPUT\..*{last}"):
        build_augmentations(published, is_train=True)


def test_a_range_needs_two_sizes(published):
    published.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    for sizes in ((512,), (512, 640, 768)):
        published.INPUT.MIN_SIZE_TRAIN = sizes
        with pytest.raises(UsageError, match=r"INPUT\.MIN_SIZE_TRAIN"):
            build_augmentations(published, is_train=True)


@pytest.mark.parametrize(
    "kind, size",
    [("relative", [64, 64]), ("relative_range", [0.5, 1.5]), ("absolute_range", [9, 8])],
)
def test_a_crop_size_of_another_type(published, kind, size):
    published.INPUT.CROP.TYPE, published.INPUT.CROP.SIZE = kind, size
    with pytest.raises(UsageError, match=r"INPUT\.CROP\.TYPE"):
        build_augmentations(published, is_train=True)
