"""Images without ground truth: predicted on in the formats of COCO, with nothing to measure."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from tests.conftest import REPO, PanopticFolder
from tests.data.datasets.folders import InstanceFolder, SemanticFolder
from tests.evaluation.conftest import register

SEMANTIC_CONFIG = str(REPO / "configs" / "demo" / "knet_semantic_shapes.yaml")
INSTANCE_CONFIG = str(REPO / "configs" / "demo" / "knet_instance_shapes.yaml")
SMALL_HEAD = {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 16}


@pytest.fixture
def predict(train_net, tiny_options, tmp_path):
    """``train_net.py --eval-only`` on data sets; returns the folder of the results of the last."""

    def run(*entries, test, train=None, config=None, told=True, **options):
        options = {
            **tiny_options,
            "DATASETS.CUSTOM": list(entries),
            "DATASETS.TRAIN": (train or entries[0]["NAME"],),
            "DATASETS.TEST": (test,),
            "SEED": 1,
            **options,
        }
        config = {} if config is None else {"config_file": config}
        outcome = train_net("--eval-only", options=options, **config)
        assert outcome.status == 0, outcome.err
        folder = tmp_path / "output" / "inference" / test
        assert (f"Nothing was measured on '{test}'" in outcome.out) == told
        assert str(folder) in outcome.out or not told
        return folder

    return run


def read(path):
    return json.loads(path.read_text())


def as_test_set(folder, remove, name="unseen"):
    """Another json of the same images without annotations; its entry for DATASETS.CUSTOM."""
    content = {**folder.content, "annotations": []}
    if remove:
        del content["annotations"]
    path = folder.json_file.with_name(f"{name}.json")
    path.write_text(json.dumps(content))
    key = "PANOPTIC_JSON" if isinstance(folder, PanopticFolder) else "INSTANCES_JSON"
    return {"NAME": name, "IMAGE_ROOT": str(folder.images), key: str(path)}


def test_a_panoptic_test_set(predict, pottery):
    pottery.write()
    measured = predict(pottery.entry(), test=pottery.name, told=False)
    for remove in (True, False):
        name = f"unseen{remove}"
        entry = as_test_set(pottery, remove, name)
        folder = predict(pottery.entry(), entry, test=name)
        content, expected = read(folder / "predictions.json"), read(measured / "predictions.json")
        assert content["annotations"] == expected["annotations"] and len(content["images"]) == 2
        assert content["categories"] == pottery.content["categories"]
        for annotation in content["annotations"]:
            png = f"predictions/{annotation['file_name']}"
            assert (folder / png).read_bytes() == (measured / png).read_bytes()
        for file in ("coco_instances_results.json", "sem_seg_predictions.json"):
            assert read(folder / file) == read(measured / file)
        info = read(folder / "image_info.json")
        assert [i["id"] for i in info["images"]] == [1, 2] and "annotations" not in info


def test_a_panoptic_model_on_the_list_of_test_images_that_coco_has(predict, pottery, tmp_path):
    expected = predict(pottery.write().entry(), test=pottery.name, told=False)
    entry = as_test_set(pottery, remove=True)
    content = read(tmp_path / "unseen.json")
    content["categories"] = [{"id": 9, "name": "cup", "supercategory": "dishes"}]
    (tmp_path / "unseen.json").write_text(json.dumps(content))
    made = predict(pottery.entry(), entry, test="unseen")
    content, expected = read(made / "predictions.json"), read(expected / "predictions.json")
    assert content == {**expected, "categories": content["categories"]}
    classes = {(c["id"], c["name"], c["isthing"]) for c in pottery.content["categories"]}
    assert {(c["id"], c["name"], c["isthing"]) for c in content["categories"]} == classes
    things = {c["id"] for c in pottery.content["categories"] if c["isthing"]}
    assert {c["id"] for c in read(made / "image_info.json")["categories"]} == things


def test_training_ends_with_predictions_for_a_test_set(train_net, tiny_options, pottery, tmp_path):
    entry = as_test_set(pottery.write(), remove=True)
    options = {
        **tiny_options,
        "DATASETS.CUSTOM": [pottery.entry(), entry],
        "DATASETS.TRAIN": (pottery.name,),
        "DATASETS.TEST": ("unseen", pottery.name),
    }
    outcome = train_net(options=options)
    assert outcome.status == 0, outcome.err
    assert "Nothing was measured on 'unseen'" in outcome.out
    assert (tmp_path / "output" / "model_final.pth").is_file()
    for name in ("unseen", pottery.name):
        folder = tmp_path / "output" / "inference" / name
        assert len(read(folder / "predictions.json")["annotations"]) == 2
    assert "panoptic_seg/PQ" in (tmp_path / "output" / "metrics.json").read_text().replace(
        f"{pottery.name}/", ""
    )


@pytest.mark.parametrize("remove", [True, False])
def test_an_instance_test_set(predict, tmp_path, remove):
    folder = InstanceFolder(tmp_path)
    for _ in range(2):
        folder.add_ordinary()
    folder.write()
    options = {"train": folder.name, "config": INSTANCE_CONFIG}
    measured = predict(folder.entry(), test=folder.name, told=False, **options)
    made = predict(folder.entry(), as_test_set(folder, remove), test="unseen", **options)
    results = read(made / "coco_instances_results.json")
    assert results == read(measured / "coco_instances_results.json")
    assert {r["category_id"] for r in results} <= {folder.CUP, folder.PLATE}


def test_an_instance_test_set_that_detectron2_registers(predict, tmp_path):
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    entry = as_test_set(folder.write(), remove=True)
    register_coco_instances("unseen", {}, entry["INSTANCES_JSON"], entry["IMAGE_ROOT"])
    made = predict(folder.entry(), test="unseen", config=INSTANCE_CONFIG)
    assert {r["image_id"] for r in read(made / "coco_instances_results.json")} == {1}


@pytest.mark.parametrize("labels", ["absent", "no text", "an empty folder"])
def test_a_semantic_test_set(predict, tmp_path, labels):
    folder = SemanticFolder(tmp_path)
    for name in ("a", "b"):
        folder.add(name, np.zeros((40, 64), np.uint8))
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    (tmp_path / "empty" / ".keep").touch()
    entry = {**folder.entry(), "NAME": "unseen"}
    del entry["LABEL_ROOT"]
    if labels != "absent":
        entry["LABEL_ROOT"] = "" if labels == "no text" else str(tmp_path / "empty")
    options = {"config": SEMANTIC_CONFIG, **SMALL_HEAD}
    measured = predict(folder.entry(), test=folder.name, told=False, **options)
    made = predict(folder.entry(), entry, test="unseen", **options)
    kept = read(made / "sem_seg_predictions.json")
    assert kept == read(measured / "sem_seg_predictions.json")
    assert not (made / "sem_seg_evaluation.pth").exists()


# ------------------------------------------------------------------------- registered in Python


def images_alone(tmp_path, **more):
    """Register two images by their file names alone."""
    for name in ("b", "a"):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in ("b", "a")]
    DatasetCatalog.register("unseen", lambda: [{"file_name": f, **more} for f in files])
    return files


def test_file_names_are_enough_for_a_panoptic_model(predict, pottery, tmp_path):
    files = images_alone(tmp_path)
    before = MetadataCatalog.get("unseen").as_dict()
    folder = predict(pottery.write().entry(), test="unseen")
    content = read(folder / "predictions.json")
    assert content["images"] == [
        {"id": i, "file_name": f, "width": 64, "height": 40} for i, f in enumerate(files, 1)
    ]
    assert [(a["image_id"], a["file_name"]) for a in content["annotations"]] == [
        (1, "b.png"),
        (2, "a.png"),
    ]
    assert sorted(map(str, content["categories"])) == sorted(
        map(str, pottery.content["categories"])
    )
    info = read(folder / "image_info.json")
    assert info["images"] == [{"id": i, "file_name": f} for i, f in enumerate(files, 1)]
    results = read(folder / "coco_instances_results.json")
    assert results and {r["category_id"] for r in results} <= {pottery.CUP, pottery.PLATE}
    assert {r["image_id"] for r in results} == {1, 2}
    kept = read(folder / "sem_seg_predictions.json")
    assert {p["file_name"] for p in kept} == set(files)
    assert {p["category_id"] for p in kept} <= {pottery.CUP, pottery.WALL, pottery.PLATE}
    assert MetadataCatalog.get("unseen").as_dict() == before


def test_file_names_are_enough_for_an_instance_model(predict, tmp_path):
    images_alone(tmp_path, image_id=7, annotations=[])
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    made = predict(folder.write().entry(), test="unseen", config=INSTANCE_CONFIG)
    results = read(made / "coco_instances_results.json")
    assert {r["image_id"] for r in results} == {1, 2}, "one id for two images is none"
    assert {r["category_id"] for r in results} <= {folder.CUP, folder.PLATE}


def test_images_that_name_their_classes(predict, tmp_path):
    images_alone(tmp_path)
    MetadataCatalog.get("unseen").thing_classes = ["plate", "cup"]
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    made = predict(folder.write().entry(), test="unseen", config=INSTANCE_CONFIG)
    results = read(made / "coco_instances_results.json")
    assert results and {r["category_id"] for r in results} <= {0, 1}
    assert [c["name"] for c in read(made / "image_info.json")["categories"]] == ["plate", "cup"]


def test_file_names_are_enough_for_a_semantic_model(predict, pottery, tmp_path):
    files = images_alone(tmp_path)
    MetadataCatalog.get("unseen").evaluator_type = None
    options = {"config": SEMANTIC_CONFIG, **SMALL_HEAD}
    folder = predict(pottery.write().entry(), test="unseen", **options)
    kept = read(folder / "sem_seg_predictions.json")
    assert {p["file_name"] for p in kept} == set(files)
    assert {p["category_id"] for p in kept} <= {pottery.CUP, pottery.WALL, pottery.PLATE}


# ---------------------------------------------------------------------------------- some of both


def test_images_without_annotation_in_a_panoptic_json_are_told(train_net, tiny_options, pottery):
    pottery.content["images"].append({"id": 9, "file_name": "9.png", "height": 9, "width": 9})
    pottery.write()
    outcome = train_net("--eval-only", options={**tiny_options, **pottery.options()})
    assert outcome.status == 0, outcome.err
    assert f"1 of 3 images of {pottery.json_file} have no annotation" in outcome.out


def test_images_of_both_kinds(train_net, tiny_options, pottery, tmp_path):
    name = register(pottery)
    unseen = images_alone(tmp_path)[0]
    DatasetCatalog.register(
        "both", lambda: [*DatasetCatalog.get(name), {"file_name": unseen, "image_id": 50}]
    )
    metadata = MetadataCatalog.get(name).as_dict()
    MetadataCatalog.get("both").set(**{k: v for k, v in metadata.items() if k != "name"})
    results = {}
    for test in (name, "both"):
        sets = {"DATASETS.TRAIN": (name,), "DATASETS.TEST": (test,), "SEED": 1}
        outcome = train_net("--eval-only", options={**tiny_options, **sets})
        assert outcome.status == 0, outcome.err
        lines = [line for line in outcome.out.splitlines() if "copypaste" in line]
        results[test] = [line.split("copypaste")[1] for line in lines]
        assert ("1 of 3 images of 'both' have no ground truth" in outcome.out) == (test == "both")
    assert results["both"] == results[name] and results[name]
    folder = tmp_path / "output" / "inference" / "both"
    assert len(read(folder / "predictions.json")["annotations"]) == 3
    instances, labels = (
        read(folder / file) for file in ("coco_instances_results.json", "sem_seg_predictions.json")
    )
    assert 50 in {entry["image_id"] for entry in instances}
    assert unseen in {entry["file_name"] for entry in labels}


def test_nothing_can_be_learned_from_a_test_set(train_net, tiny_options, pottery):
    entry = as_test_set(pottery, remove=True)
    options = {**tiny_options, "DATASETS.CUSTOM": [{**entry, "PANOPTIC_ROOT": str(pottery.pngs)}]}
    options.update({"DATASETS.TRAIN": ("unseen",), "DATASETS.TEST": ("unseen",)})
    assert "'unseen' in DATASETS.TRAIN has images without masks" in (
        train_net(options=options).sentence()
    )


def test_figures_to_compare_with_need_truth(train_net, tiny_options, pottery):
    options = {
        **tiny_options,
        "DATASETS.CUSTOM": [pottery.write().entry(), as_test_set(pottery, remove=True)],
        "DATASETS.TRAIN": (pottery.name,),
        "DATASETS.TEST": ("unseen",),
        "TEST.EXPECTED_RESULTS": [["panoptic_seg", "PQ", 50.0, 1.0]],
    }
    told = train_net("--eval-only", options=options).sentence()
    assert "TEST.EXPECTED_RESULTS []" in told and "'unseen'" in told
