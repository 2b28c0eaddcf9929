"""Pictures that an EXIF orientation turns, and masks that stay where the picture shows them."""

import io
import logging

import numpy as np
import pytest
from PIL import Image, ImageOps

from knet.data import KNetDatasetMapper
from knet.data.image_reading import ImageReader
from knet.data.orientation import ORIENTATION, tell_of_turned, turn
from knet.errors import DatasetError
from tests.conftest import PanopticFolder

RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 256, (40, 48, 3), np.uint8)
orientations = pytest.mark.parametrize("orientation", range(1, 9))


def save(pixels, path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, kind, exif=exif)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pillow's own way, over a PNG (a TIFF it would turn by itself)."""
    file = io.BytesIO()
    save(pixels, file, "PNG", orientation)
    return np.asarray(ImageOps.exif_transpose(Image.open(file)))


@orientations
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("pixels", [STORED, STORED[:, :, 0], STORED[:, :, 0].astype(np.uint16)])
def test_pictures_are_turned_or_not(tmp_path, kind, pixels, orientation):
    path = tmp_path / "a"
    save(pixels, path, kind, orientation)
    value_range = (0, 255) if pixels.dtype == np.uint16 else ()
    image = ImageReader("RAW", value_range).read(path)
    assert np.array_equal(image.squeeze(), upright(pixels, orientation))
    image = ImageReader("RAW", value_range, upright=False).read(path)
    assert np.array_equal(image.squeeze(), pixels)


@orientations
def test_a_photo(tmp_path, orientation):
    save(STORED, tmp_path / "a.jpg", "JPEG", orientation)
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    assert np.array_equal(ImageReader().read(tmp_path / "a.jpg"), turned)
    assert np.array_equal(ImageReader(upright=False).read(tmp_path / "a.jpg"), stored)
    assert np.array_equal(turn(stored, orientation), turned)


@orientations
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_a_tiff_that_pillow_does_not_read(tmp_path, orientation, planes):
    tifffile = pytest.importorskip("tifffile")
    deep = RNG.integers(0, 65536, (6, 7, 3), np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif",
        deep if planes == "contig" else deep.transpose(2, 0, 1),
        photometric="rgb",
        planarconfig=planes,
        extratags=[(ORIENTATION, 3, 1, orientation, True)],
    )
    image = ImageReader("RAW", (0, 255)).read(tmp_path / "a.tif")
    assert np.array_equal(image, turn(deep, orientation).clip(0, 255))
    image = ImageReader("RAW", (0, 255), upright=False).read(tmp_path / "a.tif")
    assert np.array_equal(image, deep.clip(0, 255))


# ------------------------------------------------------------------------------ image and masks


@pytest.fixture
def record(tmp_path):
    """A data set dict of one white object; its picture has an orientation, its PNG is as told."""

    def make(orientation, annotated_upright, size=(40, 48)):
        ids = np.ones(size, int)
        ids[5:12, 20:31] = 2  # in no symmetry with itself
        shown = np.where(ids == 2, 255, 0).astype(np.uint8)[:, :, None].repeat(3, 2)
        folder = PanopticFolder(tmp_path)
        if annotated_upright:
            ids = upright(ids.astype(np.uint8), orientation).astype(int)
        folder.add(ids, {1: (folder.WALL,), 2: (folder.CUP,)})
        save(shown, folder.images / "001.png", "PNG", orientation)
        return {
            "file_name": str(folder.images / "001.png"),
            "pan_seg_file_name": str(folder.pngs / "001.png"),
            "height": ids.shape[0],
            "width": ids.shape[1],
            "segments_info": [
                {"id": 1, "category_id": 1, "isthing": False, "iscrowd": 0},
                {"id": 2, "category_id": 0, "isthing": True, "iscrowd": 0},
            ],
        }

    return make


@orientations
@pytest.mark.parametrize("turned", [True, False])
def test_masks_lie_on_what_they_are_of(record, turned, orientation):
    record = record(orientation, annotated_upright=turned)
    result = KNetDatasetMapper(True, augmentations=[], upright=turned)(record)
    (mask,) = result["instances"].gt_masks.tensor.numpy()
    assert mask.any() and np.array_equal(result["image"].numpy()[0] == 255, mask)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("turned", [True, False])
def test_annotations_of_the_other_picture_are_told_with_the_key(record, turned, orientation):
    record = record(orientation, annotated_upright=not turned)
    key = rf"EXIF orientation {orientation} exchanges width and height: INPUT\.EXIF_ORIENTATION"
    mapper = KNetDatasetMapper(True, augmentations=[], upright=turned)
    with pytest.raises(DatasetError, match=rf"another size than its json says: .*{key}"):
        mapper(dict(record))
    height, width = record.pop("height"), record.pop("width")
    with pytest.raises(DatasetError, match=rf"the panoptic PNG .* is {width} x {height}.*{key}"):
        mapper(dict(record))
    record["annotations"] = [
        {"category_id": 0, "segmentation": {"size": [height, width], "counts": [0]}}
    ]
    del record["pan_seg_file_name"]
    with pytest.raises(DatasetError, match=rf"mask is {width} x {height}.*{key}"):
        mapper(dict(record))


def test_sizes_that_exif_does_not_explain_are_told_without_it(record):
    record = {**record(3, True), "height": 10}
    with pytest.raises(DatasetError, match="another size") as caught:
        KNetDatasetMapper(True, augmentations=[])(record)
    assert "EXIF" not in str(caught.value)


def test_turned_pictures_are_told_once(tmp_path, caplog):
    for i, orientation in enumerate((1, 3, 2, 1, 6)):
        save(STORED, tmp_path / f"{i}.jpg", "JPEG", orientation)
    dicts = [{"file_name": str(tmp_path / f"{i}.jpg")} for i in range(6)]  # one does not exist
    with caplog.at_level(logging.INFO, "knet"):
        tell_of_turned(dicts, turned=True)
        tell_of_turned(dicts, turned=False)
        tell_of_turned(dicts[:1] + dicts[3:4], turned=True)
    turned, not_turned = caplog.messages
    start = f"3 of 6 images looked at have an EXIF orientation ({tmp_path / '1.jpg'}, ...) and are "
    assert turned.startswith(start + "turned upright")
    assert not_turned.startswith(start + "not turned (INPUT.EXIF_ORIENTATION False)")
