"""What an evaluation writes stays in its folder, whatever the data's files are called."""

import os
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from knet.data.datasets.coco_instances import register_coco_instances
from knet.errors import UsageError
from knet.evaluation import (
    InstanceEvaluator,
    PanopticEvaluator,
    SemanticEvaluator,
    inference_folder,
)
from knet.evaluation.outputs import files_elsewhere
from tests.conftest import PanopticFolder
from tests.data.datasets.folders import InstanceFolder, SemanticFolder
from tests.evaluation.conftest import evaluate, panoptic_truth, register


def contents(folder):
    """{path: bytes} of all files below a folder, links followed."""
    walk = os.walk(folder, followlinks=True)
    paths = (os.path.join(parent, name) for parent, _, names in walk for name in names)
    return {path: open(path, "rb").read() for path in paths}


def renamed(folder, name_of):
    """Rename the PNGs of a `PanopticFolder` and what its json calls them.

    Args:
        name_of: old name -> (new name below the PNGs' folder, what the json says).
    """
    for annotation in folder.content["annotations"]:
        old = annotation["file_name"]
        new, annotation["file_name"] = name_of(old)
        (folder.pngs / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder.pngs / old, folder.pngs / new)


NAMES = {
    "absolute": lambda pngs, old: (old, f"{pngs}/{old}"),
    "upward": lambda pngs, old: (old, f"../{pngs.name}/{old}"),
    "upward and elsewhere": lambda pngs, old: (f"../other/{old}", f"../other/{old}"),
    "one name in two folders": lambda pngs, old: (f"{old[:-4]}/1.png", f"{pngs}/{old[:-4]}/1.png"),
    "one name in two folders elsewhere": lambda pngs, old: (
        f"../{old[:-4]}/1.png",
        f"../{old[:-4]}/1.png",
    ),
    "a backslash": lambda pngs, old: (f"a\\{old}", f"a\\{old}"),
    "other endings": lambda pngs, old: ("1.PNG" if "1" in old else "1.png",) * 2,
    "upper and lower case": lambda pngs, old: ("a.png" if "1" in old else "A.png",) * 2,
    "as long as can be": lambda pngs, old: ((251 - len(old)) * "x" + old + ".png",) * 2,
    "a dot": lambda pngs, old: (f"./{old}", f"./{old}"),
}


@pytest.mark.parametrize("name_of", NAMES.values(), ids=NAMES)
def test_a_perfect_prediction_whatever_the_pngs_are_called(pottery, tmp_path, name_of):
    renamed(pottery, lambda old: name_of(pottery.pngs, old))
    name, out = register(pottery), tmp_path / "output" / "inference"
    before = contents(tmp_path)
    records = DatasetCatalog.get(name)
    for _ in range(2):  # the second time over what the first one has written
        evaluator = PanopticEvaluator(name, str(out))
        results = evaluate(evaluator, records, [panoptic_truth(r) for r in records])
        assert results["panoptic_seg"]["PQ"] == 100.0
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    made = [path for path in after if path not in before]
    assert all(path.startswith(f"{out}{os.sep}") for path in made)
    assert sum(path.endswith(".png") for path in made) == len(records)


def test_one_png_for_two_images_has_two_predictions(pottery, tmp_path):
    shutil.copy(pottery.images / "001.png", pottery.images / "002.png")
    for annotation in pottery.content["annotations"]:
        annotation["file_name"] = "001.png"
    name = register(pottery)
    records = DatasetCatalog.get(name)
    evaluator = PanopticEvaluator(name, str(tmp_path / "out"))
    results = evaluate(evaluator, records, [panoptic_truth(r) for r in records])
    assert results["panoptic_seg"]["PQ"] == 100.0
    assert sorted(os.listdir(tmp_path / "out" / "predictions")) == ["001-2.png", "001.png"]


# ---------------------------------------------------------------------------- over what is read


def out_is_the_data(pottery, out):
    shutil.move(pottery.pngs, out / "predictions")
    pottery.pngs = out / "predictions"


def link_to_the_data(pottery, out):
    (out / "predictions").symlink_to(pottery.pngs)


def links_to_files(pottery, out):
    (out / "predictions").mkdir()
    for path in pottery.pngs.iterdir():
        (out / "predictions" / path.name).symlink_to(path)


def hard_links_to_files(pottery, out):
    (out / "predictions").mkdir()
    for path in pottery.pngs.iterdir():
        os.link(path, out / "predictions" / path.name)


def json_of_this_name(pottery, out):
    pottery.json_file = out / "predictions.json"


@pytest.mark.parametrize(
    "arrange",
    [out_is_the_data, link_to_the_data, links_to_files, hard_links_to_files, json_of_this_name],
)
def test_panoptic_truth_is_not_written_over(pottery, tmp_path, arrange):
    out = tmp_path / "out"
    out.mkdir()
    arrange(pottery, out)
    name = register(pottery)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="choose another OUTPUT_DIR"):
        PanopticEvaluator(name, str(out))
    assert contents(tmp_path) == before


def test_instance_truth_is_not_written_over(tmp_path):
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    folder.write()
    path = tmp_path / "coco_instances_results.json"
    shutil.move(folder.json_file, path)
    register_coco_instances("dishes", str(folder.images), str(path))
    with pytest.raises(UsageError, match=r"results\.json .*but is read.*OUTPUT_DIR"):
        InstanceEvaluator("dishes", str(tmp_path))


def test_images_may_be_where_an_evaluation_writes_as_long_as_they_have_other_names(
    pottery, tmp_path
):
    shutil.move(pottery.images, tmp_path / "predictions")
    pottery.images = tmp_path / "predictions"
    for image in pottery.content["images"]:
        shutil.move(pottery.images / image["file_name"], pottery.images / f"i{image['id']}.png")
        image["file_name"] = f"i{image['id']}.png"
    name = register(pottery)
    before = contents(pottery.images)
    records = DatasetCatalog.get(name)
    results = evaluate(
        PanopticEvaluator(name, str(tmp_path)), records, [panoptic_truth(r) for r in records]
    )
    assert results["panoptic_seg"]["PQ"] == 100.0
    assert before.items() <= contents(pottery.images).items()


def test_label_maps_and_images_are_read_too(tmp_path):
    folder = SemanticFolder(tmp_path)
    folder.add("sem_seg_predictions", np.zeros((40, 64), np.uint8))
    record = {"file_name": str(tmp_path / "sem_seg_predictions.json"), "sem_seg_file_name": "x"}
    (tmp_path / "sem_seg_predictions.json").touch()
    DatasetCatalog.register("odd", lambda: [record])
    MetadataCatalog.get("odd").set(stuff_classes=["a"], ignore_label=255)
    with pytest.raises(UsageError, match="but is read"):
        SemanticEvaluator("odd", str(tmp_path))


# ------------------------------------------------------------------------------- from train_net


def test_labels_made_by_an_evaluation_are_not_written_over_by_the_next(
    train_net, tiny_options, pottery, tmp_path
):
    made = tmp_path / "output" / "inference" / pottery.name
    (made / "predictions").mkdir(parents=True)
    labels = PanopticFolder(tmp_path, "labels")
    labels.add_ordinary(2)
    shutil.copytree(labels.pngs, made / "predictions", dirs_exist_ok=True)
    labels.pngs = made / "predictions"
    labels.write()
    options = {
        **tiny_options,
        "DATASETS.CUSTOM": [pottery.write().entry(), labels.entry()],
        "DATASETS.TRAIN": (labels.name,),
        "DATASETS.TEST": (pottery.name,),
    }
    before = contents(made)
    assert "but is read" in train_net(options=options).sentence()
    assert contents(made) == before
    assert not (tmp_path / "output" / "metrics.json").exists()


def test_labels_are_kept_even_if_they_cannot_be_trained_on(
    train_net, tiny_options, pottery, tmp_path
):
    options = {**tiny_options, **pottery.write().options()}
    assert train_net("--eval-only", options=options).status == 0
    made = tmp_path / "output" / "inference" / pottery.name
    shutil.copy(made / "predictions.json", tmp_path / "labels.json")  # without areas
    labels = {
        **pottery.entry(),
        "NAME": "labels",
        "PANOPTIC_ROOT": str(made / "predictions"),
        "PANOPTIC_JSON": str(tmp_path / "labels.json"),
    }
    options["DATASETS.CUSTOM"] = [*options["DATASETS.CUSTOM"], labels]
    options["DATASETS.TRAIN"] = ("labels",)
    before = contents(made)
    assert "but is read" in train_net("--eval-only", options=options).sentence()
    assert contents(made) == before


def test_a_data_set_is_loaded_only_if_its_folders_have_to_do_with_the_output(tmp_path):
    out = tmp_path / "output" / "inference" / "val"
    (out / "predictions").mkdir(parents=True)
    (out / "predictions" / "a.png").touch()
    loaded = []
    for name, metadata in {
        "elsewhere": {"image_root": str(tmp_path / "data"), "json_file": "a.json"},
        "above": {"image_root": str(tmp_path), "json_file": "a.json"},
        "nowhere": {},
        "below": {"panoptic_root": str(out / "predictions")},
    }.items():
        DatasetCatalog.register(name, lambda name=name: loaded.append(name) or [{"file_name": "b"}])
        MetadataCatalog.get(name).set(**metadata)
    files = {name: set(files_elsewhere(name, str(out))) for name in ("elsewhere", "above")}
    assert files == {"elsewhere": {"a.json"}, "above": {"a.json", "b"}} and loaded == ["above"]
    assert list(files_elsewhere("nowhere", str(out))) == ["b"]
    assert list(files_elsewhere("below", str(out))) == [str(out / "predictions" / "a.png")]
    assert loaded == ["above", "nowhere"]


@pytest.mark.parametrize("names", [("a/b", "a_b"), ("val", "VAL")])
def test_two_data_sets_have_two_folders(train_net, tiny_options, pottery, names):
    pottery.write()
    options = {
        **tiny_options,
        "DATASETS.CUSTOM": [{**pottery.entry(), "NAME": name} for name in names],
        "DATASETS.TRAIN": names[:1],
        "DATASETS.TEST": names,
    }
    sentence = train_net("--eval-only", options=options).sentence()
    assert f"'{names[0]}' and '{names[1]}' in DATASETS.TEST would have one folder" in sentence


@pytest.mark.parametrize("name", ["../pottery", "a/b", "/pottery", ".."])
def test_a_data_set_of_any_name_has_its_folder(train_net, tiny_options, pottery, tmp_path, name):
    pottery.name = name
    pottery.write()
    before = set(contents(tmp_path))
    outcome = train_net("--eval-only", options={**tiny_options, **pottery.options()})
    assert outcome.status == 0, outcome.err
    folder = inference_folder(str(tmp_path / "output"), name)
    assert os.path.dirname(folder) == str(tmp_path / "output" / "inference")
    assert "predictions.json" in os.listdir(folder)
    made = set(contents(tmp_path)) - before
    assert all(path.startswith(str(tmp_path / "output")) for path in made)
