"""Everything that a user can hand over wrong: it works, or ends in one sentence that says where."""

import gc
import json
import math
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from knet.data import KNetDatasetMapper
from knet.errors import DatasetError, UsageError
from tests.conftest import PanopticFolder

FLAGS = pytest.mark.parametrize("flags", [(), ("--eval-only",)], ids=["train", "eval-only"])


@pytest.fixture
def run_on(train_net, tiny_options):
    """Trains on and evaluates a folder: ``run_on(folder, "--eval-only", {option: value})``."""

    def run(folder, *flags, options=None):
        return train_net(*flags, options={**tiny_options, **folder.options(), **(options or {})})

    return run


def assert_learned(outcome, tmp_path) -> None:
    """It went well, and the loss is a number."""
    assert outcome.status == 0, outcome.err
    lines = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    losses = [r["total_loss"] for r in map(json.loads, lines) if "total_loss" in r]
    assert losses and all(math.isfinite(loss) for loss in losses)


def test_the_data_of_these_tests_works_as_it_is(run_on, pottery, tmp_path):
    assert_learned(run_on(pottery.write()), tmp_path)


# ----------------------------------------------------------------------------- files of the json


@pytest.mark.parametrize("what", ["images", "pngs", "json_file"])
def test_a_part_that_is_not_there(run_on, pottery, what):
    pottery.write()
    path = getattr(pottery, what)
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert str(path) in run_on(pottery).sentence()


@pytest.mark.parametrize("text", ["{not json", "5", '{"images": []}'])
def test_a_json_that_is_none(run_on, pottery, text):
    pottery.json_file.write_text(text)
    assert str(pottery.json_file) in run_on(pottery).sentence()


@pytest.mark.parametrize(
    "spoil, mention",
    [
        (lambda c: c["annotations"][1]["segments_info"][0].update(category_id=55), "category 55"),
        (lambda c: c["annotations"][1].update(image_id=77), "image 77"),
        (lambda c: c["annotations"].clear(), "no annotations"),
        (lambda c: c["categories"].clear(), "pottery"),
        (lambda c: [category.update(isthing=0) for category in c["categories"]], "pottery"),
        (lambda c: c["annotations"][0].pop("segments_info"), "segments_info"),
    ],
    ids=["category", "image", "no annotation", "no category", "no thing class", "no segments_info"],
)
def test_a_json_that_contradicts_itself(run_on, pottery, spoil, mention):
    spoil(pottery.content)
    pottery.write()
    assert mention in run_on(pottery).sentence()


def test_a_mistake_in_the_test_set_is_found_before_training(run_on, pottery, tmp_path):
    other = PanopticFolder(tmp_path, "other")
    other.add_ordinary()
    other.content["annotations"][0]["segments_info"][0]["category_id"] = 55
    other.write()
    options = {
        "DATASETS.CUSTOM": [pottery.entry(), other.entry()],
        "DATASETS.TEST": (other.name,),
    }
    outcome = run_on(pottery.write(), options=options)
    assert str(other.json_file) in outcome.sentence()
    assert "Starting training" not in outcome.out


# ------------------------------------------------------------------------------ images and PNGs


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_image(path):
    path.write_text("I am a web page that says: not found\nError: 404\n")


def empty(path):
    path.write_bytes(b"")


def unlink(path):
    path.unlink()


SPOIL = pytest.mark.parametrize("spoil", [unlink, truncate, no_image, empty])
WHAT = pytest.mark.parametrize("what", ["images", "pngs"])


@WHAT
@SPOIL
def test_training_on_a_file_that_cannot_be_read(run_on, pottery, what, spoil):
    path = getattr(pottery.write(), what) / "002.png"
    spoil(path)
    assert str(path) in run_on(pottery, options={"DATASETS.TEST": ()}).sentence()


@WHAT
@SPOIL
def test_evaluating_a_file_that_cannot_be_read(run_on, pottery, what, spoil):
    path = getattr(pottery.write(), what) / "002.png"
    spoil(path)
    assert str(path) in run_on(pottery, "--eval-only").sentence()


@FLAGS
def test_in_a_loading_worker_the_file_is_named_too(run_on, pottery, flags, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
    path = pottery.write().images / "002.png"
    no_image(path)
    sentence = run_on(pottery, *flags, options={"DATALOADER.NUM_WORKERS": 1}).sentence()
    assert sentence.startswith(f"train_net.py: cannot read the image {path}")
    gc.collect()  # the worker ends now, not in the midst of the next test


def fail_as_a_process(rank, error):
    raise error


@pytest.mark.parametrize("error", [DatasetError("a.png is broken"), UsageError("a.png is wrong")])
def test_in_one_of_several_processes_it_is_the_same(train_net, tiny_options, monkeypatch, error):
    def launch(main_func, num_processes, **kwargs):
        """What Detectron2 does for more than one GPU."""
        torch.multiprocessing.start_processes(
            fail_as_a_process, args=(error,), nprocs=2, start_method="fork"
        )

    monkeypatch.setattr("knet.engine.processes.launch", launch)
    assert train_net(options=tiny_options).sentence() == f"train_net.py: {error}"


@FLAGS
def test_a_png_of_another_size_than_its_image(run_on, pottery, flags):
    pottery.write()
    path = pottery.pngs / "002.png"
    Image.open(path).crop((0, 0, 60, 40)).save(path)
    assert str(path) in run_on(pottery, *flags).sentence()


@FLAGS
def test_an_image_of_another_size_than_its_json_says(run_on, pottery, flags):
    pottery.write()
    path = pottery.images / "002.png"
    Image.open(path).resize((32, 50)).save(path)
    assert str(path) in run_on(pottery, *flags).sentence()


@FLAGS
def test_a_png_with_an_id_that_the_json_does_not_list(run_on, pottery, flags):
    pottery.content["annotations"][1]["segments_info"].pop()  # the plate, id 5
    pottery.write()
    sentence = run_on(pottery, *flags).sentence()
    assert str(pottery.pngs / "002.png") in sentence and "id 5" in sentence


@FLAGS
def test_a_label_map_instead_of_a_panoptic_png(run_on, pottery, flags):
    pottery.write()
    path = pottery.pngs / "001.png"
    Image.fromarray(np.full((40, 64), 7, np.uint8)).save(path)  # one channel: 7, 7, 7 as RGB
    assert str(path) in run_on(pottery, *flags).sentence()


def test_a_segment_of_the_json_without_a_pixel(run_on, pottery, tmp_path):
    for annotation in pottery.content["annotations"]:
        annotation["segments_info"].append(
            {"id": 9999, "category_id": pottery.CUP, "iscrowd": 0, "area": 100}
        )
    assert_learned(run_on(pottery.write()), tmp_path)


# ------------------------------------------------------------- images with little or much in them

EVERY_IMAGE = {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False}


def folder_of(tmp_path, *images):
    """A folder with these (ids, segments)."""
    folder = PanopticFolder(tmp_path)
    for ids, segments in images:
        folder.add(ids, segments)
    return folder.write()


def full(value, size=(40, 64)):
    return np.full(size, value)


def test_images_without_anything(run_on, tmp_path):
    folder = folder_of(tmp_path, (full(0), {}), (full(0), {}))
    assert "FILTER_EMPTY_ANNOTATIONS" in run_on(folder).sentence()
    assert_learned(run_on(folder, options=EVERY_IMAGE), tmp_path)


def test_an_empty_image_beside_others(run_on, pottery, tmp_path):
    pottery.add(full(0), {})
    pottery.write()
    options = {**EVERY_IMAGE, "SOLVER.IMS_PER_BATCH": 3}
    assert_learned(run_on(pottery, options=options), tmp_path)


def test_stuff_alone(run_on, tmp_path):
    folder = folder_of(tmp_path, *[(full(1), {1: (PanopticFolder.WALL,)})] * 2)
    assert "FILTER_EMPTY_ANNOTATIONS" in run_on(folder).sentence()
    assert_learned(run_on(folder, options=EVERY_IMAGE), tmp_path)


def test_crowds_alone(run_on, tmp_path):
    folder = folder_of(tmp_path, *[(full(1), {1: (PanopticFolder.CUP, True)})] * 2)
    assert_learned(run_on(folder), tmp_path)


def test_one_object_that_fills_the_image(run_on, tmp_path):
    folder = folder_of(tmp_path, *[(full(1), {1: (PanopticFolder.CUP,)})] * 2)
    assert_learned(run_on(folder), tmp_path)


def test_objects_of_one_pixel(run_on, tmp_path):
    ids = full(1)
    ids[7, 9], ids[20, 33], ids[39, 63] = 2, 3, 4
    cups = dict.fromkeys((2, 3, 4), (PanopticFolder.CUP,))
    folder = folder_of(tmp_path, *[(ids, {1: (PanopticFolder.WALL,), **cups})] * 2)
    assert_learned(run_on(folder), tmp_path)


def test_more_objects_than_kernels(run_on, tmp_path):
    ids = 1 + np.arange(40)[:, None] // 10 * 4 + np.arange(64) // 16
    cups = {int(i): (PanopticFolder.CUP,) for i in np.unique(ids)}
    assert len(cups) == 16
    folder = folder_of(tmp_path, (ids, cups), (ids, cups))
    assert_learned(run_on(folder, options={"MODEL.KNET.NUM_KERNELS": 2}), tmp_path)


def test_as_many_kernels_as_one(run_on, pottery, tmp_path):
    assert_learned(run_on(pottery.write(), options={"MODEL.KNET.NUM_KERNELS": 1}), tmp_path)


def test_images_of_every_size_in_one_batch(run_on, tmp_path):
    folder = PanopticFolder(tmp_path)
    for size in ((33, 300), (300, 33), (32, 32), (41, 67)):
        folder.add(full(1, size), {1: (folder.CUP,)})
    options = {
        "SOLVER.IMS_PER_BATCH": 4,
        "DATALOADER.ASPECT_RATIO_GROUPING": False,
        "INPUT.MAX_SIZE_TRAIN": 200,
    }
    assert_learned(run_on(folder.write(), options=options), tmp_path)


def test_images_of_one_pixel_if_one_asks_for_them(run_on, tmp_path):
    folder = folder_of(tmp_path, *[(full(1, (1, 1)), {1: (PanopticFolder.CUP,)})] * 2)
    assert_learned(run_on(folder, options={"DATALOADER.MIN_IMAGE_SIDE": 1}), tmp_path)


# -------------------------------------------------------------------------------- tensors by hand


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return build_model(tiny_config)


@pytest.fixture
def batch(tiny_config, shapes):
    """Two model inputs with ground truth, both with objects."""
    mapper = KNetDatasetMapper(tiny_config, is_train=True)
    inputs = [mapper(record) for record in DatasetCatalog.get(shapes.train)]
    return [x for x in inputs if len(x["instances"])][:2]


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_no_numbers(model, batch, training, value):
    model.train(training)
    batch[1]["image"] = batch[1]["image"].float()
    model(batch)  # as floats they are fine
    batch[1]["image"][0, 3, 5] = value
    with pytest.raises(DatasetError, match=r"0000\d+\.jpg has NaN or infinite pixels"):
        model(batch)
    del batch[1]["file_name"]
    with pytest.raises(DatasetError, match="NaN or infinite pixels"):
        model(batch)


@pytest.mark.parametrize("key", ["instances", "sem_seg"])
def test_training_inputs_without_ground_truth_are_named(model, batch, key):
    del batch[1][key]
    with pytest.raises(DatasetError, match=rf"\.jpg has no '{key}'"):
        model(batch)


def test_a_thing_of_a_stuff_class_is_named(model, batch):
    batch[1]["instances"].gt_classes[0] = 2  # grass
    with pytest.raises(DatasetError, match=r"\.jpg has the thing class 2.*DATASETS\.TRAIN"):
        model(batch)


# ------------------------------------------------------------------------------ names in a config


def test_two_data_sets_of_one_name(run_on, pottery, tmp_path):
    other = PanopticFolder(tmp_path, "other")
    other.add_ordinary()
    other.write()
    pottery.write()
    entries = [pottery.entry(), other.entry(NAME=pottery.name)]
    sentence = run_on(pottery, options={"DATASETS.CUSTOM": entries}).sentence()
    assert "'pottery'" in sentence and "DATASETS.CUSTOM" in sentence


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_a_name_that_nobody_registered(run_on, pottery, split):
    options = {f"DATASETS.{split}": ("potery",)}
    sentence = run_on(pottery.write(), options=options).sentence()
    assert f"DATASETS.{split} names 'potery'" in sentence


@FLAGS
@pytest.mark.parametrize(
    "options, mention",
    [
        ({"MODEL.KNET.NUM_GROUPS": 5}, "MODEL.KNET.NUM_GROUPS"),
        ({"MODEL.KNET.NECK.IN_FEATURES": ("p2", "p9")}, "MODEL.KNET.NECK.IN_FEATURES"),
        ({"MODEL.KNET.NUM_THING_CLASSES": 80}, "MODEL.KNET.NUM_THING_CLASSES"),
        ({"SOLVER.AMP.ENABLED": True}, "SOLVER.AMP.ENABLED"),
    ],
    ids=["groups", "feature", "count", "half precision"],
)
def test_keys_that_contradict_each_other(run_on, pottery, flags, options, mention):
    assert mention in run_on(pottery.write(), *flags, options=options).sentence()


def test_a_batch_larger_than_the_data_set(run_on, pottery, tmp_path):
    assert_learned(run_on(pottery.write(), options={"SOLVER.IMS_PER_BATCH": 5}), tmp_path)
