"""Which images are trained on: of instance and of semantic data sets (of panoptic ones: see
tests/engine)."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from knet.data.datasets.custom import register_custom_datasets
from knet.data.training_images import (
    load_dicts,
    load_to_check,
    load_training_sets,
    loading_once,
    usable_for_training,
)
from knet.errors import DatasetError, UsageError
from tests.data.datasets.folders import InstanceFolder, SemanticFolder, box
from tests.training_dicts import load_training_dicts


@pytest.fixture
def dishes(tmp_path):
    """Two ordinary images, an empty one, one of crowd alone and a narrow one."""
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    folder.add([])
    folder.add([{"category_id": folder.CUP, "segmentation": box(1, 1, 9, 9), "iscrowd": 1}])
    folder.add([{"category_id": folder.CUP, "segmentation": box(1, 1, 9, 9)}], size=(31, 90))
    folder.add_ordinary()
    return folder.write()


def kept(cfg, folder):
    cfg.DATASETS.CUSTOM = [folder.entry()]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (folder.name,), ()
    register_custom_datasets(cfg)
    return [record["image_id"] for record in load_training_dicts(cfg)]


def test_images_without_annotations_and_small_ones_are_left_out(tiny_config, dishes):
    assert kept(tiny_config, dishes) == [1, 3, 5]
    tiny_config.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert kept(tiny_config, dishes) == [1, 2, 3, 5]
    tiny_config.DATALOADER.MIN_IMAGE_SIDE = 31
    assert kept(tiny_config, dishes) == [1, 2, 3, 4, 5]


def test_when_nothing_is_left_the_sentence_says_why(tiny_config, dishes):
    tiny_config.DATALOADER.MIN_IMAGE_SIDE = 91
    with pytest.raises(DatasetError, match=r"'dishes'.*91 pixels.*DATALOADER\.MIN_IMAGE_SIDE"):
        kept(tiny_config, dishes)


def test_no_data_set_to_train_on(tiny_config):
    tiny_config.DATASETS.TRAIN = ()
    with pytest.raises(UsageError, match=r"DATASETS\.TRAIN is \(\)"):
        load_training_dicts(tiny_config)


def test_of_a_semantic_set_every_image_is_kept(tiny_config, tmp_path):
    folder = SemanticFolder(tmp_path)
    folder.add("all", np.zeros((40, 64), np.uint8))
    folder.add("narrow", np.zeros((20, 64), np.uint8))
    folder.add("unlabelled", np.full((40, 64), 255, np.uint8))
    tiny_config.MODEL.MASK_ON = False
    assert kept(tiny_config, folder) == ["all", "narrow", "unlabelled"]


def test_a_semantic_model_learns_from_panoptic_images_without_things(tiny_config, pottery):
    pottery.add(np.full((40, 64), 1), {1: (pottery.WALL,)})
    pottery.write()
    assert kept(tiny_config, pottery) == [1, 2]
    tiny_config.MODEL.MASK_ON = False
    assert kept(tiny_config, pottery) == [1, 2, 3]


def test_sizes_count_where_the_data_set_tells_them():
    assert usable_for_training({}, 32, False)
    assert not usable_for_training({"height": 31, "width": 99}, 32, False)
    assert not usable_for_training({}, 32, True)
    assert usable_for_training({"annotations": [{"iscrowd": 1}]}, 32, True)
    assert not usable_for_training({"annotations": []}, 32, True)


@pytest.mark.parametrize(
    "record, mask_on, mention",
    [
        ({}, True, "without masks"),
        ({"sem_seg_file_name": "x.png"}, True, "an instance data set"),
        ({"annotations": []}, False, "a semantic data set"),
    ],
)
def test_a_data_set_of_another_kind(tiny_config, record, mask_on, mention):
    DatasetCatalog.register("other", lambda: [{"file_name": "x.jpg", "image_id": 1, **record}])
    MetadataCatalog.get("other")  # as the user would
    tiny_config.DATASETS.TRAIN, tiny_config.MODEL.MASK_ON = ("other",), mask_on
    with pytest.raises(DatasetError, match=r"'other' in DATASETS\.TRAIN.*x\.jpg") as error:
        load_training_dicts(tiny_config)
    assert mention in str(error.value)


def fail(error):
    raise error


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("a.json"),
        KeyError("a.json"),
        ValueError("a.json"),
        AssertionError("a.json"),
        DatasetError("a.json"),
    ],
    ids=repr,
)
def test_what_a_loader_may_raise_becomes_a_sentence(error):
    DatasetCatalog.register("broken", lambda: fail(error))
    with pytest.raises(DatasetError, match=r"a\.json"):
        load_dicts("broken")


def test_a_sentence_of_our_own_stays_as_it_is():
    for error in (UsageError("set A"), DatasetError("mend B")):
        DatasetCatalog.register(str(error), lambda error=error: fail(error))
        with pytest.raises(type(error), match=f"^{error}$"):
            load_dicts(str(error))


def test_a_data_set_of_no_images():
    DatasetCatalog.register("nothing", list)
    with pytest.raises(DatasetError, match="'nothing' has no images"):
        load_dicts("nothing")


def test_a_training_loads_its_images_once(train_net, tiny_options, shapes, monkeypatch):
    loaded, load = [], DatasetCatalog[shapes.train]
    monkeypatch.setitem(
        DatasetCatalog.data, shapes.train, lambda: loaded.append(shapes.train) or load()
    )
    options = {**tiny_options, "DATASETS.TRAIN": (shapes.train,), "DATASETS.TEST": ()}
    assert train_net(options=options).status == 0
    assert loaded == [shapes.train]


def test_what_was_checked_is_taken_once_and_forgotten(shapes, tiny_config):
    tiny_config.DATASETS.TRAIN = (shapes.train,)
    with loading_once():
        checked = load_to_check(shapes.train)
        ((_, first),) = load_training_sets(tiny_config)
        ((_, second),) = load_training_sets(tiny_config)
        load_to_check(shapes.train)
    ((_, third),) = load_training_sets(tiny_config)
    assert first[0] is checked[0]
    assert first == second == third
    assert second[0] is not first[0] and third[0] is not first[0]
