"""The built-in shapes data set: what is drawn, what is written, what Detectron2 loads."""

import json
import logging
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from panopticapi.utils import rgb2id
from pycocotools.coco import COCO

from knet.data.datasets.shapes import dataset as shapes
from knet.data.datasets.shapes.classes import CATEGORIES, THING_IDS
from knet.data.datasets.shapes.scene import (
    MIN_STUFF_SHARE,
    MIN_VISIBLE_AREA,
    Scene,
    Segment,
    draw_scene,
)
from knet.errors import DatasetError

SCENES = {"train": 33, "val": 4}  # the train scenes contain a crowd and images without objects
TINY = {"train": 2, "val": 1}
TASKS = ("panoptic", "instance", "semantic")


def register(root, prefix, scenes):
    """Registers under `prefix`; returns a function that takes the names out again."""
    shapes.register_all_shapes(str(root), prefix, scenes)

    def remove():
        for task in TASKS:
            for split in scenes:
                DatasetCatalog.remove(f"{prefix}_{task}_{split}")
                MetadataCatalog.remove(f"{prefix}_{task}_{split}")

    return remove


def read_ids(path):
    """(H, W) segment ids of a panoptic PNG, by the official tool."""
    return rgb2id(cv2.imread(path)[..., ::-1])


def read_folder(folder):
    """{relative path: json text or pixels} of a written data set."""
    contents = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if name.endswith(".json"):
                with open(path) as file:
                    content = file.read()
            else:
                content = cv2.imread(path, cv2.IMREAD_UNCHANGED).tobytes()
            contents[os.path.relpath(path, folder)] = content
    return contents


def is_thing(segment):
    return segment.category_id in THING_IDS


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """The prefix of a small data set, registered but not loaded yet."""
    remove = register(tmp_path_factory.mktemp("datasets"), "small_shapes", SCENES)
    yield "small_shapes"
    remove()


@pytest.fixture(scope="module")
def panoptic(prefix):
    """[(dict of the panoptic train set, its ids (H, W))]"""
    dicts = DatasetCatalog.get(f"{prefix}_panoptic_train")
    return [(d, read_ids(d["pan_seg_file_name"])) for d in dicts]


@pytest.fixture(scope="module")
def full():
    """Every scene of the default data set, drawn but not written: {split: [Scene]}."""
    return {
        split: [draw_scene(shapes.scene_seed(split, i)) for i in range(count)]
        for split, count in shapes.SCENES.items()
    }


# --------------------------------------------------------------------------------------- scenes


def test_a_seed_draws_one_scene_only():
    np.random.seed(0)
    first = draw_scene((1, 3))
    np.random.seed(1)  # global state must not matter
    again, other = draw_scene((1, 3)), draw_scene((2, 3))
    assert (first.image == again.image).all()
    assert (first.segment_ids == again.segment_ids).all()
    assert first.segments == again.segments
    assert other.image.shape != first.image.shape or (other.image != first.image).any()


def test_every_scene_is_consistent(full):
    category_ids = {category["id"] for category in CATEGORIES}
    for scene in full["train"] + full["val"]:
        assert scene.image.dtype == np.uint8
        assert scene.image.shape == (*scene.segment_ids.shape, 3)
        ids, areas = np.unique(scene.segment_ids, return_counts=True)
        area = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        area.pop(0, None)
        assert sorted(area) == sorted(segment.id for segment in scene.segments)
        stuff = [segment.category_id for segment in scene.segments if not is_thing(segment)]
        assert len(set(stuff)) == len(stuff)
        for segment in scene.segments:
            assert segment.category_id in category_ids
            least = (
                MIN_VISIBLE_AREA if is_thing(segment) else MIN_STUFF_SHARE * scene.segment_ids.size
            )
            assert area[segment.id] >= least, "a sliver that nobody could learn"
    assert MIN_STUFF_SHARE * 96 * 160 > 200


@pytest.mark.parametrize("split", ["train", "val"])
def test_variety(full, split):
    scenes = full[split]
    share = 1 / len(scenes)
    objects = [sum(is_thing(s) and not s.iscrowd for s in scene.segments) for scene in scenes]
    crowds = sum(any(s.iscrowd for s in scene.segments) for scene in scenes)
    void = [(scene.segment_ids == 0).mean() for scene in scenes]
    sizes = np.array([scene.image.shape[:2] for scene in scenes])

    assert 0.03 < objects.count(0) * share < 0.12
    assert 0.02 < sum(8 <= n <= 13 for n in objects) * share < 0.15
    assert sum(1 <= n <= 8 for n in objects) * share > 0.8
    assert max(objects) <= 25
    assert 0.03 < crowds * share < 0.2
    assert 0.2 < sum(v > 0.01 for v in void) * share < 0.7
    assert max(void) < 0.5
    assert sizes.min(axis=1).min() >= 96 and sizes.min(axis=1).max() <= 160 and sizes.max() <= 224
    assert sum((sizes % 2).any(axis=1)) * share > 0.5
    assert 0.25 < sum(sizes[:, 0] > sizes[:, 1]) * share < 0.5


@pytest.mark.parametrize("split, least", [("train", 200), ("val", 15)])
def test_every_class_occurs_often_and_none_always(full, split, least):
    images = Counter()
    for scene in full[split]:
        images.update({segment.category_id for segment in scene.segments})
    for category in CATEGORIES:
        assert images[category["id"]] < len(full[split])
        segments = sum(
            segment.category_id == category["id"]
            for scene in full[split]
            for segment in scene.segments
        )
        assert segments >= least, category["name"]


def test_objects_differ_in_scale(full):
    areas = np.array(
        [
            (scene.segment_ids == segment.id).sum()
            for scene in full["val"]
            for segment in scene.segments
            if is_thing(segment) and not segment.iscrowd
        ]
    )
    assert (areas < 100).mean() < 0.05
    assert np.percentile(areas, 95) > 10 * np.percentile(areas, 5)


def test_categories_have_gaps_and_interleave():
    ids = [category["id"] for category in CATEGORIES]
    isthing = [category["isthing"] for category in CATEGORIES]
    assert ids == sorted(ids) and ids != list(range(1, len(ids) + 1))
    assert isthing not in (sorted(isthing), sorted(isthing, reverse=True))
    assert sum(isthing) == 5 and len(ids) == 9


# ------------------------------------------------------------------------------------- encoding


def test_encoding_of_a_scene_made_by_hand():
    ids = np.zeros((4, 5), np.int32)
    ids[:2] = 1  # sky
    ids[1, 1:3] = 2  # a disk
    ids[3, 4] = 3  # a crowd of disks
    segments = [Segment(1, 1, False), Segment(2, 2, False), Segment(3, 2, True)]
    scene = Scene(np.zeros((4, 5, 3), np.uint8), ids, segments)

    semantic = shapes.encode_semantic(scene)
    assert semantic.tolist() == [[0] * 5, [0, 1, 1, 0, 0], [255] * 5, [255] * 5]
    coco_ids, infos = shapes.encode_panoptic(scene)
    assert [info["bbox"] for info in infos] == [[0, 0, 5, 2], [1, 1, 2, 1], [4, 3, 1, 1]]
    assert [info["area"] for info in infos] == [8, 2, 1]
    assert [info["iscrowd"] for info in infos] == [0, 0, 1]
    assert len({info["id"] for info in infos} | {0}) == 4
    assert (coco_ids == 0).sum() == 9
    assert [a["iscrowd"] for a in shapes.encode_instances(coco_ids, infos)] == [0, 1]


# -------------------------------------------------------------------------------------- on disk


def test_panoptic_png_and_json_agree(panoptic):
    assert len(panoptic) == SCENES["train"]
    for record, ids in panoptic:
        assert ids.shape == (record["height"], record["width"])
        assert cv2.imread(record["file_name"]).shape[:2] == ids.shape
        infos = record["segments_info"]
        assert set(np.unique(ids)) - {0} == {info["id"] for info in infos}
        for info in infos:
            rows, columns = np.nonzero(ids == info["id"])
            left, top, width, height = info["bbox"]
            assert info["area"] == len(rows)
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
    assert any(info["iscrowd"] for record, _ in panoptic for info in record["segments_info"])
    assert any((ids == 0).any() for _, ids in panoptic)
    assert any(not any(i["isthing"] for i in record["segments_info"]) for record, _ in panoptic)


@pytest.mark.parametrize("kind", ["panoptic_json", "json_file"])
def test_json_has_all_that_coco_has(prefix, panoptic, kind):
    with open(getattr(MetadataCatalog.get(f"{prefix}_panoptic_train"), kind)) as file:
        content = json.load(file)
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert set(content["images"][0]) == {"id", "file_name", "width", "height"}
    for category in content["categories"]:
        assert set(category) == {"id", "name", "isthing", "supercategory", "color"}


def test_instances_equal_the_panoptic_masks(prefix, panoptic):
    coco = COCO(MetadataCatalog.get(f"{prefix}_instance_train").json_file)
    for record, ids in panoptic:
        things = [info for info in record["segments_info"] if info["isthing"]]
        annotations = coco.imgToAnns[record["image_id"]]
        assert len(annotations) == len(things)
        for annotation, info in zip(annotations, things, strict=True):
            assert (coco.annToMask(annotation) == (ids == info["id"])).all()
            for key in ("area", "bbox", "iscrowd"):
                assert annotation[key] == info[key]
    assert sorted(coco.getCatIds()) == list(THING_IDS)


def test_semantic_map_equals_the_panoptic_classes(prefix, panoptic):
    dicts = DatasetCatalog.get(f"{prefix}_semantic_train")
    assert len(dicts) == len(panoptic)
    for record, (pan, ids) in zip(dicts, panoptic, strict=True):
        assert record["file_name"] == pan["file_name"]
        expected = np.full(ids.shape, 255)
        for info in pan["segments_info"]:
            if not info["iscrowd"]:
                expected[ids == info["id"]] = info["category_id"]
        assert (cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_UNCHANGED) == expected).all()


# ------------------------------------------------------------------------------- for Detectron2


def test_metadata_of_the_three_variants_agrees(prefix):
    names = [category["name"] for category in CATEGORIES]
    pan, ins, sem = (MetadataCatalog.get(f"{prefix}_{task}_val") for task in TASKS)
    assert pan.thing_classes == pan.stuff_classes == sem.stuff_classes == names
    assert [pan.evaluator_type, ins.evaluator_type, sem.evaluator_type] == [
        "coco_panoptic_seg",
        "coco",
        "sem_seg",
    ]
    assert pan.json_file == ins.json_file
    for dataset_id, contiguous_id in ins.thing_dataset_id_to_contiguous_id.items():
        in_panoptic = pan.thing_dataset_id_to_contiguous_id[dataset_id]
        assert ins.thing_classes[contiguous_id] == pan.thing_classes[in_panoptic]


def test_instance_variant_loads_with_contiguous_things(prefix):
    dicts = DatasetCatalog.get(f"{prefix}_instance_val")
    found = {a["category_id"] for record in dicts for a in record["annotations"]}
    assert len(dicts) == SCENES["val"] and found <= set(range(len(THING_IDS)))


def test_ground_truth_against_itself_has_panoptic_quality_100(prefix, panoptic):
    evaluator = COCOPanopticEvaluator(f"{prefix}_panoptic_train")
    evaluator.reset()
    for record, ids in panoptic:
        keys = ("id", "category_id", "isthing")
        segments = [{key: info[key] for key in keys} for info in record["segments_info"]]
        evaluator.process([record], [{"panoptic_seg": (torch.from_numpy(ids), segments)}])
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ"] == pytest.approx(100)
    assert results["PQ_th"] == results["PQ_st"] == pytest.approx(100)


# -------------------------------------------------------------------------- when it is written


def test_writing_twice_gives_the_same_files(tmp_path):
    shapes.ensure_written(str(tmp_path / "a"), TINY)
    shapes.ensure_written(str(tmp_path / "b"), TINY)
    written = read_folder(tmp_path / "a")
    assert written == read_folder(tmp_path / "b")
    assert len(written) == 3 * 3 + 4 + 1


def test_registering_writes_nothing_and_loading_writes_once(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    remove = register("data/sets", "relative_shapes", TINY)  # a relative root, not there yet
    try:
        assert os.listdir(tmp_path) == []
        with caplog.at_level(logging.INFO, logger=shapes.__name__):
            for task in TASKS:
                assert len(DatasetCatalog.get(f"relative_shapes_{task}_train")) == 2
        lines = [r.getMessage() for r in caplog.records if r.name == shapes.__name__]
        assert len(lines) == 1 and "3 scenes" in lines[0] and "shapes" in lines[0]
        assert os.path.exists(MetadataCatalog.get("relative_shapes_panoptic_val").panoptic_json)
    finally:
        remove()


def test_an_interrupted_writer_leaves_nothing_to_mistake(tmp_path, monkeypatch):
    folder, write_split = str(tmp_path / "shapes"), shapes._write_split

    def interrupted(target, split, count):
        write_split(target, split, count)
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_write_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shapes.ensure_written(folder, TINY)
    assert not os.path.exists(folder)

    monkeypatch.setattr(shapes, "_write_split", write_split)
    shapes.ensure_written(folder, TINY)
    assert len(os.listdir(os.path.join(folder, "train"))) == 2
    assert not os.path.exists(tmp_path / ".shapes.tmp")


def test_of_several_writers_one_draws(tmp_path, monkeypatch):
    folder, write_split = str(tmp_path / "shapes"), shapes._write_split
    calls, start = [], threading.Barrier(4)

    def counted(target, split, count):
        calls.append(split)
        write_split(target, split, count)

    def writer():
        start.wait()
        shapes.ensure_written(folder, TINY)
        return read_folder(folder)

    monkeypatch.setattr(shapes, "_write_split", counted)
    with ThreadPoolExecutor(4) as pool:
        seen = [future.result() for future in [pool.submit(writer) for _ in range(4)]]
    assert calls == ["train", "val"]
    assert all(content == seen[0] for content in seen)


def test_an_old_version_is_drawn_anew(tmp_path, monkeypatch):
    folder = tmp_path / "shapes"
    monkeypatch.setattr(shapes, "VERSION", shapes.VERSION - 1)
    shapes.ensure_written(str(folder), TINY)
    (folder / "train" / "of_the_old_version.jpg").touch()
    monkeypatch.undo()
    shapes.ensure_written(str(folder), TINY)
    assert len(os.listdir(folder / "train")) == 2
    assert json.loads((folder / "version.json").read_text())["version"] == shapes.VERSION


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "precious.txt").touch()
    with pytest.raises(DatasetError, match="move it away, or start the program in another folder"):
        shapes.ensure_written(str(tmp_path / "shapes"), TINY)
    assert os.listdir(tmp_path / "shapes") == ["precious.txt"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="start the program in a folder that can be written"):
        shapes.ensure_written(str(tmp_path / "file" / "shapes"), TINY)


def test_data_sets_of_others_are_not_drawn_into(tmp_path, monkeypatch):
    """DETECTRON2_DATASETS may be read-only or shared; scenes that are there are taken."""
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert shapes.shapes_root() == "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert shapes.shapes_root() == "datasets"
    monkeypatch.setattr(shapes, "SCENES", TINY)
    shapes.ensure_written(str(tmp_path / "shapes"), TINY)
    assert shapes.shapes_root() == str(tmp_path)
    monkeypatch.setattr(shapes, "VERSION", shapes.VERSION + 1)
    assert shapes.shapes_root() == "datasets"
