"""The dataset mapper against a slow loop over segments, on built-in and on real images."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from panopticapi.utils import rgb2id
from PIL import Image

from knet.data import KNetDatasetMapper, load_coco_panoptic_json, panoptic_metadata
from knet.data.dataset_mapper import decode_panoptic
from knet.data.datasets.coco_panoptic import read_panoptic_json
from knet.data.transforms import OpenCVResizeTransform
from knet.errors import DatasetError
from tests.conftest import PanopticFolder


class Resize(T.Augmentation):
    """To half the height and 0.7 of the width, by OpenCV."""

    def get_transform(self, image):
        h, w = image.shape[:2]
        return OpenCVResizeTransform(h, w, h // 2, round(0.7 * w))


AUGMENTATIONS = {
    "as it is": [],
    "flipped": [T.RandomFlip(1.0)],
    "resized": [Resize()],
    "resized and flipped": [Resize(), T.RandomFlip(1.0)],
}


def slow(record, resize=False, flip=False):
    """image, masks, classes and label map, one segment after the other."""
    image = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    ids = rgb2id(np.asarray(Image.open(record["pan_seg_file_name"]).convert("RGB")))
    size = (round(0.7 * ids.shape[1]), ids.shape[0] // 2)  # width, height
    if resize:
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    if flip:
        image = image[:, ::-1]
    masks, classes = [], []
    labels = np.full(image.shape[:2], 255)
    for segment in record["segments_info"]:
        mask = (ids == segment["id"]).astype(np.uint8)
        if resize:
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        if flip:
            mask = mask[:, ::-1]
        if segment["iscrowd"] or not mask.any():
            continue
        labels[mask > 0] = segment["category_id"]
        if segment["isthing"]:
            masks.append(mask > 0)
            classes.append(segment["category_id"])
    return image, masks, classes, labels


def assert_equals_the_slow_loop(record, augmentations):
    result = KNetDatasetMapper(True, augmentations=augmentations)(record)
    image, masks, classes, labels = slow(
        record,
        resize=any(isinstance(a, Resize) for a in augmentations),
        flip=any(isinstance(a, T.RandomFlip) for a in augmentations),
    )
    assert result["image"].dtype == torch.uint8
    assert np.array_equal(result["image"].numpy(), image.transpose(2, 0, 1))
    instances = result["instances"]
    assert instances.image_size == image.shape[:2]
    assert instances.gt_classes.tolist() == classes and instances.gt_classes.dtype == torch.int64
    assert instances.gt_masks.tensor.dtype == torch.bool
    assert instances.gt_masks.tensor.shape == (len(masks), *image.shape[:2])
    for ours, expected in zip(instances.gt_masks.tensor.numpy(), masks):
        assert np.array_equal(ours, expected)
    assert result["sem_seg"].dtype == torch.int64
    assert np.array_equal(result["sem_seg"].numpy(), labels)


@pytest.mark.parametrize("augmentations", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_built_in_images(shapes, augmentations):
    for record in DatasetCatalog.get(shapes.train) + DatasetCatalog.get(shapes.val):
        assert_equals_the_slow_loop(record, augmentations)


@pytest.mark.parametrize("augmentations", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_crowds_void_and_objects_that_resizing_loses(tmp_path, augmentations):
    folder = PanopticFolder(tmp_path)
    ids = np.full((45, 61), 1)
    ids[:5], ids[10:30, 10:30], ids[20:40, 35:50], ids[7, 3] = 0, 2, 3, 4
    cup = (folder.CUP,)
    folder.add(ids, {1: (folder.WALL,), 2: (folder.PLATE, True), 3: cup, 4: cup, 5: cup})
    folder.write()
    (record,) = load(tmp_path, folder.json_file, folder.images, folder.pngs)
    assert_equals_the_slow_loop(record, augmentations)


def load(folder, panoptic_json, images, pngs):
    json_file = str(folder / panoptic_json)
    metadata = panoptic_metadata(read_panoptic_json(json_file)["categories"])
    return load_coco_panoptic_json(json_file, str(folder / images), str(folder / pngs), metadata)


@pytest.mark.parametrize("augmentations", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_real_coco_images(real_data, augmentations):
    records = load(
        real_data / "coco",
        "annotations/panoptic_train2017.json",
        "train2017",
        "panoptic_train2017",
    )
    crowds = [r for r in records if any(s["iscrowd"] for s in r["segments_info"])]
    thingless = [r for r in records if not any(s["isthing"] for s in r["segments_info"])]
    assert crowds and thingless
    for record in [*crowds[:2], *thingless[:1], *records[:6]]:
        assert_equals_the_slow_loop(record, augmentations)


@pytest.mark.parametrize("augmentations", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_real_facades_of_many_small_objects(real_data, augmentations):
    records = load(real_data / "facade", "annotations/panoptic_val.json", "val", "panoptic_val")
    records.sort(key=lambda r: -len(r["segments_info"]))
    for record in records[:4]:
        assert_equals_the_slow_loop(record, augmentations)


def test_the_real_greyscale_image_has_three_equal_channels(real_data):
    records = load(
        real_data / "coco",
        "annotations/panoptic_train2017.json",
        "train2017",
        "panoptic_train2017",
    )
    grey = [r for r in records if Image.open(r["file_name"]).mode == "L"]
    assert len(grey) == 1
    assert_equals_the_slow_loop(grey[0], [])
    image = KNetDatasetMapper(True, augmentations=[])(grey[0])["image"]
    assert (image[0] == image[1]).all() and (image[0] == image[2]).all() and image.any()


# --------------------------------------------------------------------- made by hand, to be seen


@pytest.fixture
def painted(tmp_path):
    """A record of one image whose every pixel has the colour of its segment."""
    pottery = PanopticFolder(tmp_path, "painted")
    ids = np.zeros((90, 131), np.int64)
    ids[:, 40:], ids[10:50, 20:70], ids[60:85, 5:35], ids[55:80, 90:125] = 1, 2, 3, 4
    colors = np.array([[9, 9, 9], [200, 10, 10], [10, 200, 10], [10, 10, 200], [90, 0, 250]])
    segments = {1: (pottery.WALL,), 2: (pottery.CUP,), 3: (pottery.PLATE,), 4: (pottery.CUP,)}
    pottery.add(ids, segments, colors[ids].astype(np.uint8))
    pottery.write()
    (record,) = load(tmp_path, pottery.json_file, pottery.images, pottery.pngs)
    return record, colors


@pytest.mark.parametrize("antialias", [False, True], ids=["OpenCV", "Pillow"])
@pytest.mark.parametrize("size", [40, 90, 200])
def test_image_and_masks_move_together(painted, tiny_config, antialias, size):
    record, colors = painted
    tiny_config.INPUT.MIN_SIZE_TRAIN = (size,)
    tiny_config.INPUT.MAX_SIZE_TRAIN = 1000
    tiny_config.INPUT.RESIZE_ANTIALIAS = antialias
    mapper = KNetDatasetMapper(tiny_config, is_train=True)
    np.random.seed(0)  # what Detectron2's augmentations draw from: else all may be flipped
    flipped = set()
    for _ in range(12):
        result = mapper(record)
        image, masks = result["image"].numpy(), result["instances"].gt_masks.tensor.numpy()
        assert image.shape[1] == size
        for mask, color in zip(masks, colors[2:]):
            inner = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
            assert inner.sum() > 20
            assert np.abs(image[:, inner].astype(int) - color[:, None]).max() <= 1
        wall = cv2.erode((result["sem_seg"] == 1).numpy().astype(np.uint8), np.ones((7, 7))) > 0
        assert np.abs(image[:, wall].astype(int) - colors[1][:, None]).max() <= 1
        flipped.add(bool(result["sem_seg"][0, 0] == 1))
    assert flipped == {True, False}


def test_what_it_gives_and_what_it_keeps(painted, tiny_config):
    record, _ = painted
    before = dict(record)
    train = KNetDatasetMapper(tiny_config, is_train=True)(record)
    assert set(train) == {"file_name", "image_id", "height", "width"} | {
        "image",
        "instances",
        "sem_seg",
    }
    assert (train["height"], train["width"]) == (90, 131), "the original size"
    test = KNetDatasetMapper(tiny_config, is_train=False)(record)
    assert "instances" not in test and "sem_seg" not in test
    assert test["image"].shape == (3, 64, 93)
    assert record == before


def test_a_record_without_size_gets_it_from_the_image(painted):
    record, _ = painted
    del record["height"], record["width"]  # as Detectron2's own loader gives it
    for is_train in (True, False):
        result = KNetDatasetMapper(is_train, augmentations=[Resize()])(record)
        assert (result["height"], result["width"]) == (90, 131)


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGBA", 4), ("P", 1), ("CMYK", 4)])
def test_images_of_other_modes_become_rgb(painted, tmp_path, mode, channels):
    record, _ = painted
    image = Image.open(record["file_name"]).convert(mode)
    assert len(image.getbands()) == channels
    suffix = "tiff" if mode == "CMYK" else "png"
    image.save(tmp_path / f"image.{suffix}")
    result = KNetDatasetMapper(True, augmentations=[])(
        {**record, "file_name": str(tmp_path / f"image.{suffix}")}
    )
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(result["image"].numpy(), expected)


def test_bgr_is_rgb_in_the_other_order(painted):
    record, _ = painted
    rgb, bgr = (
        KNetDatasetMapper(False, augmentations=[], image_format=name)(record)["image"]
        for name in ("RGB", "BGR")
    )
    assert (rgb == bgr.flip(0)).all() and (rgb != bgr).any()


# ------------------------------------------------------------------------------ decode_panoptic


def test_decoding_by_hand():
    ids = np.array([[0, 1, 256, 65536], [7, 7, 256, 0]])
    png = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    segments = [
        {"id": 65536, "category_id": 4, "isthing": True, "iscrowd": 0},
        {"id": 7, "category_id": 5, "isthing": True, "iscrowd": 1},
        {"id": 256, "category_id": 0, "isthing": False, "iscrowd": 0},
        {"id": 99, "category_id": 4, "isthing": True, "iscrowd": 0},  # no pixel left
        {"id": 1, "category_id": 2, "isthing": True},
    ]
    masks, classes, labels = decode_panoptic(png, segments, ignore_label=200)
    assert classes.tolist() == [4, 2]
    assert masks.tolist() == [[[0, 0, 0, 1], [0, 0, 0, 0]], [[0, 1, 0, 0], [0, 0, 0, 0]]]
    assert labels.tolist() == [[200, 2, 0, 4], [200, 200, 0, 200]]


@pytest.mark.parametrize("segments", [[], [{"id": 3, "category_id": 1, "isthing": False}]])
def test_decoding_without_things(segments):
    png = np.zeros((5, 6, 3), np.uint8)
    png[0, 0, 0] = 3 if segments else 0
    masks, classes, labels = decode_panoptic(png, segments)
    assert masks.shape == (0, 5, 6) and masks.dtype == bool
    assert classes.shape == (0,) and classes.dtype == np.int64
    assert (labels == 255).sum() == (29 if segments else 30)


@pytest.mark.parametrize("wrong", [2, 4, 255, 256 * 3, 2**24 - 1])
def test_an_id_that_is_not_listed_is_named(wrong):
    png = np.full((4, 4, 3), 0, np.uint8)
    png[..., 0] = 3
    png[1, 1] = (wrong & 255, wrong >> 8 & 255, wrong >> 16)
    segments = [{"id": 3, "category_id": 1, "isthing": True}]
    with pytest.raises(DatasetError, match=rf"x\.png has the segment id {wrong},"):
        decode_panoptic(png, segments, name="x.png")
