"""Resizing: OpenCV's pixels without antialias, or Detectron2's where the config asks for them."""

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform
from PIL import Image

from knet.data.transforms import (
    OpenCVResizeShortestEdge,
    OpenCVResizeTransform,
    build_augmentations,
)

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
    assert kinds(build_augmentations(tiny_config, is_train=True))[0] is T.ResizeShortestEdge
    (resize,) = build_augmentations(tiny_config, is_train=False)
    assert type(resize) is T.ResizeShortestEdge
    image = noise(120, 200, 3)
    expected = np.asarray(Image.fromarray(image).resize((96, 58), Image.BILINEAR))
    assert np.array_equal(resize.get_transform(image).apply_image(image), expected)


def test_a_crop_comes_first_and_in_training_only(tiny_config):
    tiny_config.INPUT.CROP.ENABLED = True
    assert kinds(build_augmentations(tiny_config, is_train=True)) == [
        T.RandomCrop,
        OpenCVResizeShortestEdge,
        T.RandomFlip,
    ]
    assert kinds(build_augmentations(tiny_config, is_train=False)) == [OpenCVResizeShortestEdge]
