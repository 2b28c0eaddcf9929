"""Pictures of every kind and source: as Detectron2 reads them, or refused in a sentence."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import detection_utils as utils
from PIL import Image, ImageOps

from knet.data import KNetDatasetMapper
from knet.data.image_reading import FORMATS, open_image, read_image
from knet.errors import DatasetError, UsageError
from tests.conftest import REPO

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (23, 31, 3), np.uint8)
EXIF_ORIENTATION = 0x0112


def picture(mode: str = "RGB") -> Image.Image:
    image = Image.fromarray(PICTURE)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(PICTURE[:, :, 1]))
    return image.convert(mode)


def content(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_read_as_by_detectron2(path) -> None:
    for image_format in ("RGB", "BGR", "L", "YUV-BT.601", None):
        ours, theirs = read_image(path, image_format), utils.read_image(str(path), image_format)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), image_format


# ------------------------------------------------------------------------ as Detectron2 reads them


@pytest.mark.parametrize(
    "mode, kind",
    [
        *[(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        *[(mode, "TIFF") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")],
        *[(mode, "JPEG") for mode in ("L", "RGB", "CMYK")],
        *[("RGB", kind) for kind in ("BMP", "DIB", "PPM", "JPEG2000", "PCX", "SGI", "TGA")],
        *[(mode, kind) for mode in ("RGB", "RGBA") for kind in ("AVIF", "WEBP")],
        ("P", "GIF"),
    ],
)
def test_every_mode_of_8_bits(tmp_path, mode, kind):
    path = tmp_path / "picture"
    picture(mode).save(path, kind)
    assert_read_as_by_detectron2(path)
    assert kind in FORMATS


def test_a_transparent_colour_of_a_palette(tmp_path):
    picture("P").save(tmp_path / "picture.png", transparency=3)
    picture("P").save(tmp_path / "picture.gif", transparency=3)
    assert_read_as_by_detectron2(tmp_path / "picture.png")
    assert_read_as_by_detectron2(tmp_path / "picture.gif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 99])
def test_an_exif_orientation_is_applied(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    picture().save(tmp_path / "turned", kind, exif=exif)
    with Image.open(tmp_path / "turned") as image:
        upright = ImageOps.exif_transpose(image)
    assert np.array_equal(read_image(tmp_path / "turned"), np.asarray(upright))
    if kind != "TIFF":  # which Detectron2 turns twice
        assert_read_as_by_detectron2(tmp_path / "turned")


def test_real_photos(real_data):
    files = [*(real_data / "photos").iterdir(), *sorted((real_data / "coco/train2017").iterdir())]
    for path in files[:40]:
        assert_read_as_by_detectron2(path)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_of_several_pictures_the_first_counts(kind):
    other = Image.new("RGB", (31, 23))
    options = {"lossless": True} if kind == "WEBP" else {}
    several = content(picture(), kind, save_all=True, append_images=[other, other], **options)
    one = content(picture(), "JPEG" if kind == "MPO" else kind, **options)
    assert np.array_equal(read_image(several), read_image(one))


def test_every_source_gives_the_same(tmp_path):
    path = tmp_path / "picture.png"
    picture().save(path)
    data = path.read_bytes()
    with open(path, "rb") as file, Image.open(path) as lazy:
        for source in (
            str(path),
            path,
            data,
            bytearray(data),
            memoryview(data),
            file,
            io.BytesIO(data),
            Unseekable(data),
            lazy,
            picture(),
            PICTURE,
            torch.from_numpy(PICTURE.transpose(2, 0, 1).copy()),
        ):
            assert np.array_equal(read_image(source), PICTURE), type(source)


class Unseekable(io.RawIOBase):
    """A file that is read once, as of a pipe or the net."""

    def __init__(self, data: bytes):
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.data.readinto(buffer)


def test_a_file_object_is_read_from_where_it_stands():
    file = io.BytesIO(b"header" + content(picture()))
    file.seek(6)
    assert np.array_equal(read_image(file), PICTURE)


# ---------------------------------------------------------------------------------------- 16 bits

DEEP = np.array([[0, 128, 129, 257, 40000], [1000, 65406, 65407, 65534, 65535]], np.uint16)
SHALLOW = np.round(DEEP / 257).astype(np.uint8)


def test_16_bits_of_grey_are_divided_by_257():
    _, png = cv2.imencode(".png", DEEP)
    _, tiff = cv2.imencode(".tiff", DEEP)
    pgm = b"P5 5 2 65535\n" + DEEP.astype(">u2").tobytes()
    big_endian = Image.frombytes("I;16B", (5, 2), DEEP.astype(">u2").tobytes())
    for source in (png.tobytes(), tiff.tobytes(), pgm, big_endian, Image.fromarray(DEEP), DEEP):
        image = read_image(source)
        assert image.dtype == np.uint8 and image.shape == (2, 5, 3)
        assert all(np.array_equal(image[:, :, i], SHALLOW) for i in range(3))
        assert np.array_equal(read_image(source, "L")[:, :, 0], SHALLOW)


def test_16_bits_of_grey_are_turned_as_exif_says():
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    image = read_image(content(Image.fromarray(DEEP), "PNG", exif=exif))
    assert np.array_equal(image[:, :, 0], np.rot90(SHALLOW, -1))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_of_colour_keep_the_upper_byte(suffix):
    deep = RNG.integers(0, 65536, (23, 31, 3), np.uint16)
    _, file = cv2.imencode(suffix, deep[:, :, ::-1])
    image = read_image(file.tobytes())
    assert np.array_equal(image, deep >> 8)
    assert np.abs(np.round(deep / 257) - image).max() <= 1


def test_label_maps_keep_their_depth_and_indices(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), DEEP)
    picture("P").save(tmp_path / "palette.png")
    assert_read_as_by_detectron2(tmp_path / "palette.png")
    deep = read_image(tmp_path / "deep.png", None)
    assert np.array_equal(deep, DEEP) and np.array_equal(
        deep, utils.read_image(tmp_path / "deep.png")
    )


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_are_refused(mode, tmp_path):
    values = Image.fromarray(np.full((4, 4), 70000, np.int32 if mode == "I" else np.float32))
    values.save(tmp_path / "deep.tiff")
    for source in (tmp_path / "deep.tiff", values):
        with pytest.raises(DatasetError, match=r"its pixels are 32-bit .* save it with 8 bits"):
            read_image(source)
    assert read_image(tmp_path / "deep.tiff", None)[0, 0] == 70000


def test_lab_colours_are_refused(tmp_path):
    Image.new("LAB", (5, 4)).save(tmp_path / "lab.tiff")
    with pytest.raises(DatasetError, match=r"lab\.tiff: its pixels are CIE Lab colours"):
        read_image(tmp_path / "lab.tiff")


# ------------------------------------------------------------------------------------ what is none


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("DIB",)])
def test_a_file_that_is_cut_off(tmp_path, kind):
    path = tmp_path / "picture"
    Image.fromarray(RNG.integers(0, 256, (200, 200, 3), np.uint8)).save(path, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        DatasetError, match=rf"^cannot read the image {path}: it is (broken \(|empty, cut off)"
    ):
        read_image(path)


def folder(path):
    path.mkdir()


def nothing(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("<html>404 not found</html>")


def postscript(path):
    path.write_bytes(content(picture(), "EPS"))


def pdf(path):
    path.write_bytes(content(picture(), "PDF"))


def icon(path):
    path.write_bytes(content(picture(), "ICO"))


def missing(path):
    pass


@pytest.mark.parametrize(
    "make, what",
    [
        (missing, "no such file or directory"),
        (folder, "it is a folder"),
        (os.mkfifo, "it is no file"),
        (nothing, "it is empty, cut off, or none of PNG, JPEG"),
        (text, "none of PNG, JPEG"),
        (postscript, "none of PNG, JPEG"),
        (pdf, "none of PNG, JPEG"),
        (icon, "none of PNG, JPEG"),
    ],
)
def test_what_is_no_picture(tmp_path, make, what):
    path = tmp_path / "picture.jpg"
    make(path)
    with pytest.raises(DatasetError, match=rf"^cannot read the image {path}: .*{what}"):
        read_image(path)


def test_a_device_is_not_opened():
    with pytest.raises(DatasetError, match="/dev/zero: it is no file"):
        read_image("/dev/zero")


@pytest.mark.parametrize("source", [b"", b"nothing", io.BytesIO()])
def test_bytes_that_are_no_picture(source):
    with pytest.raises(DatasetError, match=r"cannot read the image \((bytes|BytesIO)\): it is"):
        read_image(source)


@pytest.mark.parametrize("source", [5, None, {"image": 1}, io.StringIO("text")])
def test_what_is_no_source(source):
    with pytest.raises(UsageError, match=r"is no image: give a path|open it with 'rb'"):
        read_image(source)


def test_a_format_that_does_not_exist(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png as CIE: "):
        read_image(tmp_path / "a.png", "CIE")


# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("source", [content(picture()), picture(), PICTURE])
def test_larger_than_allowed(source):
    assert read_image(source, max_pixels=23 * 31).shape == (23, 31, 3)
    with pytest.raises(DatasetError, match=r"712 pixels \(max_pixels\).*tiles"):
        read_image(source, max_pixels=23 * 31 - 1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: int, pixels: bytes, other: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + other + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def inflating(size: int) -> bytes:
    """Zeros, compressed a thousandfold."""
    return zlib.compress(bytes(size), 9)


def patched(data: bytes, mark: bytes, offset: int, size: bytes) -> bytes:
    """Another size in the header of a small picture."""
    place = data.index(mark) + offset
    return data[:place] + size + data[place + len(size) :]


def tiled_tiff() -> bytes:
    """16 x 16 pixels in one tile of 40000 x 40000."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40000, 323: 40000, 324: 200}
    tags[325] = 1000
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    ifd = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8) + ifd).ljust(200, b"\0") + inflating(100000)


def absurd_files() -> dict:
    small, rows = Image.new("RGB", (16, 16)), zlib.compress(bytes(16 * 49))
    inflated = inflating(2**28)
    return {
        "30000.png": png(30000, zlib.compress(bytes(90001))),
        "text.png": png(16, rows, chunk(b"zTXt", b"c\0\0" + inflated)),
        "texts.png": png(16, rows, chunk(b"zTXt", b"c\0\0" + inflating(10**6)) * 100),
        "profile.png": png(16, rows, chunk(b"iCCP", b"c\0\0" + inflated)),
        "65500.jpg": patched(content(small, "JPEG"), b"\xff\xc0", 5, b"\xff\xdc\xff\xdc"),
        "60000.bmp": patched(content(small, "BMP"), b"BM", 18, struct.pack("<ii", 60000, 60000)),
        "60000.jp2": patched(
            content(small, "JPEG2000"), b"ihdr", 4, struct.pack(">II", 60000, 60000)
        ),
        "screen.gif": patched(content(small, "GIF"), b"GIF", 6, b"\xff\xff\xff\xff"),
        "60000.ppm": b"P6 60000 60000 255\n" + bytes(1000),
        "tile.tif": tiled_tiff(),
        "pixels.png": png(16, inflated),  # a picture, and more behind it
    }


READ_WITH_LITTLE_MEMORY = """
import json, os, resource, sys
from knet.data.image_reading import read_image
from knet.errors import DatasetError
read_image(b"P6 1 1 255 RGB")  # everything is imported now
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**27
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
outcomes = {}
for name in os.listdir(sys.argv[1]):
    try:
        outcomes[name] = read_image(os.path.join(sys.argv[1], name)).shape
    except DatasetError as error:
        outcomes[name] = str(error)
print(json.dumps(outcomes))
"""


def test_absurd_files_take_no_memory(tmp_path):
    """All of them in a process that may take 128 MB more than it has."""
    files = absurd_files()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with open(tmp_path / "sparse.webp", "wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
        file.truncate(2**33)
    process = subprocess.run(
        [sys.executable, "-c", READ_WITH_LITTLE_MEMORY, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPO / "projects" / "KNet")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    outcomes = json.loads(process.stdout.splitlines()[-1])
    assert outcomes.pop("pixels.png") == [16, 16, 3]
    assert len(outcomes) == len(files)
    for name, sentence in outcomes.items():
        assert sentence.startswith(f"cannot read the image {tmp_path / name}: "), sentence
        assert "\n" not in sentence and "not enough memory" not in sentence, sentence


# --------------------------------------------------------------------------------- in the pipeline


def test_data_sets_are_read_the_same_way(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), DEEP)
    mapper = KNetDatasetMapper(False, augmentations=[], image_format="BGR")
    image = mapper({"file_name": str(tmp_path / "deep.png")})["image"]
    assert np.array_equal(image, np.stack([SHALLOW] * 3))


def test_an_image_is_decoded_when_its_file_is_closed(tmp_path):
    path = tmp_path / "a.png"
    picture().save(path)
    image = open_image(Path(path))
    path.unlink()
    assert np.array_equal(np.asarray(image), PICTURE)
