"""COCO instance jsons: classes before loading, and what may be wrong in them."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from knet.data import register_coco_instances
from knet.data.training_images import load_dicts
from knet.errors import DatasetError
from tests.data.datasets.folders import InstanceFolder, box


@pytest.fixture
def dishes(tmp_path):
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    folder.add([{"category_id": folder.PLATE, "segmentation": box(1, 1, 9, 9)}])
    return folder.write()


def register(folder):
    register_coco_instances(folder.name, str(folder.images), str(folder.json_file))


def test_the_classes_known_before_loading_are_those_after_it(dishes):
    register(dishes)
    metadata = MetadataCatalog.get("dishes")
    before = (list(metadata.thing_classes), dict(metadata.thing_dataset_id_to_contiguous_id))
    assert before == (["plate", "cup"], {4: 0, 9: 1})
    records = load_dicts("dishes")
    assert (metadata.thing_classes, metadata.thing_dataset_id_to_contiguous_id) == before
    assert records == load_coco_json(str(dishes.json_file), str(dishes.images), "unregistered")


def test_colours_are_the_categories_own_or_differ(dishes):
    dishes.content["categories"][0]["color"] = [1, 2, 3]
    register(dishes.write())
    plate, cup = MetadataCatalog.get("dishes").thing_colors
    assert cup == [1, 2, 3] != plate and len(plate) == 3


def test_what_is_plain_of_other_notations_is_used(dishes):
    cup, plate = dishes.content["categories"]
    cup.update(name=9, color="#010203", isthing=None)
    plate.update(color=None)
    register(dishes.write())
    metadata = MetadataCatalog.get("dishes")
    records = load_dicts("dishes")
    assert metadata.thing_classes == ["plate", "9"] and metadata.thing_colors[1] == [1, 2, 3]
    assert {a["category_id"] for r in records for a in r["annotations"]} == {0, 1}
    assert list(MetadataCatalog) == [n for n in MetadataCatalog if "as in the json" not in n]


@pytest.mark.parametrize(
    "spoil, mention",
    [
        (lambda c: c.pop("categories"), "has no categories: it must be of COCO's form"),
        (lambda c: c.update(annotations={"1": {}}), "are no list, as COCO's are"),
        (lambda c: c.update(images={"1": {}}), "the 'images' of the instance json"),
        (lambda c: c["categories"].clear(), "has no categories"),
        (lambda c: c["images"].clear(), "has no images"),
        (lambda c: c["categories"][0].pop("name"), "has no name"),
        (lambda c: c["categories"][0].update(name="plate"), "the name plate"),
        (lambda c: c["categories"][0].update(id=4), "the id 4"),
        (lambda c: c["categories"][0].update(name=None), "the name of the category 9"),
        (lambda c: c["categories"][0].update(color="x"), "the color of the category 9"),
        (lambda c: c["images"][0].pop("height"), "has no height"),
        (lambda c: c["images"][0].update(id=2), "the id 2"),
        (lambda c: c["annotations"][0].pop("category_id"), "has no category_id"),
        (lambda c: c["annotations"][0].update(id=2), "the id 2"),
        (lambda c: c["annotations"][0].update(category_id=55), "category 55"),
        (lambda c: c["annotations"][0].update(segments_info=[]), "PANOPTIC_JSON"),
    ],
)
def test_a_json_with_a_mistake(dishes, spoil, mention):
    spoil(dishes.content)
    with pytest.raises(DatasetError) as error:
        register(dishes.write())
    assert str(dishes.json_file) in str(error.value) and mention in str(error.value)


@pytest.mark.parametrize("text", ["{not json", "5", "[]"])
def test_a_json_that_is_none(dishes, text):
    dishes.json_file.write_text(text)
    with pytest.raises(DatasetError, match=str(dishes.json_file)):
        register(dishes)
    dishes.json_file.unlink()
    with pytest.raises(DatasetError, match=f"{dishes.json_file} does not exist"):
        register(dishes)


def test_what_detectron2s_loader_refuses(dishes):
    dishes.content["annotations"][0].update(ignore=1)
    register(dishes.write())
    with pytest.raises(DatasetError, match="'dishes' cannot be loaded"):
        load_dicts("dishes")
