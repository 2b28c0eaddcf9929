"""The check as a whole: it never dies at a fault, and gives no false alarm on real images."""

import json

import numpy as np
import pytest
from PIL import Image

from knet.data.checks import check_data
from knet.data.datasets.shapes.dataset import register_all_shapes
from knet.engine.main import load_config
from knet.errors import UsageError
from tests.conftest import DEMO_CONFIG, REPO, PanopticFolder
from tests.data.checks.checking import check, config_of, errors, found, ordinary
from tests.data.checks.spoiling import image_of, png_of, truncate
from tests.data.datasets.folders import InstanceFolder, SemanticFolder, box

CONFIGS = REPO / "configs"


def test_processes_find_what_one_finds(tmp_path):
    folder = ordinary(PanopticFolder, tmp_path, "pottery", count=40)
    truncate(image_of(folder, 3))
    truncate(png_of(folder, 30))
    one, two = (check(folder, workers=workers) for workers in (1, 2))
    assert len(one.faults) == 2
    assert two.as_json() == one.as_json()


def test_all_faults_of_a_set_are_told_at_once(tmp_path):
    folder = ordinary(InstanceFolder, tmp_path, "dishes", count=5)
    truncate(image_of(folder, 0))
    image_of(folder, 1).unlink()
    annotations = folder.content["annotations"]
    annotations[4]["segmentation"] = [[0, 0, float("nan"), 5, 5, 5]]
    annotations[5]["category_id"] = 77
    annotations[6]["segmentation"] = []
    folder.content["images"][4]["height"] = "forty"
    folder.content["images"][3]["file_name"] = "../else/where.png"
    kinds = found(check(folder.write()))
    assert {"unreadable", "missing", "polygon", "unknown category", "no mask", "entry"} <= set(
        kinds
    )
    assert len(kinds["missing"]) == 2


WRONG = [None, 5, "x", [], [5], {}, {"a": 1}, [[]], [None], {"size": [1]}, float("nan"), True]


@pytest.mark.parametrize("kind", [InstanceFolder, PanopticFolder])
def test_no_value_of_a_json_ends_the_check(kind, tmp_path):
    """Each place of the json gets each of several wrong values."""
    folder = ordinary(kind, tmp_path, "any")
    folder.content["images"].append({**folder.content["images"][0], "id": 9, "file_name": "9.png"})
    text = json.dumps(folder.content)
    cfg = config_of(folder)
    places = [(part, name) for part, entries in folder.content.items() for name in entries[0]]
    for part, name in places:
        for wrong in WRONG:
            content = json.loads(text)
            content[part][0][name] = wrong
            folder.content = content
            folder.write()
            kinds = found(check_data(cfg))
            assert kinds  # at least the image that is missing
            assert not {"unchecked", "data set"} & kinds.keys(), (part, name, wrong, kinds)


def test_a_file_that_nobody_has_foreseen_is_told_and_the_others_are_checked(tmp_path, monkeypatch):
    folder = ordinary(InstanceFolder, tmp_path, "dishes")
    image_of(folder, 1).write_bytes(b"")

    def broken(*_):
        raise RuntimeError("never seen")

    monkeypatch.setattr("knet.data.checks.one_image.check_objects", broken)
    kinds = found(check(folder))
    assert len(kinds["unchecked"]) == 2 and "never seen" in kinds["unchecked"][0]
    assert "002.png" in kinds["empty file"][0]


def test_the_panoptic_set_may_have_an_instance_json(tmp_path):
    folder = ordinary(PanopticFolder, tmp_path, "pottery")
    objects = InstanceFolder(tmp_path, "objects")
    objects.content["images"] = folder.content["images"]
    objects.content["categories"] = [c for c in folder.content["categories"] if c["isthing"]]
    objects.content["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 3, "segmentation": box(1, 70, 5, 5)}
    ]
    cfg = config_of(folder)
    cfg.DATASETS.CUSTOM[0]["INSTANCES_JSON"] = str(objects.write().json_file)
    assert errors(check_data(cfg)) == {"outside"}


def test_class_counts_that_contradict_the_data(tmp_path):
    folder = ordinary(PanopticFolder, tmp_path, "pottery")
    kinds = found(check(folder, **{"MODEL.KNET.NUM_THING_CLASSES": 80}))
    assert "set it to 2" in kinds["class counts"][0]


def test_label_maps_turned_otherwise_than_their_image(tmp_path):
    folder = ordinary(SemanticFolder, tmp_path, "shelf")
    exif = Image.Exif()
    exif[274] = 6
    Image.open(image_of(folder)).save(image_of(folder), exif=exif)
    assert errors(check(folder)) == {"exif size"}


def test_a_config_that_names_nothing_to_check(tiny_config):
    tiny_config.DATASETS.TRAIN = tiny_config.DATASETS.TEST = ()
    with pytest.raises(UsageError, match=r"DATASETS\.TRAIN and DATASETS\.TEST"):
        check_data(tiny_config)
    tiny_config.DATASETS.TRAIN = ("nothing",)
    with pytest.raises(UsageError, match="'nothing'"):
        check_data(tiny_config)


# ----------------------------------------------------------------------------- no false alarms


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_the_built_in_set_is_clean(task, tmp_path):
    register_all_shapes(str(tmp_path), prefix="clean", scenes={"train": 12, "val": 3})
    cfg = load_config(str(CONFIGS / "demo" / f"knet_{task}_shapes.yaml"))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"clean_{task}_train",), (f"clean_{task}_val",)
    report = check_data(cfg)
    # of 12 scenes
    assert set(found(report)) <= {"absent class", "image without object"}
    statistics = report.statistics[f"clean_{task}_train"]
    assert len(statistics.sizes) == 12 and len(set(statistics.sizes)) > 1


def some_of(json_file, target, count):
    content = json.loads(json_file.read_text())
    content["images"] = content["images"][:count]
    known = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in known]
    target.write_text(json.dumps(content))
    return str(target)


def test_real_images_give_no_false_alarm(real_data, tmp_path):
    """Nuclei, touching each other; facades with stuff first; streets with pixels ignored."""
    nuclei, facade, camvid = (real_data / name for name in ("nuclei", "facade", "camvid"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    for path in sorted((camvid / "images" / "val").iterdir())[:8]:
        (tmp_path / "images" / path.name).symlink_to(path)
        label = camvid / "labels" / "val" / f"{path.stem}.png"
        (tmp_path / "labels" / label.name).symlink_to(label)
    instances = some_of(nuclei / "annotations" / "instances_val.json", tmp_path / "nuclei.json", 12)
    panoptic = some_of(facade / "annotations" / "panoptic_val.json", tmp_path / "facade.json", 12)
    pngs = str(facade / "panoptic_val")
    classes = [f"class {i}" for i in range(11)]
    sets = (
        {"IMAGE_ROOT": str(nuclei / "val"), "INSTANCES_JSON": instances},
        {"IMAGE_ROOT": str(facade / "val"), "PANOPTIC_JSON": panoptic, "PANOPTIC_ROOT": pngs},
        {
            "IMAGE_ROOT": str(tmp_path / "images"),
            "LABEL_ROOT": str(tmp_path / "labels"),
            "CLASSES": classes,
        },
    )
    for number, entry in enumerate(sets):
        cfg = load_config(DEMO_CONFIG)
        if "LABEL_ROOT" in entry:
            cfg = load_config(str(CONFIGS / "demo" / "knet_semantic_shapes.yaml"))
        cfg.DATASETS.CUSTOM = [{"NAME": f"real_{number}", **entry}]
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"real_{number}",), ()
        report = check_data(cfg)
        assert not found(report).keys() - {"absent class", "kernels", "lost segment"}, found(report)
        assert np.prod(report.statistics[f"real_{number}"].sizes, axis=1).min() > 0


def test_coco_images_give_no_false_alarm(real_coco):
    """Polygons, crowds, an image without a thing; of so few images most classes do not occur."""
    root = real_coco / "coco"
    cfg = load_config(DEMO_CONFIG)
    entry = {"NAME": "some", "IMAGE_ROOT": str(root / "val2017")}
    entry["PANOPTIC_ROOT"] = str(root / "panoptic_val2017")
    entry["PANOPTIC_JSON"] = str(root / "annotations" / "panoptic_val2017.json")
    cfg.DATASETS.CUSTOM, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [entry], ("some",), ()
    kinds = found(check_data(cfg))
    # the images of the whole json, of which four are annotated
    assert kinds.keys() <= {"absent class", "image without annotation"}, kinds
