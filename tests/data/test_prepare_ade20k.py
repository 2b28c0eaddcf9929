"""The program that prepares ADE20K, on a small folder laid out as the public one."""

import json
import math
import os

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES
from panopticapi.utils import rgb2id
from PIL import Image

import knet_cli
from knet.commands import prepare_ade20k
from knet.data.datasets.coco_panoptic import read_panoptic_json
from knet.engine.checks import check_datasets
from knet.engine.main import load_config
from knet.errors import DatasetError
from tests.conftest import REPO

CONFIG = str(REPO / "configs" / "ade20k" / "knet_panoptic_r50.yaml")
# the heading and the blanks of the public file; a door is two classes of the full ADE20K
MAPPING = "Instacne100\tSceneParse150\tFullADE20K\n1\t\t8\t\t165\n4\t\t13\t\t1831\n5\t\t15\t\t774\n"
MAPPING += "5\t\t15\t\t783\n"
WALL, FLOOR, BED, PERSON, DOOR = 1, 4, 8, 13, 15  # of the label maps
CLASS_OF = {1: BED, 4: PERSON, 5: DOOR}  # of the instance maps' classes


def ordinary(size=(40, 64)):
    """A label map and an instance map: wall, floor, a bed, three persons, a door, void."""
    labels, instances = np.full(size, WALL, np.uint8), np.zeros((*size, 3), np.uint8)
    labels[30:], labels[:3] = FLOOR, 0
    for number, (y, x, instance_class) in enumerate(
        [
            (slice(20, 38), slice(5, 25), 1),
            (slice(10, 34), slice(30, 36), 4),
            (slice(10, 34), slice(36, 42), 4),  # beside the other
            (slice(1, 12), slice(50, 60), 4),  # on void too
        ],
        start=7,
    ):
        labels[y, x] = CLASS_OF[instance_class]
        instances[y, x] = instance_class, number, 200
    labels[20:30, 55:62] = DOOR  # without an object
    instances[34:36, 30:36] = 4, 8, 0  # an object on the floor's label
    return labels, instances


def write(root, split, stem, labels, instances):
    image = np.random.default_rng(len(stem)).integers(0, 256, (*labels.shape[:2], 3), np.uint8)
    for folder, name, pixels in (
        ("images", f"{stem}.jpg", image),
        ("annotations", f"{stem}.png", labels),
        ("annotations_instance", f"{stem}.png", instances),
    ):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / folder / split / name)


@pytest.fixture
def ade(tmp_path, monkeypatch):
    """ADEChallengeData2016 below DETECTRON2_DATASETS: two images to train on, one to test."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "ADEChallengeData2016"
    labels, instances = ordinary()
    write(root, "training", "ADE_train_00000001", labels, instances)
    write(root, "training", "ADE_train_00000002", labels[:, ::-1], instances[:, ::-1])
    write(root, "validation", "ADE_val_00000001", labels, instances)
    (root / "categoryMapping.txt").write_text(MAPPING)
    return root


@pytest.fixture
def prepare(capsys):
    """Runs the program; returns its status and what it said."""

    def run(*arguments):
        status = prepare_ade20k.main(list(arguments))
        captured = capsys.readouterr()
        return status, captured.err if status else captured.out

    return run


def contents(folder):
    """{path: bytes} of all files."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_label_maps_are_as_detectron2_wants_them(ade, prepare):
    assert prepare()[0] == 0
    for split, count in (("training", 2), ("validation", 1)):
        target = ade / "annotations_detectron2" / split
        dicts = load_sem_seg(str(target), str(ade / "images" / split))
        assert len(dicts) == count
        for d in dicts:
            made = np.asarray(Image.open(d["sem_seg_file_name"])).tolist()
            name = os.path.basename(d["sem_seg_file_name"])
            given = np.asarray(Image.open(ade / "annotations" / split / name)).tolist()
            for row, expected in zip(made, given):
                assert row == [255 if label == 0 else label - 1 for label in expected]
    assert not (ade / "ade20k_panoptic_train").exists(), "only with --panoptic"


def test_panoptic_files_against_every_pixel(ade, prepare):
    assert prepare("--panoptic")[0] == 0
    labels, instances = ordinary()
    content = read_panoptic_json(str(ade / "ade20k_panoptic_val.json"))
    assert [c["name"] for c in content["categories"]] == ADE20K_SEM_SEG_CATEGORIES
    things = [c["id"] for c in content["categories"] if c["isthing"]]
    assert things == [BED - 1, PERSON - 1, DOOR - 1]
    image, annotation = content["images"][0], content["annotations"][0]
    assert image["id"] == annotation["image_id"] == "ADE_val_00000001"
    assert (image["height"], image["width"]) == labels.shape
    ids = rgb2id(np.asarray(Image.open(ade / "ade20k_panoptic_val" / annotation["file_name"])))
    segments = {s["id"]: s for s in annotation["segments_info"]}
    assert set(np.unique(ids[ids > 0]).tolist()) == set(segments)

    objects = {}  # segment id -> the number of its object
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            instance_class, number, _ = instances[y, x].tolist()
            label = int(labels[y, x])
            if number:
                expected = CLASS_OF[instance_class]
                assert objects.setdefault(ids[y, x], number) == number
            else:
                expected = label if label in (WALL, FLOOR) else 0
            found = segments[ids[y, x]]["category_id"] + 1 if ids[y, x] else 0
            assert found == expected, (y, x)
    assert sorted(objects.values()) == [7, 8, 9, 10]
    for i, segment in segments.items():
        y, x = np.nonzero(ids == i)
        assert segment["area"] == len(y) and segment["iscrowd"] == 0
        assert segment["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]


def test_what_exists_is_left_as_it_is(ade, prepare):
    prepare("--panoptic")
    png = ade / "annotations_detectron2" / "training" / "ADE_train_00000001.png"
    png.write_bytes(b"mine")
    (ade / "ade20k_panoptic_train.json").write_text("mine")
    before = contents(ade)
    status, said = prepare("--panoptic")
    assert status == 0 and "ade20k_panoptic_train.json exists: left as it is" in said
    assert contents(ade) == before


def test_an_interrupted_run_is_completed(ade, prepare):
    prepare("--panoptic")
    complete = contents(ade)
    (ade / "ade20k_panoptic_train.json").unlink()
    (ade / "ade20k_panoptic_train" / "ADE_train_00000002.png").unlink()
    (ade / "annotations_detectron2" / "validation" / "ADE_val_00000001.png").unlink()
    assert prepare("--panoptic")[0] == 0
    assert contents(ade) == complete


def test_a_folder_of_another_program_is_not_overwritten(ade, prepare):
    other = ade / "ade20k_panoptic_train" / "ADE_train_00000002.png"
    other.parent.mkdir()
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(other)
    before = other.read_bytes()
    status, said = prepare("--panoptic")
    assert status == 1 and f"{other} exists" in said and "remove the folder" in said
    assert other.read_bytes() == before and not (ade / "ade20k_panoptic_train.json").exists()


def test_several_processes_make_the_same_files(ade, prepare):
    prepare("--panoptic")
    alone = contents(ade)
    for path in ade.glob("ade20k_panoptic_*.json"):
        path.unlink()
    for path in [*ade.rglob("ade20k_panoptic_*/*"), *ade.rglob("annotations_detectron2/*/*")]:
        path.unlink()
    assert prepare("--panoptic", "--num-workers", "2")[0] == 0
    assert contents(ade) == alone


# ------------------------------------------------------------------------------ what can be wrong


@pytest.mark.parametrize(
    "part, remedy",
    [
        ("images/training", "ADEChallengeData2016.zip"),
        ("annotations/validation", "ADEChallengeData2016.zip"),
        ("annotations_instance/training", "annotations_instance.tar"),
        ("categoryMapping.txt", "annotations_instance.tar"),
    ],
)
def test_a_missing_part_is_told_in_one_sentence(ade, prepare, part, remedy):
    (ade / part).rename(ade / "elsewhere")
    status, said = prepare("--panoptic")
    assert status == 1 and said.count("\n") == 1
    assert str(ade / part) in said and remedy in said


def spoil_label(labels, instances):
    labels[0, 0] = 151
    return labels, instances


def spoil_class(labels, instances):
    instances[0, 0] = 99, 1, 0
    return labels, instances


@pytest.mark.parametrize(
    "spoil, mention",
    [
        (spoil_label, "the label 151"),
        (spoil_class, "the instance class 99"),
        (
            lambda labels, instances: (labels, instances[:-1]),
            "64 x 39, its label map is 64 x 40",
        ),
        (lambda labels, instances: (labels, instances[..., 0]), "R, G and B"),
        (lambda labels, instances: (np.stack([labels] * 3, -1), instances), "one channel"),
    ],
)
def test_maps_that_are_none_are_named(ade, prepare, spoil, mention):
    write(ade, "validation", "ADE_val_00000009", *spoil(*ordinary()))
    status, said = prepare("--panoptic")
    assert status == 1 and said.count("\n") == 1
    assert "ADE_val_00000009.png" in said and mention in said


@pytest.mark.parametrize(
    "text, mention",
    [
        ("a b c\n1\t\t151\t\t7\n", "line 2"),
        ("a b c\n1 8 3\n\n1 9 3\n", "line 4"),
        ("a b c\n1\n", "line 2"),
        ("a b c\n", "lists no classes"),
    ],
)
def test_a_mapping_that_is_none_is_told(ade, prepare, text, mention):
    (ade / "categoryMapping.txt").write_text(text)
    status, said = prepare("--panoptic")
    assert status == 1 and said.count("\n") == 1 and mention in said


# --------------------------------------------------------------------------------------- training


def test_the_config_learns_from_what_was_made(ade, prepare, train_net, tiny_options, tmp_path):
    prepare("--panoptic")
    cfg = load_config(CONFIG)
    options = {
        **tiny_options,
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.BACKBONE.NORM_EVAL": False,
        "INPUT.CROP.SIZE": [32, 32],
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.MAX_ITER": 1,
        "DATASETS.TRAIN": cfg.DATASETS.TRAIN,
        "DATASETS.TEST": cfg.DATASETS.TEST,
    }
    outcome = train_net(config_file=CONFIG, options=options)
    assert outcome.status == 0, outcome.err
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    assert len(metadata.stuff_dataset_id_to_contiguous_id) == 147
    assert metadata.stuff_classes == MetadataCatalog.get("ade20k_sem_seg_val").stuff_classes
    records = [json.loads(line) for line in (tmp_path / "output" / "metrics.json").open()]
    assert math.isfinite(records[0]["total_loss"]) and "panoptic_seg/PQ" in records[-1]


# ------------------------------------------------------------------ Detectron2's semantic data sets


def test_data_not_prepared_is_told_with_the_command(ade, prepare, tiny_config, monkeypatch):
    tiny_config.DATASETS.TRAIN, tiny_config.DATASETS.TEST = ("ade20k_sem_seg_train",), ()
    metadata = MetadataCatalog.get("ade20k_sem_seg_train")
    root = ade.parent / "nowhere"
    for where in (root, ade):
        folders = {"image_root": "images", "sem_seg_root": "annotations_detectron2"}
        for key, folder in folders.items():
            monkeypatch.setitem(vars(metadata), key, str(where / folder / "training"))
        with pytest.raises(DatasetError) as error:
            check_datasets(tiny_config)
        command = f"knet prepare-ade20k --root {where}"
        assert str(error.value).endswith(command)
        lacks = "images" if where == root else "annotations_detectron2"
        assert str(error.value).startswith(str(where / lacks / "training"))
        assert command.split()[1] in knet_cli.COMMANDS
    assert prepare()[0] == 0
    metadata.prepare()
