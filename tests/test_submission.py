"""Archives for evaluation servers: names, ids, and what is told of what is missing."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from knet.commands import pack_predictions

SIZE = (20, 30)
FRAMES = ("berlin_000000_000019", "mainz_000001_000019")


def run(capsys, *words):
    """Exit status, and what is said at the end."""
    status = pack_predictions.main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, (captured.out + captured.err).strip()


def pack(capsys, tmp_path, server, images, *more):
    words = ("--server", server, "--predictions", tmp_path / "predictions", "--images", images)
    return run(capsys, *words, "--output", tmp_path / "packed", "--name", "mine", *more)


def content(archive):
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        return {name: file.read(name) for name in file.namelist()}


def write_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pixels_of(data, tmp_path):
    (tmp_path / "one.png").write_bytes(data)
    with Image.open(tmp_path / "one.png") as image:
        return np.asarray(image)


def rle(mask):
    encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


@pytest.fixture
def coco_images(tmp_path):
    """The json of two test images, 139 and 285."""
    listed = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in (139, 285)]
    write_json(tmp_path / "image_info.json", {"images": listed, "categories": []})
    return tmp_path / "image_info.json"


def write_panoptic(folder, names, category, ids=None):
    """As the demo writes it, one segment an image."""
    annotations = []
    for i, name in enumerate(names):
        write_png(folder / "panoptic" / f"{name}.png", np.full((*SIZE, 3), (7, 0, 0), np.uint8))
        segment = {"id": 7, "category_id": category, "isthing": True, "area": 600}
        image_id = ids[i] if ids else i + 1
        annotations.append(
            {"image_id": image_id, "file_name": f"{name}.png", "segments_info": [segment]}
        )
    write_json(folder / "panoptic.json", {"annotations": annotations})


@pytest.fixture
def city_images(tmp_path):
    """The folder of two test images, below their cities."""
    for frame in FRAMES:
        path = tmp_path / "test" / frame.split("_")[0] / f"{frame}_leftImg8bit.png"
        write_png(path, np.zeros((*SIZE, 3), np.uint8))
    return tmp_path / "test"


# -------------------------------------------------------------------------------------------- COCO


def test_coco_panoptic(tmp_path, coco_images, capsys):
    # one more than is asked for
    names = ["000000000139", "000000000285", "000000000632"]
    write_panoptic(tmp_path / "predictions", names, 200, ids=[139, 285, 632])
    status, said = pack(capsys, tmp_path, "coco-panoptic", coco_images)
    assert status == 0, said
    name = "panoptic_test-dev2017_mine_results"
    assert said.endswith(f"{name}.zip")
    files = content(said)
    assert set(files) == {f"{name}.json", f"{name}/{names[0]}.png", f"{name}/{names[1]}.png"}
    annotations = json.loads(files[f"{name}.json"])["annotations"]
    assert [a["image_id"] for a in annotations] == [139, 285]
    assert annotations[0]["segments_info"][0]["category_id"] == 200
    assert (pixels_of(files[f"{name}/{names[0]}.png"], tmp_path) == (7, 0, 0)).all()


def test_coco_instances(tmp_path, coco_images, capsys):
    one = {
        "category_id": 90,
        "score": 0.5,
        "bbox": [0, 0, 30, 20],
        "segmentation": rle(np.ones(SIZE)),
    }
    found = [{"image_id": 139, **one}, {"image_id": 632, **one}]
    write_json(tmp_path / "predictions" / "coco_instances_results.json", found)
    more = ("--test-set", "test-challenge2017")
    status, said = pack(capsys, tmp_path, "coco-instances", coco_images, *more)
    assert status == 0, said
    name = "detections_test-challenge2017_mine_results"
    (file,) = content(said).items()
    assert file[0] == f"{name}.json" and json.loads(file[1]) == found[:1]
    # the archive stays as it is
    status, said = pack(capsys, tmp_path, "coco-instances", coco_images, *more)
    assert status == 1 and "is there already" in said


@pytest.mark.parametrize(
    ("names", "category", "told"),
    [
        (["000000000139"], 200, "1 of 2 images of the test set have no prediction (285)"),
        (["000000000139", "000000000285"], 12, "the classes 12, which COCO does not know"),
    ],
)
def test_what_coco_would_refuse_is_told(tmp_path, coco_images, capsys, names, category, told):
    write_panoptic(tmp_path / "predictions", names, category, ids=[int(name) for name in names])
    status, said = pack(capsys, tmp_path, "coco-panoptic", coco_images)
    assert status == 1 and told in said
    assert not list((tmp_path / "packed").glob("*"))


# -------------------------------------------------------------------------------------- Cityscapes


def test_cityscapes_panoptic_of_train_ids_gets_label_ids(tmp_path, city_images, capsys):
    names = [f"{frame}_leftImg8bit" for frame in FRAMES]
    write_panoptic(tmp_path / "predictions", names, 0)
    status, said = pack(capsys, tmp_path, "cityscapes-panoptic", city_images)
    assert status == 0, said
    files = content(said)
    assert len(files) == 3
    annotations = json.loads(files["cityscapes_panoptic_mine.json"])["annotations"]
    assert [a["image_id"] for a in annotations] == list(FRAMES)
    assert annotations[0]["segments_info"][0]["category_id"] == 7  # road
    for annotation in annotations:
        assert f"cityscapes_panoptic_mine/{annotation['file_name']}" in files


def test_cityscapes_semantic(tmp_path, city_images, capsys):
    labels = np.full(SIZE, 255, np.uint8)
    labels[:10], labels[10:15] = 0, 11
    for frame in FRAMES:
        write_png(tmp_path / "predictions" / "labels" / f"{frame}_leftImg8bit.png", labels)
    status, said = pack(capsys, tmp_path, "cityscapes-semantic", city_images)
    assert status == 0, said
    files = content(said)
    assert set(files) == {f"{frame}.png" for frame in FRAMES}
    packed = pixels_of(files[f"{FRAMES[0]}.png"], tmp_path)
    assert packed.dtype == np.uint8
    assert (packed[:10] == 7).all() and (packed[10:15] == 24).all() and (packed[15:] == 0).all()


def test_cityscapes_instances(tmp_path, city_images, capsys):
    masks = np.zeros((2, *SIZE))
    masks[0, :5], masks[1, 5:] = 1, 1
    found = [
        {
            "image_id": f"{FRAMES[0]}_leftImg8bit.png",
            "category_id": category,
            "score": score,
            "segmentation": rle(mask),
        }
        for mask, category, score in zip(masks, (0, 7), (0.25, 0.75))
    ]
    write_json(tmp_path / "predictions" / "coco_instances_results.json", found)
    status, said = pack(capsys, tmp_path, "cityscapes-instances", city_images)
    assert status == 0, said
    files = content(said)
    assert files[f"{FRAMES[1]}.txt"] == b""
    lines = files[f"{FRAMES[0]}.txt"].decode().splitlines()
    assert [line.split()[1:] for line in lines] == [["33", "0.750000"], ["24", "0.250000"]]
    for line, mask in zip(lines, masks[::-1]):
        assert (pixels_of(files[line.split()[0]], tmp_path) == 255 * mask).all()


def test_other_sizes_and_names_are_told(tmp_path, city_images, capsys):
    for frame in FRAMES:
        write_png(tmp_path / "predictions" / "labels" / f"{frame}.png", np.zeros((5, 6), np.uint8))
    status, said = pack(capsys, tmp_path, "cityscapes-semantic", city_images)
    assert status == 1 and "6 x 5" in said and "30 x 20" in said
    write_png(tmp_path / "predictions" / "labels" / "holiday.png", np.zeros(SIZE, np.uint8))
    status, said = pack(capsys, tmp_path, "cityscapes-semantic", city_images)
    assert status == 1 and "holiday.png" in said
    status, said = pack(capsys, tmp_path, "cityscapes-panoptic", city_images)
    assert status == 1 and "--save coco-panoptic" in said
    write_json(tmp_path / "predictions" / "predictions.json", [])
    status, said = pack(capsys, tmp_path, "cityscapes-panoptic", city_images)
    assert status == 1 and "no list of annotations" in said


# ------------------------------------------------------------------------------------------ ADE20K


def test_ade20k_of_the_evaluation(tmp_path, capsys):
    for number in (1, 2):
        path = tmp_path / "testing" / f"ADE_test_0000000{number}.jpg"
        write_png(path, np.zeros((*SIZE, 3), np.uint8))
    half = np.zeros(SIZE)
    half[:10] = 1
    found = [
        {
            "file_name": f"/data/ADE_test_0000000{number}.jpg",
            "category_id": i,
            "segmentation": rle(m),
        }
        for number in (1, 2)
        for i, m in ((0, half), (149, 1 - half))
    ]
    write_json(tmp_path / "predictions" / "sem_seg_predictions.json", found)
    status, said = pack(capsys, tmp_path, "ade20k", tmp_path / "testing")
    assert status == 0, said
    files = content(said)
    assert set(files) == {"ADE_test_00000001.png", "ADE_test_00000002.png"}
    packed = pixels_of(files["ADE_test_00000001.png"], tmp_path)
    assert (packed[:10] == 1).all() and (packed[10:] == 150).all()


# ------------------------------------------------------------------------------------ wrong inputs


@pytest.mark.parametrize(
    ("server", "file", "found", "told"),
    [
        # boxes alone, as a detector leaves them
        (
            "coco-instances",
            "coco_instances_results.json",
            [{"image_id": 139, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}],
            "has an entry without segmentation",
        ),
        ("coco-instances", "coco_instances_results.json", [7], "has an entry without category_id"),
        ("coco-panoptic", "predictions.json", {"annotations": [{}]}, "has an entry without"),
    ],
)
def test_files_of_another_kind_are_told(tmp_path, coco_images, capsys, server, file, found, told):
    write_json(tmp_path / "predictions" / file, found)
    status, said = pack(capsys, tmp_path, server, coco_images)
    assert status == 1 and told in said and file in said


def test_masks_that_do_not_fill_their_size_are_told(tmp_path, city_images, capsys):
    broken = {"size": list(SIZE), "counts": "zzzz"}
    entry = {"image_id": FRAMES[0], "category_id": 24, "score": 0.5, "segmentation": broken}
    write_json(tmp_path / "predictions" / "coco_instances_results.json", [entry])
    status, said = pack(capsys, tmp_path, "cityscapes-instances", city_images)
    assert status == 1 and "mask cannot be read" in said


def test_pictures_that_are_no_label_maps_are_told(tmp_path, coco_images, city_images, capsys):
    labels = tmp_path / "predictions" / "labels"
    for frame in FRAMES:
        write_png(labels / f"{frame}.png", np.zeros((*SIZE, 3), np.uint8))
    status, said = pack(capsys, tmp_path, "cityscapes-semantic", city_images)
    assert status == 1 and "picture in colours" in said
    for frame in FRAMES:
        write_png(labels / f"{frame}.png", np.zeros(SIZE, np.uint8))
    write_png(labels / "again" / f"{FRAMES[0]}.png", np.zeros(SIZE, np.uint8))
    status, said = pack(capsys, tmp_path, "cityscapes-semantic", city_images)
    assert status == 1 and f"two predictions of the image {FRAMES[0]}" in said
    write_panoptic(tmp_path / "predictions", ["139", "285"], 200, ids=[139, 285])
    (tmp_path / "predictions" / "panoptic" / "139.png").write_bytes(b"no PNG")
    status, said = pack(capsys, tmp_path, "coco-panoptic", coco_images)
    assert status == 1 and "139.png cannot be read" in said


def test_no_image_is_told(tmp_path, capsys):
    write_json(tmp_path / "info.json", {"images": []})
    status, said = pack(capsys, tmp_path, "coco-panoptic", tmp_path / "info.json")
    assert status == 1 and "--images" in said and "has no image" in said
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "none"):
        status, said = pack(capsys, tmp_path, "ade20k", tmp_path / folder)
        assert status == 1 and "--images" in said and "--input" not in said
    more = ("--test-set", "../set")
    status, said = pack(capsys, tmp_path, "coco-panoptic", tmp_path / "info.json", *more)
    assert status == 1 and "--test-set" in said
