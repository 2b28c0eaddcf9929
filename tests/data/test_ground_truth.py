"""The mapper on instance and semantic data, against pycocotools and Pillow."""

import copy
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from knet.data import (
    KNetDatasetMapper,
    load_coco_panoptic_json,
    panoptic_metadata,
    register_coco_instances,
    register_semantic_folders,
)
from knet.data.datasets.coco_panoptic import read_panoptic_json
from knet.data.transforms import OpenCVResizeTransform
from knet.errors import DatasetError
from tests.conftest import PanopticFolder
from tests.data.datasets.folders import SemanticFolder, box, noise, rle
from tests.training_dicts import load_training_dicts


class Resize(T.Augmentation):
    """To 0.6 of the height and 1.3 of the width, by OpenCV."""

    def get_transform(self, image):
        h, w = image.shape[:2]
        return OpenCVResizeTransform(h, w, round(0.6 * h), round(1.3 * w))


def resized_and_flipped(labels):
    size = (round(1.3 * labels.shape[1]), round(0.6 * labels.shape[0]))
    return cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)[:, ::-1]


CHANGES = {
    "as it is": ([], lambda labels: labels),
    "resized and flipped": ([Resize(), T.RandomFlip(1.0)], resized_and_flipped),
}


@pytest.fixture
def image(tmp_path):
    """A record of an image of 40 x 64, without ground truth."""
    Image.fromarray(noise((40, 64))).save(tmp_path / "image.png")
    return {"file_name": str(tmp_path / "image.png"), "image_id": 1, "height": 40, "width": 64}


def annotation(segmentation, category_id=0, **more):
    return {"category_id": category_id, "segmentation": segmentation, "iscrowd": 0, **more}


def read(record, augmentations=(), **arguments):
    return KNetDatasetMapper(True, augmentations=list(augmentations), **arguments)(record)


# -------------------------------------------------------------------------------------- instances


def assert_equals_pycocotools(record, coco):
    """Masks and classes, as they are, and resized and flipped."""
    contiguous = {category: i for i, category in enumerate(sorted(coco.getCatIds()))}
    annotations = [a for a in coco.imgToAnns[record["image_id"]] if not a["iscrowd"]]
    for augmentations, change in CHANGES.values():
        expected = [(change(coco.annToMask(a)), contiguous[a["category_id"]]) for a in annotations]
        expected = [(mask, class_id) for mask, class_id in expected if mask.any()]
        result = read(record, augmentations)
        instances = result["instances"]
        assert instances.image_size == tuple(result["image"].shape[1:])
        assert instances.gt_classes.tolist() == [class_id for _, class_id in expected]
        assert instances.gt_classes.dtype == torch.int64
        masks = instances.gt_masks.tensor
        assert masks.dtype == torch.bool and masks.shape == (len(expected), *instances.image_size)
        assert all(np.array_equal(m.numpy(), e > 0) for m, (e, _) in zip(masks, expected))
        assert not result.keys() & {"sem_seg", "annotations"}


def test_built_in_shapes(shapes):
    root = Path(DatasetCatalog.get(shapes.train)[0]["file_name"]).parents[1]
    for split in ("train", "val"):
        coco = COCO(str(root / "annotations" / f"instances_{split}.json"))
        for record in DatasetCatalog.get(f"tiny_shapes_instance_{split}"):
            assert_equals_pycocotools(record, coco)


@pytest.mark.parametrize(
    "images, json_file",
    [
        ("nuclei/val", "nuclei/annotations/instances_val.json"),
        ("coco/val2017", "coco/annotations/instances_val2017.json"),
    ],
)
def test_real_images(real_data, images, json_file):
    register_coco_instances("real", str(real_data / images), str(real_data / json_file))
    records = sorted(DatasetCatalog.get("real"), key=lambda r: -len(r["annotations"]))
    crowds = [r for r in records if any(a["iscrowd"] for a in r["annotations"])]
    coco = COCO(str(real_data / json_file))
    for record in [*crowds[:2], *records[:2], *records[-2:]]:
        assert_equals_pycocotools(record, coco)


def test_real_objects_are_those_of_the_panoptic_pngs(real_data):
    """The instances json was made from the PNGs: the same masks by both ways."""
    root = real_data / "coco"
    json_file = str(root / "annotations" / "panoptic_val2017.json")
    metadata = panoptic_metadata(read_panoptic_json(json_file)["categories"])
    folders = str(root / "val2017"), str(root / "panoptic_val2017")
    panoptic = load_coco_panoptic_json(json_file, *folders, metadata)
    instances_json = str(root / "annotations" / "instances_val2017.json")
    register_coco_instances("real", folders[0], instances_json)
    instances = {r["image_id"]: r for r in DatasetCatalog.get("real")}
    compared = 0
    for record in panoptic[:8]:
        by_png = objects(read(record))
        by_json = objects(read(instances[record["image_id"]]))
        assert by_png == by_json
        compared += len(by_png)
    assert compared > 20


def objects(result):
    instances = result["instances"]
    return {(int(c), m.numpy().tobytes()) for c, m in zip(*instances.get_fields().values())}


MASK = np.zeros((40, 64), np.uint8)
MASK[10:20, 5:20] = 1
UNCOMPRESSED = {"size": [40, 64], "counts": [210, *([10, 30] * 14), 10, 1780]}


@pytest.mark.parametrize(
    "segmentation",
    [
        box(10, 5, 10, 15),
        [np.array(box(10, 5, 10, 15)[0])],
        [*box(10, 5, 10, 8), *box(10, 13, 10, 7)],
        rle(MASK),
        mask_util.encode(np.asfortranarray(MASK)),
        UNCOMPRESSED,
        MASK,
        MASK > 0,
    ],
    ids=["polygon", "array", "two polygons", "RLE", "RLE bytes", "RLE counts", "bitmap", "bool"],
)
def test_every_form_of_a_mask(image, segmentation):
    result = read({**image, "annotations": [annotation(segmentation, 3)]})
    assert np.array_equal(result["instances"].gt_masks.tensor[0].numpy(), MASK > 0)
    assert result["instances"].gt_classes.tolist() == [3]


def test_compressed_rle_of_any_shape(image):
    generator = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.3, 0.9, 1.0):
        mask = (generator.random((40, 64)) < share).astype(np.uint8)
        mask[generator.integers(40) :, generator.integers(64) :] = 1
        result = read({**image, "annotations": [annotation(rle(mask), 3)]})
        assert np.array_equal(result["instances"].gt_masks.tensor[0].numpy(), mask > 0)


def test_crowds_and_empty_objects_are_left_out(image):
    record = {
        **image,
        "annotations": [
            annotation(rle(MASK), 1, iscrowd=1),
            annotation(rle(0 * MASK), 2),
            annotation(box(3, 3, 9, 0.9), 3),
            annotation(box(3, 3, 0.9, 9), 4),
            annotation(box(3, 3, 9, 1), 5),
            annotation(None, 6, iscrowd=1),
            annotation(None, 10),
            annotation([], 11),
            annotation(box(3, -12, 9, 9), 7),
            annotation(box(45, 3, 9, 9), 8),
            annotation([box(3, 3, 9, 0.5)[0], box(3, 8, 9, 0.5)[0]], 9),
        ],
    }
    before = copy.deepcopy(record)
    assert read(record)["instances"].gt_classes.tolist() == [5, 9]
    assert record == before
    left = [T.CropTransform(0, 0, 10, 40)]  # none of class 0 is there
    assert len(read({**image, "annotations": [annotation(0 * MASK)]})["instances"]) == 0
    record["annotations"] = [annotation(box(0, 30, 40, 20), 0), annotation(box(0, 5, 40, 20), 1)]
    assert read(record, left)["instances"].gt_classes.tolist() == [1]


@pytest.mark.parametrize(
    "bbox, mode",
    [
        ([0, 0, 0, 0], BoxMode.XYWH_ABS),
        ([3, 3, 0.9, 9], BoxMode.XYWH_ABS),
        ([12, 12, 3, 3], BoxMode.XYXY_ABS),
        ([float("nan")] * 4, BoxMode.XYWH_ABS),
        ([], BoxMode.XYWH_ABS),
        (None, BoxMode.XYWH_ABS),
        ([3, 3, 9, 9], None),
    ],
)
def test_an_object_counts_by_its_mask_whatever_its_box(image, bbox, mode):
    plain = read({**image, "annotations": [annotation(box(3, 3, 9, 9))]})["instances"]
    boxed = annotation(box(3, 3, 9, 9), bbox=bbox, bbox_mode=mode)
    instances = read({**image, "annotations": [boxed]})["instances"]
    assert len(instances) == 1
    assert torch.equal(instances.gt_masks.tensor, plain.gt_masks.tensor)


@pytest.mark.parametrize("annotations", [[], [annotation(rle(MASK), iscrowd=1)]])
def test_an_image_without_objects(image, annotations):
    result = read({**image, "annotations": annotations}, [Resize()])
    assert result["instances"].gt_masks.tensor.shape == (0, 24, 83)
    assert result["instances"].gt_classes.dtype == torch.int64


@pytest.mark.parametrize(
    "segmentation, mention",
    [
        (rle(MASK[:39]), "64 x 40, but has an object whose mask is 64 x 39"),
        ({"size": [39, 64], "counts": [2496]}, "mask is 64 x 39"),
        ({"size": [40, 64], "counts": [210, 10]}, "220 pixels instead of 2560"),
        ({"size": [40, 64]}, "counts"),
        ({"size": [40, 64], "counts": rle(MASK[:39])["counts"]}, "2496 pixels instead of 2560"),
        (
            {"size": [40, 64], "counts": rle(np.tile(MASK, 2))["counts"]},
            "5120 pixels instead of",
        ),
        ({"size": [40, 64], "counts": rle(MASK)["counts"][:2]}, "pixels instead of 2560"),
        ({"size": [40, 64], "counts": "P"}, "cut off"),
        ({"size": [40, 64], "counts": ""}, "cut off"),
        (MASK.T, "mask is 40 x 64"),
        (np.zeros((2, 40, 64)), "mask is"),
        ([[1.0, 2, 3, 4]], "3 points and more, one has 4 numbers"),
        ([box(1, 1, 5, 5)[0], [1.0, 2, 3, 4, 5, 6, 7]], "one has 7 numbers"),
        ([["left", "top", 3, 4, 5, 6]], "segmentation"),
        ([[1.0, 2, 3, math.nan, 5, 6]], "the coordinate nan"),
        ([[1.0, 2, math.inf, 4, 5, 6]], "the coordinate inf"),
        ([[1.0, 2, 3e8, 4, 5, 6]], "x = 3e+08, far outside the image of 64 x 40"),
        ([[1.0, 2, 3, -4e9, 5, 6]], "y = -4e+09, far outside"),
        ([[0.0, 0, 600, 0] * 9000], "an outline of"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "mask is 1000000 x 1000000"),
    ],
)
def test_a_mask_that_is_none_is_told_with_its_image(image, segmentation, mention):
    record = {**image, "annotations": [annotation(rle(MASK)), annotation(segmentation)]}
    with pytest.raises(DatasetError) as error:
        read(record)
    assert image["file_name"] in str(error.value) and mention in str(error.value)


def test_a_model_of_things_learns_from_instances_and_from_panoptic_data(tiny_config, shapes):
    losses = []
    for name in (shapes.train.replace("panoptic", "instance"), shapes.train):
        tiny_config.DATASETS.TRAIN = tiny_config.DATASETS.TEST = (name,)
        tiny_config.MODEL.KNET.NUM_STUFF_CLASSES = 0
        torch.manual_seed(0)
        model = build_model(tiny_config)
        mapper = KNetDatasetMapper(
            augmentations=[], mask_on=True, image_format=tiny_config.INPUT.FORMAT
        )
        records = [r for r in DatasetCatalog.get(name) if r["image_id"] in (1, 2)]
        batch = [mapper(record) for record in records]
        assert any(len(x["instances"]) for x in batch)
        losses.append({k: float(v) for k, v in model(batch).items()})
        assert all(math.isfinite(loss) for loss in losses[-1].values())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --------------------------------------------------------------------------------------- semantic


@pytest.fixture
def semantic(tiny_config):
    """Options of a model that learns from label maps alone."""
    tiny_config.MODEL.MASK_ON = False
    tiny_config.MODEL.SEM_SEG_HEAD.NUM_CLASSES = -1
    return tiny_config


def assert_equals_pillow(record, **arguments):
    for augmentations, change in CHANGES.values():
        expected = change(np.asarray(Image.open(record["sem_seg_file_name"])))
        result = read(record, augmentations, mask_on=False, **arguments)
        assert result["sem_seg"].dtype == torch.int64
        assert np.array_equal(result["sem_seg"].numpy(), expected)
        assert result["image"].shape[1:] == result["sem_seg"].shape
        assert not result.keys() & {"instances", "sem_seg_file_name"}


def test_built_in_shapes_as_label_maps(shapes, semantic):
    name = shapes.train.replace("panoptic", "semantic")
    semantic.DATASETS.TRAIN, semantic.DATASETS.TEST = (name,), ()
    for record in DatasetCatalog.get(name):
        assert_equals_pillow(record, num_classes=9)
    # any augmentation of the config: image and labels keep one size
    result = KNetDatasetMapper(semantic, is_train=True)(record)
    assert result["sem_seg"].shape == result["image"].shape[1:]
    assert set(result["sem_seg"].unique().tolist()) <= {*range(9), 255}


def test_real_streets(real_data):
    root = real_data / "camvid"
    folders = [str(next(root.glob(f"{kind}/val*"))) for kind in ("images", "labels")]
    register_semantic_folders("streets", *folders, [str(i) for i in range(11)])
    records = DatasetCatalog.get("streets")
    assert len(records) == 101
    for record in records[::25]:
        assert_equals_pillow(record, num_classes=11)


@pytest.mark.parametrize(
    "labels, mode, ignore_label",
    [
        (np.arange(2560).reshape(40, 64) % 200, "L", 255),
        (np.arange(2560).reshape(40, 64) % 200, "P", 255),
        (np.arange(2560).reshape(40, 64), "I;16", 65535),
        (np.arange(2560).reshape(40, 64) % 2, "1", 255),
    ],
    ids=["8 bit", "palette", "16 bit", "1 bit"],
)
@pytest.mark.parametrize("antialias", [False, True])
def test_every_kind_of_label_map(image, tmp_path, labels, mode, ignore_label, antialias):
    labels = labels.astype(np.uint16 if mode == "I;16" else np.uint8)
    labels[:5] = ignore_label if mode != "1" else 0
    picture = Image.fromarray(labels > 0 if mode == "1" else labels)
    if mode == "P":
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    picture.save(tmp_path / "labels.png")
    assert Image.open(tmp_path / "labels.png").mode[:1] == mode[:1]
    record = {**image, "sem_seg_file_name": str(tmp_path / "labels.png")}
    arguments = {"mask_on": False, "ignore_label": ignore_label, "num_classes": 3000}
    assert np.array_equal(read(record, **arguments)["sem_seg"].numpy(), labels)
    half = T.ResizeTransform(40, 64, 20, 32) if antialias else OpenCVResizeTransform(40, 64, 20, 32)
    halved = read(record, [half], **arguments)["sem_seg"].numpy()
    assert any(np.array_equal(halved, labels[i::2, i::2]) for i in (0, 1))


@pytest.mark.parametrize("wrong", [3, 4, 200, 254])
def test_an_id_that_is_no_class_is_told_with_the_file(tmp_path, wrong):
    folder = SemanticFolder(tmp_path)
    labels = np.zeros((40, 64), np.uint8)
    labels[0], labels[7, 9] = 255, wrong
    folder.add("one", labels)
    register_semantic_folders("shelf", str(folder.images), str(folder.labels), folder.CLASSES)
    (record,) = DatasetCatalog.get("shelf")
    with pytest.raises(DatasetError, match=rf"labels/one\.png has the class id {wrong},.*0 to 2"):
        read(record, mask_on=False, num_classes=3)
    read(record, mask_on=False)  # without classes to compare with


@pytest.mark.parametrize("beside, told", [(1, True), (7, False)])
def test_ids_that_count_from_1_are_guessed(tmp_path, beside, told):
    folder = SemanticFolder(tmp_path)
    labels = np.full((40, 64), 3, np.uint8)  # one more than the last class
    labels[30:] = beside
    folder.add("one", labels)
    register_semantic_folders("shelf", str(folder.images), str(folder.labels), folder.CLASSES)
    (record,) = DatasetCatalog.get("shelf")
    with pytest.raises(DatasetError, match="has the class id 3") as error:
        read(record, mask_on=False, num_classes=3)
    assert ("subtract 1 if yours start at 1" in str(error.value)) == told


def test_a_label_map_of_another_size_or_of_colours(tmp_path):
    folder = SemanticFolder(tmp_path)
    folder.add("one", np.zeros((40, 64), np.uint8))
    register_semantic_folders("shelf", str(folder.images), str(folder.labels), folder.CLASSES)
    (record,) = DatasetCatalog.get("shelf")
    path = folder.labels / "one.png"
    Image.fromarray(np.zeros((40, 63), np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"label map .*one\.png is 63 x 40, its image"):
        read(record, mask_on=False)
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"one\.png has 3 channels"):
        read(record, mask_on=False)
    path.unlink()
    with pytest.raises(DatasetError, match=r"cannot read the image .*one\.png"):
        read(record, mask_on=False)


def test_a_panoptic_png_makes_a_label_map(shapes):
    semantic = {
        Path(r["file_name"]).stem: r
        for r in DatasetCatalog.get(shapes.train.replace("panoptic", "semantic"))
    }
    for record in DatasetCatalog.get(shapes.train):
        result = read(record, mask_on=False, num_classes=9)
        assert "instances" not in result
        other = semantic[Path(record["file_name"]).stem]
        assert torch.equal(result["sem_seg"], read(other, mask_on=False)["sem_seg"])
        assert torch.equal(result["sem_seg"], read(record)["sem_seg"])
        with pytest.raises(DatasetError, match="class id"):
            read(record, mask_on=False, num_classes=1)


# ------------------------------------------------------------------------------------------- both


def test_a_model_that_needs_what_the_image_does_not_have(image):
    with pytest.raises(DatasetError, match=r"image\.png has no masks.*DATASETS\.TRAIN"):
        read({**image, "sem_seg_file_name": "labels.png"})
    with pytest.raises(DatasetError, match=r"image\.png has no label map.*DATASETS\.TRAIN"):
        read({**image, "annotations": []}, mask_on=False)


@pytest.mark.parametrize("truth", [{"annotations": [annotation("?")]}, {"sem_seg_file_name": "?"}])
@pytest.mark.parametrize("mask_on", [True, False])
def test_in_inference_only_the_image_is_read(image, truth, mask_on):
    mapper = KNetDatasetMapper(False, augmentations=[Resize()], mask_on=mask_on)
    result = mapper({**image, **truth})
    assert result["image"].shape == (3, 24, 83)
    assert not result.keys() & {"instances", "sem_seg", "annotations"}


def test_more_segments_than_8_bits_hold(tmp_path):
    folder = PanopticFolder(tmp_path)
    ids = 1 + np.arange(40)[:, None] // 2 * 16 + np.arange(64) // 4
    folder.add(ids, {int(i): (folder.CUP if i % 2 else folder.WALL,) for i in np.unique(ids)})
    json_file = str(folder.write().json_file)
    metadata = panoptic_metadata(folder.CATEGORIES)
    (record,) = load_coco_panoptic_json(json_file, str(folder.images), str(folder.pngs), metadata)
    result = read(record, [T.RandomFlip(1.0)])
    flipped = ids[:, ::-1]
    assert len(result["instances"]) == 160
    assert np.array_equal(result["sem_seg"].numpy(), np.where(flipped % 2, 0, 1))
    for mask, segment in zip(result["instances"].gt_masks.tensor.numpy(), range(1, 321, 2)):
        assert np.array_equal(mask, flipped == segment)


def test_a_rotated_photo_and_a_grey_one_fit_their_labels(tmp_path):
    """Detectron2 turns a photo as its EXIF says; sizes of ground truth are the turned one's."""
    picture = Image.fromarray(noise((64, 40)))
    exif = picture.getexif()
    exif[0x0112] = 6  # stored lying, shown upright
    picture.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(noise((40, 64))[..., 0]).save(tmp_path / "grey.jpg")
    Image.fromarray(MASK).save(tmp_path / "labels.png")
    for name in ("turned.jpg", "grey.jpg"):
        file_name = {"file_name": str(tmp_path / name)}
        labels = {**file_name, "sem_seg_file_name": str(tmp_path / "labels.png")}
        result = read(labels, mask_on=False)
        assert (result["height"], result["width"]) == (40, 64)
        assert result["image"].shape == (3, 40, 64) and result["sem_seg"].sum() == MASK.sum()
        result = read({**file_name, "annotations": [annotation(rle(MASK))]})
        assert np.array_equal(result["instances"].gt_masks.tensor[0].numpy(), MASK > 0)


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("kind", ["instance", "semantic"])
def test_a_loader_gives_batches_grouped_by_aspect_or_not(shapes, semantic, kind, grouping):
    """Detectron2's semantic dicts have no sizes, which grouping needs."""
    semantic.MODEL.MASK_ON = kind == "instance"
    semantic.DATASETS.TRAIN = (shapes.train.replace("panoptic", kind),)
    semantic.DATASETS.TEST = ()
    semantic.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    semantic.DATALOADER.NUM_WORKERS = 0
    semantic.INPUT.RANDOM_FLIP = "none"
    batches = iter(
        build_detection_train_loader(
            semantic,
            mapper=KNetDatasetMapper(semantic, is_train=True),
            dataset=load_training_dicts(semantic),
        )
    )
    mixed = 0
    for _ in range(30):
        batch = next(batches)
        assert len(batch) == 2
        wanted = {"instances"} if kind == "instance" else {"sem_seg"}
        assert all(x.keys() & {"instances", "sem_seg"} == wanted for x in batch)
        mixed += len({x["width"] > x["height"] for x in batch}) == 2
    assert (mixed == 0) == grouping
