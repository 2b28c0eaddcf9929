"""Preprocessing in NumPy against OpenCV, Pillow and Detectron2."""

import cv2
import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from knet.export.knet_runtime import pad_images, prepare_image, resize_image

INPUT = {
    "format": "RGB",
    "dtype": "uint8",
    "min_size": 40,
    "max_size": 70,
    "antialias": False,
    "divisibility": 32,
    "min_side": 64,
}


def test_resizing_is_opencvs_to_the_last_bit():
    rng = np.random.default_rng(0)
    for height, width, new_height, new_width in rng.integers(1, 300, (40, 4)).tolist():
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        expected = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize_image(image, new_height, new_width), expected)


def test_antialiased_resizing_is_pillows():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((31, 20), Image.BILINEAR))
    assert np.array_equal(resize_image(image, 20, 31, antialias=True), expected)


def test_sizes_are_detectron2s():
    for height, width in np.random.default_rng(0).integers(4, 500, (50, 2)).tolist():
        expected = ResizeShortestEdge.get_output_shape(height, width, 40, 70)
        prepared = prepare_image(np.zeros((height, width, 3), np.uint8), INPUT)
        assert prepared.shape[:2] == expected


def test_channels_are_the_models():
    pixel = np.array([[[10, 100, 200]]], np.uint8)  # blue, green, red
    same_size = {**INPUT, "min_size": 0}
    assert prepare_image(pixel, same_size).tolist() == [[[200, 100, 10]]]
    assert prepare_image(pixel, same_size, "RGB").tolist() == [[[10, 100, 200]]]
    grey = np.asarray(Image.fromarray(pixel[:, :, ::-1].copy()).convert("L"))
    assert prepare_image(pixel, {**same_size, "format": "L"}).tolist() == [[[int(grey[0, 0])]]]


@pytest.mark.parametrize(
    "image, sentence",
    [
        (np.zeros((4, 5), np.uint8), r"\(4, 5\) uint8"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros((0, 5, 3), np.uint8), "no pixel"),
        (np.zeros((1, 900, 3), np.uint8), "too narrow"),
        ("street.jpg", "it is str"),
    ],
)
def test_what_is_no_image_is_told(image, sentence):
    with pytest.raises(ValueError, match=sentence):
        prepare_image(image, INPUT)


def test_padding_reaches_what_the_network_takes():
    images, sizes = pad_images(
        [np.ones((40, 65, 3), np.uint8), np.ones((30, 9, 3), np.uint8)], INPUT
    )
    assert images.shape == (2, 64, 96, 3) and images.dtype == np.uint8
    assert sizes.tolist() == [[40, 65], [30, 9]]
    assert images[0].sum() == 40 * 65 * 3 and images[1, :30, :9].all()
