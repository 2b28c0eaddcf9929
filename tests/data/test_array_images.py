"""Arrays and tensors as pictures: their forms, types and ranges."""

import numpy as np
import pytest
import torch

from knet.data.image_reading import read_image
from knet.errors import DatasetError

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (23, 31, 3), np.uint8)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float16, np.float64])
def test_arrays_and_tensors(channels, dtype):
    values = RNG.integers(0, 256, (6, 7, *([channels] if channels else [])))
    expected = values if (channels or 1) > 2 else values.reshape(6, 7, 1).repeat(3, 2)
    array = values.astype(dtype)
    assert np.array_equal(read_image(array), expected[:, :, :3])
    assert np.array_equal(read_image(array, "BGR"), expected[:, :, 2::-1])
    if channels:
        tensor = torch.from_numpy(array).permute(2, 0, 1)
        assert np.array_equal(read_image(tensor), expected[:, :, :3])


def test_tensors_of_types_that_numpy_lacks_or_torch_hardly_has():
    values = torch.from_numpy(PICTURE.transpose(2, 0, 1).astype(np.int32))
    assert np.array_equal(read_image(values.to(torch.bfloat16)), PICTURE)
    assert np.array_equal(read_image((257 * values).to(torch.uint16)), PICTURE)


def test_floats_are_rounded():
    assert read_image(np.array([[0.4, 0.6, 254.5, 100.0]]))[0, :, 0].tolist() == [0, 1, 254, 100]


def test_a_view_is_as_good_as_an_array():
    assert np.array_equal(read_image(PICTURE[::-1, ::2, ::-1]), PICTURE[::-1, ::2, ::-1])


@pytest.mark.parametrize(
    "array, what",
    [
        (np.random.rand(4, 5, 3), r"values in 0\.\.1: multiply by 255"),
        (torch.rand(3, 4, 5), r"values in 0\.\.1: multiply by 255"),
        (np.full((4, 5), np.nan), r"from nan to nan"),
        (np.array([[0.0, np.inf]]), r"from 0 to inf"),
        (np.array([[-1, 5]]), r"from -1 to 5: scale them to 0\.\.255"),
        (np.array([[0.0, 255.5]]), r"from 0 to 255\.5"),
        (np.array([[0, 256]]), r"from 0 to 256"),
        (np.ones((4, 5), bool), "bool array .* give uint8"),
        (torch.ones(1, 4, 5, dtype=torch.bool), "bool tensor .* give uint8"),
        (np.zeros((4, 5), complex), "complex128 array"),
        (np.array([["a"]]), "is no picture"),
        (np.array([[None]]), "is no picture"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\).*array\.transpose\(1, 2, 0\)"),
        (np.zeros((4, 5, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"\(H, W\), or \(H, W, C\)"),
        (np.zeros(5, np.uint8), r"\(H, W\), or \(H, W, C\)"),
        (np.array(5, np.uint8), r"\(H, W\), or \(H, W, C\)"),
        (torch.zeros(20, 25, 3), r"tensor of shape \(20, 25, 3\).*tensor\.permute\(2, 0, 1\)"),
        (torch.zeros(4, 5), r"must be \(C, H, W\)"),
        (torch.zeros(1, 3, 4, 5), r"must be \(C, H, W\)"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (torch.zeros(3, 4, 0), "no pixels"),
    ],
)
def test_arrays_that_are_no_picture(array, what):
    with pytest.raises(DatasetError, match=what):
        read_image(array)


def test_a_black_array_is_a_picture_in_every_type():
    for dtype in (np.uint8, np.int32, np.float32, np.uint16):
        assert not read_image(np.zeros((4, 5), dtype)).any()
