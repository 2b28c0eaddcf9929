"""Images that a caller hands to a model."""

import numpy as np
import pytest
import torch

from knet.errors import DatasetError
from knet.modeling.images import normalize_images

MEAN, STD = torch.full((3, 1, 1), 2.0), torch.full((3, 1, 1), 4.0)


def test_images_are_normalised_each_in_its_size():
    inputs = [{"image": torch.full((3, h, 5), 10, dtype=torch.uint8)} for h in (2, 4)]
    one, two = normalize_images(inputs, MEAN, STD)
    assert one.shape == (3, 2, 5) and two.shape == (3, 4, 5)
    assert (one == 2).all() and (two == 2).all()


@pytest.mark.parametrize(
    "image, what",
    [
        (np.zeros((3, 4, 5), np.uint8), r"a ndarray of shape \(3, 4, 5\)"),
        (torch.zeros(4, 5), r"a Tensor of shape \(4, 5\)"),
        (torch.zeros(1, 3, 4, 5), r"a Tensor of shape \(1, 3, 4, 5\)"),
        ("cat.jpg", "a str"),
        (None, "a NoneType"),
    ],
)
def test_an_image_that_is_no_image_tensor(image, what):
    with pytest.raises(DatasetError, match=rf"cat\.png is {what}.*a \(channels, H, W\) tensor"):
        normalize_images([{"image": image, "file_name": "cat.png"}], MEAN, STD)


def test_an_input_without_an_image():
    with pytest.raises(DatasetError, match=r"'image' of \(no file_name\) is a NoneType"):
        normalize_images([{"file": "cat.png"}], MEAN, STD)
