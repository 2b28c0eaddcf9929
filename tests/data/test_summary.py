"""What a training learns from is counted and told before it starts."""

import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from knet.data.datasets.custom import register_custom_datasets
from knet.data.summary import count_objects, count_pixels
from knet.data.summary_log import tell_what_is_learned_from
from knet.engine.main import load_config
from knet.errors import DatasetError, UsageError
from tests.conftest import REPO
from tests.data.datasets.folders import InstanceFolder, SemanticFolder, box
from tests.training_dicts import load_training_dicts


@pytest.fixture
def told(tiny_config, caplog):
    """``told(folder, KEY=value)``: the lines of the log, warnings with a "!" before them."""

    def tell(folder, semantic=False, **keys):
        cfg = tiny_config
        if semantic:
            cfg = load_config(str(REPO / "configs" / "demo" / "knet_semantic_shapes.yaml"))
        cfg.DATASETS.CUSTOM = [folder.entry()]
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (folder.name,), ()
        cfg.merge_from_list([word for pair in keys.items() for word in pair])
        register_custom_datasets(cfg)
        dicts = load_training_dicts(cfg)
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="knet"):
            tell_what_is_learned_from(cfg, dicts)
        return [
            ("!" if r.levelno >= logging.WARNING else "") + r.getMessage()
            for r in caplog.records
            if r.name == "knet.data.summary_log"
        ]

    return tell


def cells(line):
    """{class: the cells of its row} of the table in a line."""
    rows = [[c.strip() for c in row.strip("|").split("|")] for row in line.splitlines()[3:]]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def dishes(tmp_path):
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    folder.add_ordinary()
    return folder


# --------------------------------------------------------------------------------------- objects


def test_objects_of_instances(told, dishes):
    cup = {"category_id": dishes.CUP}
    dishes.add(
        [
            {**cup, "segmentation": box(1, 1, 9, 9), "bbox": [0, 0, 0, 0]},
            {**cup, "segmentation": box(1, 1, 9, 9), "iscrowd": 1},
            {**cup, "segmentation": box(1, 1, 9, 9), "iscrowd": 1},
            {**cup, "segmentation": box(1, 1, 0.5, 9)},
            {**cup, "segmentation": []},
            {**cup, "segmentation": box(1, 70, 9, 9)},
        ]
    )
    first, *others = told(dishes.write())
    assert "3 images with 5 of 10 objects, 2 an image (median), 2 at most" in first
    assert cells(first) == {"plate": ["2", "2"], "cup": ["3", "3"]}
    assert len(others) == 4 and all("003.png" in line for line in others)
    for reason, mark, count in (
        ("crowd", "", 2),
        ("narrower", "", 1),
        ("without a mask", "!", 1),
        ("outside of the image", "!", 1),
    ):
        (line,) = [line for line in others if reason in line]
        assert line.startswith(f"{mark}{count} of 10 objects")


def test_all_boxes_of_zero_drop_nothing(told, dishes):
    for annotation in dishes.content["annotations"]:
        annotation["bbox"] = [0, 0, 0, 0]
    (line,) = told(dishes.write())
    assert "with 4 of 4 objects" in line


@pytest.mark.parametrize(
    "change, reason",
    [({"iscrowd": 1}, "4 of 4 are marked as a crowd"), ({"segmentation": []}, "without a mask")],
)
def test_no_usable_object(told, dishes, change, reason):
    for annotation in dishes.content["annotations"]:
        annotation.update(change)
    with pytest.raises(DatasetError, match=rf"no object .*'dishes'.*{reason}.*001\.png"):
        told(dishes.write())


def test_images_without_any_object(told, tmp_path):
    folder = InstanceFolder(tmp_path)
    folder.add([])
    with pytest.raises(DatasetError, match="there is none"):
        told(folder.write(), **{"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False})


def test_a_class_that_never_occurs_is_named(told, dishes):
    dishes.content["categories"].append({"id": 12, "name": "saucer"})
    (warning,) = [line for line in told(dishes.write()) if line.startswith("!")]
    assert "1 of 3 classes do not occur" in warning and "'saucer'" in warning


def test_more_objects_than_kernels(told, dishes):
    dishes.add([{"category_id": dishes.CUP, "segmentation": box(1, i, 5, 5)} for i in range(9)])
    (warning,) = [line for line in told(dishes.write()) if line.startswith("!")]
    for part in ("1 of 3 images", "9", "003.png", "set MODEL.KNET.NUM_KERNELS to 9"):
        assert part in warning
    assert not [
        line for line in told(dishes, **{"MODEL.KNET.NUM_KERNELS": 9}) if line.startswith("!")
    ]


def test_a_long_list_of_classes_is_a_table_of_several_columns(told, dishes):
    dishes.content["categories"] += [{"id": 20 + i, "name": f"bowl {i}"} for i in range(20)]
    first, warning = told(dishes.write())
    assert len(first.splitlines()) == 3 + 8
    assert "20 of 22 classes" in warning and "'bowl 9' and 10 more" in warning


def test_panoptic_things_and_stuff(told, pottery):
    pottery.add(np.full((40, 64), 1), {1: (pottery.CUP, 1)})
    first, *others = told(pottery.write())
    assert "3 images with 6 of 7 objects, 3 an image (median), 3 at most" in first
    assert cells(first) == {"cup": ["4", "2"], "wall": ["2", "2"], "plate": ["2", "2"]}
    assert len(others) == 1 and others[0].startswith("1 of 7 objects") and "003.png" in others[0]


def test_panoptic_data_of_crowds_alone_teach_stuff(told, pottery):
    for annotation in pottery.content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["iscrowd"] = int(segment["category_id"] != pottery.WALL)
    warnings = [line for line in told(pottery.write()) if line.startswith("!")]
    assert len(warnings) == 1 and "no object" in warnings[0] and "only stuff" in warnings[0]


@pytest.mark.parametrize(
    "segmentation, mention",
    [
        ([[1.0, 2, float("nan"), 4, 5, 6]], "the coordinate nan"),
        ([[1.0, 2, 3, 4e9, 5, 6]], "far outside the image of 64 x 40"),
        ([1.0, 2, 3, 4, 5, 6], "in place of a polygon"),
        ([[[1, 2], [3, 4], [5, 6]], [[1, 2]]], "segmentation"),
        ({"size": [40, 64], "counts": "P"}, "cut off"),
    ],
)
def test_of_data_registered_in_python_the_image_is_named(segmentation, mention):
    record = {"file_name": "bowl.png", "height": 40, "width": 64}
    record["annotations"] = [{"category_id": 0, "segmentation": segmentation}]
    with pytest.raises(DatasetError, match=r"bowl\.png") as error:
        count_objects([record], [0])
    assert mention in str(error.value)


# ---------------------------------------------------------------------------------------- pixels


@pytest.fixture
def shelf(tmp_path):
    folder = SemanticFolder(tmp_path)
    folder.add_ordinary()
    return folder


def test_pixels_of_label_maps(told, shelf):
    (line,) = told(shelf, semantic=True)
    assert "2 images; 10.0 % of the pixels have the label 255" in line
    assert cells(line) == {"wall": ["76.02", "2"], "cup": ["5.86", "2"], "plate": ["8.12", "2"]}


def test_binary_label_maps_of_0_and_255(told, tmp_path):
    folder = SemanticFolder(tmp_path)
    labels = np.zeros((40, 64), np.uint8)
    labels[:10] = 255
    folder.add("a", labels)
    folder.CLASSES = ("ground", "crack")
    (warning,) = [line for line in told(folder, semantic=True) if line.startswith("!")]
    assert "'crack'" in warning and "25.0 % of the pixels have the label 255" in warning


def test_label_maps_that_are_all_ignored(told, tmp_path):
    folder = SemanticFolder(tmp_path)
    folder.add("a", np.full((40, 64), 255, np.uint8))
    with pytest.raises(DatasetError, match=r"every pixel .* 1 images has the label 255"):
        told(folder, semantic=True)


def test_one_class_alone(told, tmp_path):
    folder = SemanticFolder(tmp_path)
    folder.add("a", np.zeros((40, 64), np.uint8))
    folder.CLASSES = ("road",)
    (warning,) = [line for line in told(folder, semantic=True) if line.startswith("!")]
    assert "one class, 'road'" in warning and "background" in warning


def test_a_semantic_model_on_panoptic_data(told, pottery):
    pottery.content["categories"].append({"id": 40, "name": "floor", "isthing": 0})
    line, warning = told(pottery.write(), semantic=True)
    assert cells(line)["cup"] == ["4", "2"] and cells(line)["wall"] == ["2", "2"]
    assert warning.startswith("!") and "'floor'" in warning


def test_of_many_label_maps_some_are_read_from_the_first_to_the_last(tmp_path):
    dicts = []
    for i in range(9):
        name = str(tmp_path / f"{i}.png")
        dicts.append({"sem_seg_file_name": name})
        if i in (0, 4, 8):  # the others do not even exist
            Image.fromarray(np.full((2, 3), i, np.uint8)).save(name)
    counts = count_pixels(dicts, 9, 255, max_label_maps=3)
    assert (counts.images, counts.read, counts.pixels) == (9, 3, 18)
    assert counts.of_class == {0: 6, 4: 6, 8: 6}
    with pytest.raises(DatasetError, match=r"8\.png has the class id 8"):
        count_pixels(dicts, 8, 255, max_label_maps=3)


# -------------------------------------------------------------------------- dicts of Detectron2


def standard_dicts(pottery):
    """Without ``isthing``, as Detectron2's documentation has them."""
    segment = {"id": 1, "category_id": 0, "iscrowd": 0}
    return [
        {"file_name": "a.png", "image_id": 1, "pan_seg_file_name": "a", "segments_info": [segment]}
    ]


def test_what_is_a_thing_may_stand_in_the_metadata(tiny_config, pottery):
    DatasetCatalog.register("mine", lambda: standard_dicts(pottery))
    metadata = MetadataCatalog.get("mine")
    tiny_config.DATASETS.TRAIN = ("mine",)
    with pytest.raises(UsageError, match="'mine' does not tell things from stuff"):
        load_training_dicts(tiny_config)
    metadata.thing_dataset_id_to_contiguous_id = {3: 0}
    metadata.stuff_dataset_id_to_contiguous_id = {7: 1}
    (record,) = load_training_dicts(tiny_config)
    assert record["segments_info"][0]["isthing"] is True
