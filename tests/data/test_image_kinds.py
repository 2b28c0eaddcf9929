"""Images of other depths and numbers of channels, against the arrays that were written."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from knet.data import KNetDatasetMapper
from knet.data.image_reading import ImageReader, open_image, read_image, to_rgb
from knet.errors import DatasetError, UsageError

RNG = np.random.default_rng(0)
SIZE = (23, 31)


def values(dtype, channels=None, low=0, high=60000) -> np.ndarray:
    shape = SIZE if channels is None else (*SIZE, channels)
    return (low + RNG.random(shape) * (high - low)).astype(dtype)


def by_cv2(suffix):
    def write(array, path):
        order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(array.shape[-1] if array.ndim == 3 else 1)
        plain = (cv2.IMWRITE_TIFF_COMPRESSION, 1) if array.dtype != np.uint16 else ()
        ok, content = cv2.imencode(suffix, array[..., order] if order else array, plain)
        assert ok
        path.write_bytes(content.tobytes())

    return write


def by_pillow(kind):
    return lambda array, path: Image.fromarray(array).save(path, kind)


def by_numpy(array, path):
    with open(path, "wb") as file:
        np.save(file, array)


def by_tifffile(**options):
    def write(array, path):
        tifffile = pytest.importorskip("tifffile")
        layout = {"photometric": "minisblack", "planarconfig": "contig", **options}
        stored = array if layout["planarconfig"] != "separate" else array.transpose(2, 0, 1)
        tifffile.imwrite(path, stored, **layout)

    return write


def imagej_stack(array, path):
    """Channels as pages of their own, as microscopes write them."""
    tifffile = pytest.importorskip("tifffile")
    stored = np.ascontiguousarray(array.transpose(2, 0, 1))
    tifffile.imwrite(path, stored, imagej=True, metadata={"axes": "CYX"})


def grey_alpha_png(array, path):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 4, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


TIFFFILE = "tifffile"  # what reads it
SEPARATE = {"planarconfig": "separate"}

DEEP = {
    "png16": (by_cv2(".png"), values(np.uint16), None),
    "png16 colour": (by_cv2(".png"), values(np.uint16, 3), None),
    "png16 transparent": (by_cv2(".png"), values(np.uint16, 4), None),
    "tiff16": (by_pillow("TIFF"), values(np.uint16), None),
    "tiff16 colour": (by_cv2(".tiff"), values(np.uint16, 3), None),
    "tiff16 transparent": (by_cv2(".tiff"), values(np.uint16, 4), None),
    "tiff16 in planes": (by_tifffile(**SEPARATE), values(np.uint16, 3), TIFFFILE),
    "tiff16 signed": (by_cv2(".tiff"), values(np.int16, None, -3000, 3000), None),
    "tiff32": (by_pillow("TIFF"), values(np.int32, None, -70000, 70000), None),
    "tiff32 unsigned": (
        by_tifffile(planarconfig=None),
        values(np.uint32, None, 0, 2**32),
        TIFFFILE,
    ),
    "tiff float": (by_pillow("TIFF"), values(np.float32, None, -9, 60000), None),
    "tiff float colour": (by_cv2(".tiff"), values(np.float32, 3, -9, 60000), TIFFFILE),
    "tiff float64": (by_cv2(".tiff"), values(np.float64, None, 0, 60000), TIFFFILE),
    "npy16": (by_numpy, values(np.uint16), None),
    "npy float colour": (by_numpy, values(np.float64, 3, -9, 60000), None),
}
deep = pytest.mark.parametrize("kind", DEEP)


@pytest.fixture
def written(tmp_path):
    """Writes a picture of a kind; skips where the package that reads it is missing."""

    def write(kinds, kind):
        how, array, needs = kinds[kind]
        if needs:
            pytest.importorskip(needs)
        path = tmp_path / "picture"
        how(array, path)
        return path, array

    return write


def expected(array, low, high, image_format) -> np.ndarray:
    scaled = np.atleast_3d((array.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)
    if image_format == "RAW":
        return scaled
    scaled = scaled[:, :, :3]
    colour = scaled.repeat(3, 2) if scaled.shape[2] == 1 else scaled
    if image_format == "L":
        return scaled if scaled.shape[2] == 1 else (colour @ [0.299, 0.587, 0.114])[:, :, None]
    return colour[:, :, ::-1] if image_format == "BGR" else colour


@deep
def test_a_value_range_is_0_to_255_without_rounding(written, kind):
    path, array = written(DEEP, kind)
    for low, high in ((0, 60000), (-100.5, 4095), (1000, 2000)):
        for image_format in ("RGB", "BGR", "L", "RAW"):
            image = ImageReader(image_format, (low, high)).read(path)
            assert image.dtype == np.float32
            wanted = expected(array, low, high, image_format)
            assert image.shape == wanted.shape
            np.testing.assert_allclose(image, wanted, rtol=1e-6, atol=1e-4)


@deep
def test_arrays_in_memory_and_bytes_are_read_as_files(written, kind):
    path, array = written(DEEP, kind)
    reader = ImageReader("RAW", (0, 60000))
    image = reader.read(path)
    with open(path, "rb") as file:
        assert np.array_equal(reader.read(file), image)
    assert np.array_equal(reader.read(path.read_bytes()), image)
    assert np.array_equal(reader.read(array), image)
    if array.dtype != np.uint32:
        tensor = torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1).copy())
        assert np.array_equal(reader.read(tensor), image)


@deep
def test_training_evaluation_and_predictor_see_the_same(written, kind, predictor_inputs):
    path, array = written(DEEP, kind)
    for image_format, channels in (("BGR", 3), ("RAW", np.atleast_3d(array).shape[2])):
        keys = {"image_format": image_format, "value_range": (0, 5000)}
        in_test = KNetDatasetMapper(False, augmentations=[], **keys)({"file_name": str(path)})
        label = path.with_suffix(".png")
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(label)
        record = {"file_name": str(path), "sem_seg_file_name": str(label)}
        in_training = KNetDatasetMapper(True, augmentations=[], mask_on=False, **keys)(record)
        (given,) = predictor_inputs(path, image_format, (0, 5000), channels)
        assert in_test["image"].dtype == torch.float32
        for other in (in_training, given):
            assert torch.equal(other["image"], in_test["image"])


@pytest.fixture
def predictor_inputs(tiny_config, monkeypatch):
    """What the model of a predictor is given of a picture."""
    import knet
    from knet.engine.model_file import ModelInfo

    def inputs(path, image_format, value_range, channels):
        cfg = tiny_config.clone()
        cfg.INPUT.FORMAT, cfg.INPUT.VALUE_RANGE, cfg.INPUT.MIN_SIZE_TEST = (
            image_format,
            value_range,
            0,
        )
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * channels, [1.0] * channels
        model = torch.nn.Identity().eval()
        model.info = ModelInfo.from_config(cfg)
        seen = []
        monkeypatch.setattr(model, "forward", lambda batch: seen.extend(batch) or [{}])
        knet.Predictor(model)(path)
        return seen

    return inputs


def test_8_bits_are_as_they_are_whatever_the_range(tmp_path):
    for kind, mode in (("PNG", "RGB"), ("PNG", "L"), ("TIFF", "RGB"), ("PNG", "P")):
        Image.fromarray(values(np.uint8, 3, 0, 256)).convert(mode).save(tmp_path / "a", kind)
        image = ImageReader("BGR", (0, 4095)).read(tmp_path / "a")
        assert image.dtype == np.uint8
        assert np.array_equal(image, read_image(tmp_path / "a", "BGR"))
    with pytest.raises(DatasetError, match="of more than 8 bits become RGB, BGR, L or RAW"):
        ImageReader("YUV-BT.601", (0, 4095)).read(values(np.uint16, 3))


def test_the_largest_numbers_are_exact():
    array = np.array([[0, 2**31 - 255, 2**31 - 1, 2**32 - 1]], np.uint32)
    image = ImageReader("L", (2**31 - 256, 2**31 - 1)).read(array)
    assert image.ravel().tolist() == [0, 1, 255, 255]


# --------------------------------------------------------------------------- other channels

CHANNELS = {
    "png grey": (by_pillow("PNG"), values(np.uint8, None, 0, 256), None),
    "png grey and transparent": (by_pillow("PNG"), values(np.uint8, 2, 0, 256), None),
    "png colour": (by_pillow("PNG"), values(np.uint8, 3, 0, 256), None),
    "png transparent": (by_pillow("PNG"), values(np.uint8, 4, 0, 256), None),
    "png16 grey and transparent": (grey_alpha_png, values(np.uint16, 2), None),
    "npy 2": (by_numpy, values(np.uint8, 2, 0, 256), None),
    "npy 5": (by_numpy, values(np.uint8, 5, 0, 256), None),
    "npy 16 bits": (by_numpy, values(np.uint16, 7), None),
    "tiff 2": (by_tifffile(), values(np.uint8, 2, 0, 256), TIFFFILE),
    "tiff 5": (by_tifffile(), values(np.uint8, 5, 0, 256), TIFFFILE),
    "tiff colour and 2": (by_tifffile(photometric="rgb"), values(np.uint8, 5, 0, 256), TIFFFILE),
    "tiff 16 bits": (by_tifffile(**SEPARATE), values(np.uint16, 5), TIFFFILE),
    "tiff in planes": (by_tifffile(**SEPARATE), values(np.uint8, 4, 0, 256), TIFFFILE),
    "tiff of pages": (imagej_stack, values(np.uint16, 3), TIFFFILE),
}


@pytest.mark.parametrize("kind", CHANNELS)
def test_raw_is_all_channels_in_the_order_of_the_file(written, kind):
    path, array = written(CHANNELS, kind)
    image = ImageReader("RAW").read(path)
    wanted = np.atleast_3d(array if array.dtype == np.uint8 else np.round(array / 257))
    assert image.dtype == np.uint8 and np.array_equal(image, wanted)
    assert np.array_equal(ImageReader("RAW").read(array), wanted)


def test_raw_of_palettes_and_single_bits(tmp_path):
    image = Image.fromarray(values(np.uint8, 3, 0, 256))
    for mode, like in (("P", "RGB"), ("1", "L")):
        image.convert(mode).save(tmp_path / "a.png")
        raw = ImageReader("RAW").read(tmp_path / "a.png")
        assert np.array_equal(raw, read_image(tmp_path / "a.png", like))


def test_of_several_pictures_in_a_tiff_the_first_counts(tmp_path):
    pages = values(np.uint16, 3)
    by_tifffile(metadata={"axes": "TYX"}, imagej=True)(pages.transpose(2, 0, 1), tmp_path / "t.tif")
    image = ImageReader("RAW", (0, 255)).read(tmp_path / "t.tif")
    assert image.shape == (*SIZE, 1)
    assert np.array_equal(image[:, :, 0], pages[:, :, 0].clip(0, 255))


def test_numbers_of_channels_that_no_colour_has(tmp_path):
    by_numpy(values(np.uint8, 5), tmp_path / "five.npy")
    by_numpy(values(np.float32, 3), tmp_path / "hdr.npy")
    with pytest.raises(DatasetError, match=r"RAW of INPUT\.FORMAT takes others"):
        read_image(tmp_path / "five.npy")
    with pytest.raises(DatasetError, match=r"hdr\.npy has float32 values, .* INPUT\.VALUE_RANGE"):
        read_image(tmp_path / "hdr.npy")
    pytest.importorskip("tifffile")
    by_tifffile()(values(np.uint8, 5), tmp_path / "five.tif")
    with pytest.raises(DatasetError, match=r"5 channels: set INPUT\.FORMAT RAW .* to 5 numbers"):
        read_image(tmp_path / "five.tif")


def test_pictures_to_look_at():
    five = values(np.uint8, 5, 0, 256)
    assert np.array_equal(to_rgb(ImageReader("RAW").open(five)), five[:, :, :3])
    two = values(np.uint16, 2, 0, 100)
    shown = to_rgb(ImageReader("RAW", (0, 100)).open(two))
    assert shown.dtype == np.uint8 and shown.shape == (*SIZE, 3)
    assert np.abs(shown[:, :, 2] - two[:, :, 0] * 2.55).max() <= 0.51
    grey = values(np.uint8, None, 0, 256)
    assert np.array_equal(np.asarray(open_image(grey)), grey)


# --------------------------------------------------------------------------- what is refused


def test_no_number(tmp_path):
    array = values(np.float32)
    array[3, 4], array[5, 6], array[7, 8] = np.nan, np.inf, -np.inf
    Image.fromarray(array).save(tmp_path / "nan.tiff")
    for source in (tmp_path / "nan.tiff", array):
        with pytest.raises(DatasetError, match="has 1 values that are NaN: write the value there"):
            ImageReader("L", (0, 1)).read(source)
    array[3, 4] = 0
    image = ImageReader("L", (0, 1)).read(array)
    assert image[5, 6] == 255 and image[7, 8] == 0


def test_npy_files_that_are_none(tmp_path):
    by_numpy(values(np.uint8, 3), tmp_path / "a.npy")
    content = (tmp_path / "a.npy").read_bytes()
    objects = io.BytesIO()
    np.save(objects, np.array([[{}]]), allow_pickle=True)
    huge = content.replace(b"(23, 31, 3)", b"(99999,9,9)")
    absurd = content.replace(b"(23, 31, 3)", b"(9**9,9,9)1")
    for data, what in (
        (content[:-1], "it is cut off"),
        (content[:30], "EOF|header|reading"),
        (objects.getvalue(), "[Oo]bject|cut off"),
        (huge, "cut off"),
        (absurd, "cannot read the image"),
    ):
        with pytest.raises(DatasetError, match=what):
            read_image(data)
    with pytest.raises(DatasetError, match=r"712 pixels \(max_pixels\)"):
        read_image(content, max_pixels=712)


def test_a_tiff_that_is_too_large_or_cut_off(tmp_path):
    by_tifffile()(values(np.uint16, 5), tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    reader = ImageReader("RAW", (0, 1))
    with pytest.raises(DatasetError, match=r"it is 31 x 23, more than 712 pixels"):
        reader.read(content, max_pixels=712)
    for length in (8, 100, len(content) // 2):
        with pytest.raises(DatasetError, match=r"it is (broken|empty)"):
            reader.read(content[:length])


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    by_tifffile(planarconfig=None)(values(np.uint32, None, 0, 2**32), tmp_path / "a.tiff")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(UsageError, match=r"a\.tiff: .* pip install tifffile imagecodecs"):
        ImageReader("RGB", (0, 4095)).read(tmp_path / "a.tiff")
