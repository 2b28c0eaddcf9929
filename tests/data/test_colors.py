"""Colours of classes in many notations, in files and in metadata."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.colormap import colormap

from knet.data import panoptic_metadata
from knet.data.classes import classes_of_metadata
from knet.data.colors import fixed_color, metadata_colors, read_colors
from knet.data.datasets.coco_instances import instance_metadata
from knet.engine.checks import check_datasets
from knet.errors import DatasetError, UsageError
from knet.visualization.colors import class_colors
from knet.visualization.segmentation import Segmentation

JADE = (18, 171, 159)
NOTATIONS = [
    [18, 171, 159],
    (18, 171, 159),
    np.array([18, 171, 159], np.uint8),
    np.array([18.0, 171.0, 159.0]),
    [18.0, 171.2, 158.9],
    [18, 171, 159, 255],
    [18, 171, 159, 0.5],
    ["18", "171", "159"],
    ["18.0", "171", "159"],
    [[18, 171, 159]],
    "#12ab9f",
    "#12AB9F",
    "12ab9f",
    "0x12ab9f",
    "#12ab9f80",
    " #12ab9f ",
    "rgb(18, 171, 159)",
    "rgb(18,171,159)",
    "rgba(18, 171, 159, 0.5)",
    "18, 171, 159",
    "[18, 171, 159]",
    "(18 171 159)",
    {"r": 18, "g": 171, "b": 159},
    {"R": 18, "G": 171, "B": 159, "A": 1},
]


def read(*values):
    return read_colors(values, str)


@pytest.mark.parametrize("value", NOTATIONS, ids=str)
def test_every_notation_of_a_colour(value):
    assert read(value) == [JADE]


@pytest.mark.parametrize(
    "values, expected",
    [
        ([[0.2, 0.4, 0.9]], [(51, 102, 230)]),
        ([(0.2, 0.4, 0.9)], [(51, 102, 230)]),
        (["0.2, 0.4, 0.9"], [(51, 102, 230)]),
        ([{"r": 0.2, "g": 0.4, "b": 0.9}, "#010101"], [(51, 102, 230), (1, 1, 1)]),
        ([["0.2", "0.4", "0.9"]], [(51, 102, 230)]),
        ([np.float32([0.2, 0.4, 1.0])], [(51, 102, 255)]),
        ([[1.0, 1.0, 1.0]], [(255, 255, 255)]),
        ([[1, 1, 1]], [(1, 1, 1)]),
        ([[0, 0, 0]], [(0, 0, 0)]),
        # the notation of one is that of all
        ([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]], [(255, 0, 0), (128, 128, 128)]),
        ([[1, 0, 0], [0.5, 0.5, 0.5], "#010203"], [(255, 0, 0), (128, 128, 128), (1, 2, 3)]),
        ([[1.0, 0.0, 0.0], [255.0, 3.0, 2.0]], [(1, 0, 0), (255, 3, 2)]),
        ([[0.4, 0.4, 0.4, 1.0], [1, 1, 1, 1.0]], [(102, 102, 102), (255, 255, 255)]),
        (
            ["red", "Teal", "#f80", "hsl(0, 100%, 50%)"],
            [(255, 0, 0), (0, 128, 128), (255, 136, 0)] + [(255, 0, 0)],
        ),
        ([None, "", "  ", [1, 2, 3]], [None, None, None, (1, 2, 3)]),
        ([], []),
    ],
)
def test_what_the_numbers_count_to(values, expected):
    assert read(*values) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("no colour", "#12ab9", "#12ab9g", "rgb(1, 2)", "1, 2", "rgb(1, 2, 300)", "1, 2, 3, 4, 5"),
        *([1, 2], [1, 2, 3, 4, 5], [], [1, 2, 256], [1, 2, -1], [1, 2, None], [1, 2, "x"]),
        *([True, True, False], True, 5, 0x12AB9F, {"r": 1, "g": 2}, {}, [1, 2, float("nan")]),
        [[1, 2], [3, 4, 5]],
    ],
    ids=str,
)
def test_what_is_no_colour_is_named(value):
    with pytest.raises(DatasetError, match=r"^1 is .* no colour: write \[r, g, b\]"):
        read([1, 2, 3], value)


# ---------------------------------------------------------------------------------- in metadata


def test_categories_of_python_code_may_have_any_notation():
    categories = [
        {"id": 5, "name": "cup", "isthing": True, "color": "#12ab9f"},
        {"id": 2, "name": "wall", "isthing": "0", "color": None},
        {"id": 7, "name": 7, "isthing": 1.0, "color": (18, 171, 159, 255)},
    ]
    metadata = panoptic_metadata(categories)
    assert metadata["thing_colors"] == [list(JADE), list(fixed_color(1)), list(JADE)]
    assert metadata["thing_classes"] == ["cup", "wall", "7"]
    assert metadata["thing_dataset_id_to_contiguous_id"] == {5: 0, 7: 2}
    assert metadata["stuff_dataset_id_to_contiguous_id"] == {2: 1}
    assert instance_metadata(categories)["thing_colors"][1:] == [list(JADE), list(JADE)]


@pytest.mark.parametrize(
    "colors",
    [
        [JADE, (1, 2, 3)],
        np.array([JADE, (1, 2, 3)]),
        [np.array(JADE) / 255, np.array((1, 2, 3)) / 255],
        ["#12ab9f", "#010203"],
    ],
    ids=["tuples", "an array", "of 0 to 1", "text"],
)
def test_colours_that_were_registered_in_python(colors):
    metadata = MetadataCatalog.get("mine")
    metadata.set(thing_classes=["cup", "plate"], thing_colors=colors)
    assert metadata_colors(metadata, "thing_colors") == [JADE, (1, 2, 3)]
    assert [c.color for c in classes_of_metadata(metadata, [0, 1], True)] == [JADE, (1, 2, 3)]
    segments = [{"category_id": i, "isthing": True} for i in (1, 0)]
    found = Segmentation.from_masks([np.ones((4, 4), bool)] * 2, segments, (4, 4))
    drawn = [tuple(round(255 * part) for part in c) for c in class_colors(found, metadata)]
    assert drawn == [(1, 2, 3), JADE]


def test_detectron2s_palette_is_what_it_is():
    palette = colormap(rgb=True, maximum=255)
    MetadataCatalog.get("mine").set(stuff_colors=palette)
    colors = metadata_colors(MetadataCatalog.get("mine"), "stuff_colors")
    assert np.abs(np.array(colors) - palette).max() <= 0.5
    assert metadata_colors(MetadataCatalog.get("mine"), "thing_colors") == []


def test_a_registered_colour_that_is_none_is_told_before_training(tiny_config, shapes):
    metadata = MetadataCatalog.get("mine")
    metadata.set(thing_colors=[(1, 2, 3), "no colour"])
    with pytest.raises(UsageError, match=r"'mine': thing_colors\[1\] is 'no colour'"):
        metadata_colors(metadata, "thing_colors")
    broken = MetadataCatalog.get(shapes.val).as_dict()
    broken.update(name="broken", stuff_colors=[5])
    DatasetCatalog.register("broken", lambda: DatasetCatalog.get(shapes.val))
    MetadataCatalog.get("broken").set(**broken)
    tiny_config.DATASETS.TEST = ("broken",)
    with pytest.raises(UsageError, match=r"'broken': stuff_colors\[0\] is 5"):
        check_datasets(tiny_config)
