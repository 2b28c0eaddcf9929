"""The model's class order and the data set's: one to the other, for every kind of metadata."""

import json

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import register_coco_instances as d2_register

from knet import add_knet_config
from knet.data import panoptic_metadata
from knet.data.class_layout import ClassLayout, resolve_class_layout, resolve_semantic_classes
from knet.errors import DatasetError, UsageError
from tests.conftest import REPO
from tests.data.datasets.folders import InstanceFolder


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


# ---------------------------------------------------------------------------------- instance sets


@pytest.fixture
def cfg():
    """No data set; class counts from the data."""
    cfg = get_cfg()
    add_knet_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = -1
    return cfg


def register(name, **metadata):
    """As a user does in Python; the data is never loaded."""
    DatasetCatalog.register(name, lambda: pytest.fail("loaded for nothing"))
    MetadataCatalog.get(name).set(**metadata)
    return name


def instance_set(name="balloons", classes=("balloon",), **more):
    return register(name, thing_classes=list(classes), **more)


def panoptic_set(name="rooms", isthing=(1, 0, 1), names="abcdefg", **more):
    categories = [{"id": i, "name": names[i], "isthing": t} for i, t in enumerate(isthing)]
    return register(name, panoptic_root="x", **panoptic_metadata(categories), **more)


def test_thing_classes_alone_are_numbered_from_0(cfg):
    cfg.DATASETS.TRAIN = (instance_set(classes=("balloon", "kite", "bird")),)
    layout = resolve_class_layout(cfg)
    assert (layout.thing_ids, layout.stuff_ids) == ((0, 1, 2), ())


def test_stuff_classes_without_ids_are_no_part_of_an_instance_set():
    """As of Detectron2's cityscapes_fine_instance_seg_*."""
    metadata = MetadataCatalog.get("cityscapes_fine_instance_seg_train")
    layout = ClassLayout.from_metadata(metadata)
    assert (layout.thing_ids, layout.stuff_ids) == (tuple(range(8)), ())


def test_a_set_of_detectron2s_own_registration_is_loaded_once_for_its_classes(cfg, tmp_path):
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    folder.write()
    d2_register("dishes", {}, str(folder.json_file), str(folder.images))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("dishes",)
    assert resolve_class_layout(cfg).thing_ids == (0, 1)
    folder.json_file.unlink()
    assert resolve_class_layout(cfg).thing_ids == (0, 1)


def test_a_set_of_detectron2s_own_registration_that_cannot_be_loaded(cfg, tmp_path):
    d2_register("dishes", {}, str(tmp_path / "absent.json"), str(tmp_path))
    cfg.DATASETS.TRAIN = ("dishes",)
    with pytest.raises(DatasetError, match=r"'dishes' cannot be loaded: .*absent\.json"):
        resolve_class_layout(cfg)


def test_coco_is_not_loaded(cfg, monkeypatch):
    monkeypatch.setattr("knet.data.class_layout.load_dicts", lambda name: pytest.fail(name))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train",), ("coco_2017_val",)
    assert resolve_class_layout(cfg).num_things == 80


@pytest.mark.parametrize("metadata", [{}, {"stuff_classes": ["sky"]}, {"thing_classes": []}])
def test_a_set_without_thing_classes(cfg, metadata):
    cfg.DATASETS.TRAIN = (register("balloons", **metadata),)
    with pytest.raises(UsageError, match=r"'balloons' names no thing classes.*thing_classes"):
        resolve_class_layout(cfg)


@pytest.mark.parametrize(
    "names",
    [
        ("coco_2017_train_panoptic", "coco_2017_val"),
        ("coco_2017_train", "coco_2017_val_panoptic"),
        ("coco_2017_train", "coco_2017_val"),
    ],
)
@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_an_instance_model_takes_both_kinds(cfg, names, split):
    cfg.MODEL.KNET.NUM_STUFF_CLASSES = 0
    cfg.DATASETS.TRAIN = names if split == "TRAIN" else names[:1]
    cfg.DATASETS.TEST = names[1:] if split == "TEST" else ()
    layout = resolve_class_layout(cfg)
    assert (layout.num_things, layout.num_stuff) == (80, 0)


def test_stuff_that_an_instance_model_does_not_use_may_differ(cfg):
    cfg.DATASETS.TRAIN = (panoptic_set(), panoptic_set("gardens", names="aXcdefg"))
    with pytest.raises(UsageError, match="'rooms' and 'gardens' have different classes"):
        resolve_class_layout(cfg)
    cfg.MODEL.KNET.NUM_STUFF_CLASSES = 0
    assert resolve_class_layout(cfg).thing_ids == (0, 2)


def test_a_panoptic_model_is_tested_on_instances_but_does_not_learn_from_them(cfg):
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)
    cfg.DATASETS.TEST = ("coco_2017_val_panoptic", "coco_2017_val")
    assert resolve_class_layout(cfg).num_stuff == 53
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic", "coco_2017_train")
    with pytest.raises(UsageError, match=r"'coco_2017_train' .*NUM_STUFF_CLASSES 0"):
        resolve_class_layout(cfg)


@pytest.mark.parametrize("classes", [("kite",), ("balloon", "kite"), ("kite", "balloon")])
def test_instance_sets_of_other_classes(cfg, classes):
    cfg.DATASETS.TRAIN = (instance_set(),)
    cfg.DATASETS.TEST = (instance_set("more", classes),)
    with pytest.raises(UsageError, match="'balloons' and 'more' have different classes"):
        resolve_class_layout(cfg)


def test_the_same_things_under_other_numbers(cfg):
    cfg.DATASETS.TRAIN = (instance_set(classes=("a", "c")),)
    cfg.DATASETS.TEST = (panoptic_set(),)
    with pytest.raises(UsageError, match=r"differently \(\(0, 1\) and \(0, 2\)\)"):
        resolve_class_layout(cfg)


def test_more_classes_than_labels(cfg):
    """255 marks pixels without class in the label maps that stuff is learned from."""
    names = [f"c{i}" for i in range(300)]
    cfg.DATASETS.TRAIN = (panoptic_set(isthing=[1] * 299 + [0], names=names),)
    with pytest.raises(UsageError, match="'rooms' has more than 255 classes"):
        resolve_class_layout(cfg)
    cfg.MODEL.KNET.NUM_STUFF_CLASSES = 0
    assert resolve_class_layout(cfg).num_things == 299


# ---------------------------------------------------------------------------------- semantic sets


def semantic_set(name="streets", classes=("road", "car"), **more):
    return register(name, stuff_classes=list(classes), **more)


def test_the_classes_of_a_semantic_set(cfg):
    cfg.DATASETS.TRAIN = ("ade20k_sem_seg_train",)
    cfg.DATASETS.TEST = ("ade20k_sem_seg_val",)
    classes = resolve_semantic_classes(cfg)
    assert (classes.num_classes, classes.ignore_label, classes.names[0]) == (150, 255, "wall")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cityscapes_fine_sem_seg_train",), ()
    assert resolve_semantic_classes(cfg).names[:2] == ("road", "sidewalk")


@pytest.mark.parametrize(
    "name, count", [("coco_2017_val_panoptic", 133), ("cityscapes_fine_panoptic_val", 19)]
)
def test_the_classes_of_a_panoptic_set(cfg, name, count):
    cfg.DATASETS.TEST = (name,)
    classes = resolve_semantic_classes(cfg)
    assert classes.num_classes == len(classes.names) == count
    assert classes.names == tuple(MetadataCatalog.get(name).stuff_classes)


def test_the_built_in_shapes_share_their_classes(cfg, shapes):
    cfg.DATASETS.TRAIN = (shapes.train,)
    cfg.DATASETS.TEST = (shapes.val.replace("panoptic", "semantic"),)
    assert resolve_semantic_classes(cfg).names[:3] == ("sky", "disk", "grass")


@pytest.mark.parametrize("count, fits", [(2, True), (-1, True), (3, False), (54, False)])
def test_the_count_of_the_config(cfg, count, fits):
    cfg.DATASETS.TRAIN = (semantic_set(),)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = count
    if fits:
        assert resolve_semantic_classes(cfg).num_classes == 2
        return
    with pytest.raises(UsageError, match=rf"SEM_SEG_HEAD\.NUM_CLASSES is {count}, .*'streets' .*2"):
        resolve_semantic_classes(cfg)


@pytest.mark.parametrize("of_data, of_config", [(255, 255), (0, 255), (None, 200), (65535, 65535)])
def test_the_label_of_pixels_without_class(cfg, of_data, of_config):
    more = {} if of_data is None else {"ignore_label": of_data}
    cfg.DATASETS.TRAIN = (semantic_set(**more),)
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = of_config
    if of_data in (None, of_config):
        assert resolve_semantic_classes(cfg).ignore_label == of_config
        return
    with pytest.raises(UsageError, match=r"IGNORE_VALUE is 255, .*'streets' .*set it to 0"):
        resolve_semantic_classes(cfg)


def test_a_class_is_not_the_label_of_pixels_without_class(cfg):
    cfg.DATASETS.TRAIN = (semantic_set(classes=[f"c{i}" for i in range(256)]),)
    with pytest.raises(UsageError, match="IGNORE_VALUE 255 is also a class, of 256"):
        resolve_semantic_classes(cfg)


def test_without_data_sets_the_count_must_be_given(cfg):
    with pytest.raises(UsageError, match=r"DATASETS\.TRAIN .*MODEL\.SEM_SEG_HEAD\.NUM_CLASSES"):
        resolve_semantic_classes(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    classes = resolve_semantic_classes(cfg)
    assert classes.num_classes == len(classes.names) == 7


def test_semantic_sets_of_other_classes(cfg):
    cfg.DATASETS.TRAIN = (semantic_set(),)
    cfg.DATASETS.TEST = (semantic_set("fields", ("car", "road")),)
    with pytest.raises(UsageError, match="'streets' and 'fields' have different classes"):
        resolve_semantic_classes(cfg)


def test_an_instance_set_names_no_classes_for_every_pixel(cfg):
    cfg.DATASETS.TRAIN = (instance_set(),)
    with pytest.raises(UsageError, match=r"'balloons' names no classes.*stuff_classes"):
        resolve_semantic_classes(cfg)


def test_a_panoptic_set_whose_ids_have_gaps(cfg):
    metadata = {**panoptic_metadata([{"id": 1, "name": "a", "isthing": 1}])}
    metadata["stuff_dataset_id_to_contiguous_id"] = {2: 5}
    cfg.DATASETS.TRAIN = (register("rooms", **metadata),)
    with pytest.raises(UsageError, match=r"'rooms' has the contiguous ids \[0, 5\]"):
        resolve_semantic_classes(cfg)
