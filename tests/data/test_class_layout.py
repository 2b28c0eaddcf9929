"""The model's class order and the data set's: one to the other, for every kind of metadata."""

import json

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from knet.data import panoptic_metadata
from knet.data.class_layout import ClassLayout
from knet.errors import UsageError
from tests.conftest import REPO


def layout_of(*isthing, ids=None):
    """The layout of panoptic categories with these kinds, in this order."""
    ids = ids or range(10, 10 + len(isthing))
    categories = [{"id": i, "name": f"c{i}", "isthing": t} for i, t in zip(ids, isthing)]
    return ClassLayout.from_metadata(Metadata(name="some_set", **panoptic_metadata(categories)))


@pytest.mark.parametrize(
    "isthing, things, stuff",
    [
        ((0, 1, 0, 1, 1, 0), (1, 3, 4), (0, 2, 5)),
        ((0, 0, 0, 1, 1), (3, 4), (0, 1, 2)),
        ((1, 1, 0, 0, 0), (0, 1), (2, 3, 4)),
        ((1, 1), (0, 1), ()),
        ((1,), (0,), ()),
    ],
    ids=["interleaved", "stuff first", "things first", "things only", "one class"],
)
def test_things_come_first_and_every_id_finds_its_row(isthing, things, stuff):
    layout = layout_of(*isthing)
    assert (layout.thing_ids, layout.stuff_ids) == (things, stuff)
    assert (layout.num_things, layout.num_stuff) == (len(things), len(stuff))
    ids = torch.arange(len(isthing))
    rows = layout.to_model(ids)
    assert sorted(rows.tolist()) == list(range(len(isthing)))
    assert [layout.ids[row] for row in rows] == ids.tolist()
    assert [bool(t) for t in isthing] == (rows < layout.num_things).tolist()


def test_ids_that_do_not_rise_keep_the_order_of_the_json():
    layout = layout_of(1, 0, 1, ids=(9, 200, 4))
    assert (layout.thing_ids, layout.stuff_ids) == ((0, 2), (1,))


def test_unknown_ids_become_minus_one_whatever_the_shape():
    layout = ClassLayout((1, 4), (0, 6))  # 2, 3, 5 are no classes
    ids = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [255, -1, -300, 10**6]])
    expected = [[2, 0, -1, -1], [1, -1, 3, -1], [-1, -1, -1, -1]]
    assert layout.to_model(ids).tolist() == expected
    assert layout.to_model(ids[:0]).shape == (0, 4)


@pytest.mark.parametrize("things, stuff", [((0, 1), (1, 2)), ((0, 0), ()), ((-1, 0), (1,))])
def test_ids_that_overlap_or_are_negative_are_refused(things, stuff):
    with pytest.raises(UsageError, match="contiguous_id"):
        ClassLayout(things, stuff)


def test_coco_in_the_standard_form():
    layout = ClassLayout.from_metadata(MetadataCatalog.get("coco_2017_val_panoptic"))
    assert layout.thing_ids == tuple(range(80))
    assert layout.stuff_ids == tuple(range(80, 133))


def test_the_rows_of_coco_are_the_authors():
    path = REPO.parent / "shared" / "parity" / "coco_panoptic_classes.json"
    if not path.exists():
        pytest.skip("the authors' class order is not beside the project (../shared/parity)")
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    layout = ClassLayout.from_metadata(metadata)
    ours = [metadata.stuff_classes[i] for i in layout.ids]
    recorded = json.loads(path.read_text())
    theirs = recorded if isinstance(recorded, list) else recorded["CLASSES"]
    assert ours == list(theirs)


def test_coco_instances_have_things_only():
    layout = ClassLayout.from_metadata(MetadataCatalog.get("coco_2017_val"))
    assert (layout.num_things, layout.num_stuff) == (80, 0)


def test_the_separated_form_is_refused_and_the_other_named():
    with pytest.raises(UsageError, match="'coco_2017_val_panoptic' in DATASETS"):
        ClassLayout.from_metadata(MetadataCatalog.get("coco_2017_val_panoptic_separated"))


@pytest.mark.parametrize("isthing", [(), (0, 0)], ids=["no classes", "stuff only"])
def test_a_data_set_without_things_is_refused(isthing):
    with pytest.raises(UsageError, match="'some_set' names no thing classes"):
        layout_of(*isthing)
