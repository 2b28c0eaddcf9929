"""Loading COCO panoptic data, and choosing the images that are trained on."""

import json
import logging
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from knet.data import load_coco_panoptic_json, panoptic_metadata, register_coco_panoptic
from knet.data.datasets.coco_panoptic import read_panoptic_json
from knet.data.training_images import usable_for_training
from knet.errors import DatasetError, UsageError
from tests.conftest import PanopticFolder
from tests.training_dicts import load_training_dicts


def load(folder):
    """Write the json, read its categories, load it: what registering and training do."""
    folder.write()
    content = read_panoptic_json(str(folder.json_file))
    return load_coco_panoptic_json(
        str(folder.json_file),
        str(folder.images),
        str(folder.pngs),
        panoptic_metadata(content["categories"]),
    )


# ------------------------------------------------------------------------------------- metadata


def test_metadata_keeps_the_order_of_the_json(pottery):
    metadata = panoptic_metadata(pottery.content["categories"])
    assert metadata["thing_classes"] == metadata["stuff_classes"] == ["cup", "wall", "plate"]
    assert metadata["thing_dataset_id_to_contiguous_id"] == {pottery.CUP: 0, pottery.PLATE: 2}
    assert metadata["stuff_dataset_id_to_contiguous_id"] == {pottery.WALL: 1}


def test_colors_are_the_jsons_or_all_different():
    given = [{"id": i, "name": str(i), "isthing": 1, "color": [i, 2, 3]} for i in range(3)]
    assert panoptic_metadata(given)["thing_colors"] == [[0, 2, 3], [1, 2, 3], [2, 2, 3]]
    made = panoptic_metadata([{"id": i, "name": str(i), "isthing": i % 2} for i in range(133)])
    colors = {tuple(color) for color in made["stuff_colors"]}
    assert len(colors) == 133 and all(0 <= v <= 255 for color in colors for v in color)


# -------------------------------------------------------------------------------------- loading


def test_records_have_contiguous_ids_and_the_jsons_sizes(pottery):
    first, second = load(pottery)
    assert (first["height"], first["width"], second["image_id"]) == (40, 64, 2)
    assert first["file_name"] == str(pottery.images / "001.png")
    assert first["pan_seg_file_name"] == str(pottery.pngs / "001.png")
    kinds = {(s["id"], s["category_id"], s["isthing"]) for s in first["segments_info"]}
    assert kinds == {(70000, 1, False), (1, 0, True), (300, 0, True), (5, 2, True)}


def test_the_json_keeps_the_order_of_its_annotations_and_extra_images_are_no_records(pottery):
    pottery.content["annotations"].reverse()
    pottery.content["images"].append({"id": 99, "file_name": "x.png", "height": 1, "width": 1})
    assert [record["image_id"] for record in load(pottery)] == [2, 1]


def test_files_may_lie_in_folders_below(tmp_path):
    folder = PanopticFolder(tmp_path)
    folder.add(np.ones((33, 34), int), {1: (folder.CUP,)}, stem="street/left/1")
    (record,) = load(folder)
    assert record["file_name"].endswith("street/left/1.png")


def test_registering_reads_the_classes_now_and_the_images_later(pottery):
    pottery.write()
    register_coco_panoptic(
        "pots", str(pottery.images), str(pottery.pngs), str(pottery.json_file), "instances.json"
    )
    metadata = MetadataCatalog.get("pots")
    assert metadata.stuff_classes == ["cup", "wall", "plate"]
    assert (metadata.evaluator_type, metadata.json_file) == ("coco_panoptic_seg", "instances.json")
    assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)
    pottery.add_ordinary()
    pottery.write()
    assert len(DatasetCatalog.get("pots")) == 3


# ------------------------------------------------------------------- jsons that cannot be used


@pytest.mark.parametrize(
    "content, mention",
    [
        (b"{not json", "not valid json"),
        (b"", "not valid json"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "not valid json"),
        (b"[]", "images"),
        (b"3", "images"),
        (b"null", "images"),
        (b'{"images": [], "annotations": []}', "no categories"),
        (b'{"annotations": []}', "no images and no categories"),
    ],
    ids=["half", "empty", "a PNG", "a list", "a number", "null", "one key less", "two less"],
)
def test_a_file_that_is_no_panoptic_json_is_named(tmp_path, content, mention):
    path = tmp_path / "panoptic.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=mention) as error:
        read_panoptic_json(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_json_that_is_not_there_is_named(tmp_path, make):
    make(tmp_path / "panoptic.json")
    with pytest.raises(
        DatasetError, match=r"panoptic\.json does not exist: set .*DETECTRON2_DATASETS"
    ):
        read_panoptic_json(str(tmp_path / "panoptic.json"))


def without(key, *path):
    """A change of the json's content: take a key out of the dict that the path leads to."""

    def change(content):
        for step in path:
            content = content[step]
        del content[key]

    return change


def with_value(value, key, *path):
    """A change of the json's content: another value."""

    def change(content):
        for step in path:
            content = content[step]
        content[key] = value

    return change


SEGMENT = ("annotations", 1, "segments_info", 0)
SPOILED = {
    "annotation of no image": (with_value(77, "image_id", "annotations", 1), "image 77"),
    "segment of no category": (with_value(55, "category_id", *SEGMENT), "category 55"),
    "no image": (lambda content: content.update(images=[], annotations=[]), "no images"),
    "category without isthing": (without("isthing", "categories", 0), "isthing"),
    "category without name": (without("name", "categories", 0), "name"),
    "category without id": (without("id", "categories", 0), r"\bid\b"),
    "image without height": (without("height", "images", 1), "height"),
    "image without file_name": (without("file_name", "images", 1), "file_name"),
    "annotation without segments": (without("segments_info", "annotations", 1), "segments_info"),
    "annotation without file_name": (without("file_name", "annotations", 1), "file_name"),
    "segment without category": (without("category_id", *SEGMENT), "category_id"),
    "segment without id": (without("id", *SEGMENT), r"\bid\b"),
    "two categories of one id": (
        lambda content: content["categories"].append({"id": 3, "name": "bowl", "isthing": 1}),
        r"\b3\b",
    ),
    "segment of the id of void": (with_value(0, "id", *SEGMENT), r"id 0 in image 2"),
    "segment of an id beyond a PNG": (with_value(1 << 24, "id", *SEGMENT), r"id 16777216"),
    "two segments of one id": (with_value(300, "id", *SEGMENT), r"\b300\b"),
    "two annotations of one image": (with_value(1, "image_id", "annotations", 1), r"\b1\b"),
}


@pytest.mark.parametrize("change, mention", SPOILED.values(), ids=SPOILED)
def test_a_spoiled_json_is_named_with_what_is_wrong(pottery, change, mention):
    change(pottery.content)
    with pytest.raises(DatasetError) as error:
        load(pottery)
    message = str(error.value)
    assert str(pottery.json_file) in message
    assert re.search(mention, message.replace(str(pottery.json_file.parent), ""))
    assert len(message.splitlines()) == 1


# ------------------------------------------------------------ the same in other notations


@pytest.mark.parametrize("yes, no", [("1", "0"), (True, False), (1.0, 0.0), ("true", "False")])
def test_whether_a_class_is_a_thing_in_other_notations(pottery, yes, no):
    for category in pottery.content["categories"]:
        category["isthing"] = yes if category["isthing"] else no
    pottery.write()
    metadata = panoptic_metadata(read_panoptic_json(str(pottery.json_file))["categories"])
    assert metadata["thing_dataset_id_to_contiguous_id"] == {3: 0, 2: 2}
    assert metadata["stuff_dataset_id_to_contiguous_id"] == {7: 1}


@pytest.mark.parametrize(
    "key, value",
    [
        *(("isthing", value) for value in (None, 2, "thing", [1], "")),
        *(("name", value) for value in (None, True, ["cup"], {})),
        *(("color", value) for value in ("no colour", [1, 2], 7, True)),
    ],
)
def test_a_value_of_a_category_that_means_nothing_is_named(pottery, key, value):
    pottery.content["categories"][1][key] = value
    with pytest.raises(DatasetError) as error:
        read_panoptic_json(str(pottery.write().json_file))
    assert f"the {key} of the category 7 of {pottery.json_file} is {value!r}" in str(error.value)


@pytest.mark.parametrize("key", ["categories", "images", "annotations"])
def test_an_entry_that_is_no_mapping_is_named(pottery, key):
    pottery.content[key][1] = "cup"
    with pytest.raises(DatasetError, match=f"'{key}' of .* is 'cup', which is no mapping"):
        read_panoptic_json(str(pottery.write().json_file))


def test_names_that_are_numbers_are_texts(pottery):
    pottery.content["categories"][1]["name"] = 7
    metadata = panoptic_metadata(read_panoptic_json(str(pottery.write().json_file))["categories"])
    assert metadata["thing_classes"] == ["cup", "7", "plate"]
    pottery.content["categories"][0]["name"] = "7"
    with pytest.raises(DatasetError, match="the name 7"):
        read_panoptic_json(str(pottery.write().json_file))


def test_images_alone_have_no_truth(pottery):
    del pottery.content["annotations"]
    records = load(pottery)
    assert [r["image_id"] for r in records] == [1, 2]
    assert not any({"pan_seg_file_name", "segments_info"} & r.keys() for r in records)


def test_pngs_that_annotations_name_need_a_folder(pottery):
    pottery.write()
    with pytest.raises(UsageError, match="'mine' lacks PANOPTIC_ROOT"):
        register_coco_panoptic("mine", str(pottery.images), None, str(pottery.json_file))


# ------------------------------------------------------------------- which images are trained on


@pytest.fixture
def mixed(tmp_path, tiny_config):
    """A config whose training set has every kind of image, and that set."""
    folder = PanopticFolder(tmp_path, "mixed")
    thing, stuff = np.ones((40, 50), int), {1: (folder.WALL,)}
    folder.add(thing, {1: (folder.CUP,)}, stem="thing")
    folder.add(thing, stuff, stem="stuff")
    folder.add(thing, {1: (folder.CUP, True)}, stem="crowd")
    folder.add(thing * 0, {}, stem="void")
    folder.add(thing[:31], {1: (folder.CUP,)}, stem="low")
    folder.add(thing[:, :32], {1: (folder.CUP,)}, stem="just_wide_enough")
    folder.write()
    tiny_config.DATASETS.TRAIN = ("mixed",)
    register_coco_panoptic("mixed", str(folder.images), str(folder.pngs), str(folder.json_file))
    return tiny_config, folder


def stems(records):
    return [record["file_name"].rsplit("/", 1)[1][:-4] for record in records]


def test_images_without_thing_or_too_small_are_left_out_and_told(mixed, caplog):
    cfg, _ = mixed
    with caplog.at_level(logging.INFO, logger="knet"):
        assert stems(load_training_dicts(cfg)) == ["thing", "crowd", "just_wide_enough"]
    lines = [r.getMessage() for r in caplog.records if r.name == "knet.data.training_images"]
    assert len(lines) == 3 and "'mixed': 3 of 6 images" in lines[0]
    assert "2 of 6 images" in lines[1] and "no object" in lines[1] and "stuff.png" in lines[1]
    assert "1 of 6 images" in lines[2] and "below 32" in lines[2] and "low.png" in lines[2]


def test_empty_images_may_be_trained_on(mixed):
    cfg, _ = mixed
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert stems(load_training_dicts(cfg)) == [
        "thing",
        "stuff",
        "crowd",
        "void",
        "just_wide_enough",
    ]


def test_the_least_side_is_a_key(mixed):
    cfg, _ = mixed
    cfg.DATALOADER.MIN_IMAGE_SIDE = 41
    with pytest.raises(DatasetError, match="DATALOADER"):
        load_training_dicts(cfg)
    cfg.DATALOADER.MIN_IMAGE_SIDE = 1
    assert stems(load_training_dicts(cfg)) == ["thing", "crowd", "low", "just_wide_enough"]


def test_when_only_the_side_is_too_small_that_key_is_named(mixed):
    cfg, _ = mixed
    cfg.DATALOADER.MIN_IMAGE_SIDE = 500
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    with pytest.raises(DatasetError, match=r"DATALOADER\.MIN_IMAGE_SIDE"):
        load_training_dicts(cfg)


def test_nothing_left_names_the_data_set_and_the_key(tmp_path, tiny_config):
    folder = PanopticFolder(tmp_path, "walls")
    folder.add(np.ones((40, 50), int), {1: (folder.WALL,)})
    folder.write()
    register_coco_panoptic("walls", str(folder.images), str(folder.pngs), str(folder.json_file))
    tiny_config.DATASETS.TRAIN = ("walls",)
    with pytest.raises(DatasetError, match=r"walls.*DATALOADER\.FILTER_EMPTY_ANNOTATIONS"):
        load_training_dicts(tiny_config)


def test_several_sets_are_trained_on_together(mixed, shapes):
    cfg, _ = mixed
    cfg.DATASETS.TRAIN = ("mixed", shapes.train)
    records = load_training_dicts(cfg)
    assert len(records) > 6 and stems(records[:3]) == ["thing", "crowd", "just_wide_enough"]


def test_sizes_that_detectron2s_loader_drops_are_found_again(mixed):
    cfg, folder = mixed

    def load_as_detectron2_does():
        records = load(folder)
        return [{k: v for k, v in r.items() if k not in ("height", "width")} for r in records]

    DatasetCatalog.remove("mixed")
    DatasetCatalog.register("mixed", load_as_detectron2_does)
    records = load_training_dicts(cfg)
    assert stems(records) == ["thing", "crowd", "just_wide_enough"]
    assert [(r["height"], r["width"]) for r in records] == [(40, 50), (40, 50), (40, 32)]


def test_a_crowd_counts_as_a_thing():
    crowd = {"height": 50, "width": 50, "segments_info": [{"isthing": True, "iscrowd": 1}]}
    assert usable_for_training(crowd, 32, need_thing=True)
    assert not usable_for_training({**crowd, "segments_info": []}, 32, need_thing=True)
    assert usable_for_training({**crowd, "segments_info": []}, 32, need_thing=False)


def test_the_real_training_images_without_a_thing_are_left_out(real_data, tiny_config):
    coco = real_data / "coco"
    json_file = str(coco / "annotations" / "panoptic_train2017.json")
    register_coco_panoptic(
        "real", str(coco / "train2017"), str(coco / "panoptic_train2017"), json_file
    )
    tiny_config.DATASETS.TRAIN = ("real",)
    with open(json_file) as file:
        total = len(json.load(file)["annotations"])
    assert (total, len(load_training_dicts(tiny_config))) == (100, 98)
