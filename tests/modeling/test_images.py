"""Images that a caller hands to a model."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from knet.errors import DatasetError, UsageError
from knet.modeling.images import normalize_images
from tests.host_reads import HostReads
from tests.modeling.semantic.heads import small_config
from tests.tiny_model import tiny_model

MEAN, STD = torch.full((3, 1, 1), 2.0), torch.full((3, 1, 1), 4.0)


def normalize(image, mean=MEAN):
    (result,) = normalize_images([{"image": image, "file_name": "cat.png"}], mean, STD)
    return result


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
        normalize(image)


def test_an_input_without_an_image():
    with pytest.raises(DatasetError, match=r"'image' of \(no file_name\) is a NoneType"):
        normalize_images([{"file": "cat.png"}], MEAN, STD)


# ----------------------------------------------------------------------------------------- values

DTYPES = (torch.int16, torch.int32, torch.int64, torch.uint16)
DTYPES += (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_of_0_to_255_count_the_same_in_every_type(dtype):
    values = np.arange(0, 256, 3).reshape(1, 1, -1).repeat(3, 0)
    expected = normalize(torch.from_numpy(values.astype(np.uint8)))
    result = normalize(torch.from_numpy(values.astype(np.int32)).to(dtype))
    assert result.dtype == torch.float32 and torch.equal(result, expected)


def test_a_black_image_is_one_in_every_type():
    for dtype in (torch.uint8, torch.int32, torch.float32):
        assert (normalize(torch.zeros(3, 2, 2, dtype=dtype)) == -0.5).all()


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint16], ids=str)
def test_16_bit_values_are_refused(dtype):
    image = torch.full((3, 4, 4), 3000, dtype=torch.int32).to(dtype)
    with pytest.raises(DatasetError, match=r"cat\.png has values from 3000 to 3000.*0\.\.255"):
        normalize(image)


def test_16_bit_values_are_taken_by_a_model_whose_mean_is_of_16_bits():
    image = torch.full((3, 4, 4), 30_000, dtype=torch.int32)
    wants_them = torch.full((3, 1, 1), 20_000.0)
    assert (normalize(image, wants_them) == 2500).all()


@pytest.mark.parametrize("value", [-1, 256])
def test_whole_numbers_outside_of_8_bits_are_refused(value):
    with pytest.raises(DatasetError, match=r"scale them to 0\.\.255"):
        normalize(torch.tensor([0, value, 7]).view(3, 1, 1))


def test_floats_may_leave_the_range_a_little_as_resizing_makes_them():
    image = torch.tensor([-12.5, 100.0, 270.25]).view(3, 1, 1)
    assert torch.equal(normalize(image), (image - 2) / 4)
    for factor in (100.0, -100.0):
        with pytest.raises(DatasetError, match=r"cat\.png has values from.*scale them to 0\.\.255"):
            normalize(image * factor)


def test_floats_of_0_to_1_are_refused_unless_the_model_wants_them():
    image = torch.rand(3, 4, 4)
    with pytest.raises(DatasetError, match=r"cat\.png has values in 0\.\.1.*multiply by 255"):
        normalize(image)
    wants_them = torch.full((3, 1, 1), 0.45)
    assert torch.equal(normalize(image, wants_them), (image - wants_them) / STD)


def test_an_image_that_is_normalised_already_is_refused():
    image = torch.linspace(-2.1, 2.6, 12).view(3, 2, 2)
    with pytest.raises(DatasetError, match=r"cat\.png has values that are normalised already"):
        normalize(image)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_pixels_that_are_no_numbers(value):
    image = torch.full((3, 4, 4), 90.0)
    image[1, 2, 3] = value
    with pytest.raises(DatasetError, match=r"cat\.png has NaN or infinite pixels"):
        normalize(image)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64], ids=str)
def test_values_of_another_kind(dtype):
    with pytest.raises(DatasetError, match=rf"cat\.png is {str(dtype)[6:]}"):
        normalize(torch.zeros(3, 4, 4, dtype=dtype))


@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 5, 0)])
def test_an_image_without_pixels(shape):
    with pytest.raises(DatasetError, match=r"cat\.png .* no pixel"):
        normalize(torch.zeros(shape, dtype=torch.uint8))


def test_values_of_ordinary_images_are_not_read(monkeypatch):
    with HostReads(monkeypatch) as reads:
        normalize(torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert not reads.count


# ------------------------------------------------------------------------------------- whole models


@pytest.fixture(scope="module", params=["panoptic", "semantic"])
def model(request):
    if request.param == "panoptic":
        return tiny_model().eval()
    return build_model(small_config("SemSegFCNHead", "SemanticKNet")).eval()


def an_input(**more):
    return {"image": torch.full((3, 64, 64), 99, dtype=torch.uint8), "file_name": "cat.png", **more}


@pytest.mark.parametrize(
    "inputs, what",
    [
        ([], "empty"),
        (torch.zeros(3, 64, 64), "not a Tensor"),
        (torch.zeros(1, 3, 64, 64), "not a Tensor"),
        (an_input(), "not a dict"),
        (None, "not a NoneType"),
        ([torch.zeros(3, 64, 64)], "this list has a Tensor"),
    ],
)
def test_what_is_no_list_of_inputs(model, inputs, what):
    with pytest.raises(UsageError, match=rf"takes a list of dicts.*{what}"):
        model(inputs)


@pytest.mark.parametrize("key", ["height", "width"])
@pytest.mark.parametrize("value", [0, -5, "100", 32.0, True, None])
def test_a_size_of_the_result_that_is_none(model, key, value):
    with pytest.raises(UsageError, match=rf"'{key}' of cat\.png is {value!r}:.* whole number"):
        model([an_input(**{"height": 40, "width": 40, key: value})])


@pytest.mark.parametrize("key", ["height", "width"])
def test_half_a_size(model, key):
    with pytest.raises(UsageError, match=rf"cat\.png has '{key}' alone"):
        model([an_input(**{key: 40})])


@pytest.mark.parametrize("size", [{}, {"height": np.int64(30), "width": 50}])
def test_sizes_that_are_right(model, size):
    (result,) = model([an_input(**size)])
    assert result["sem_seg"].shape[1:] == ((30, 50) if size else (64, 64))
