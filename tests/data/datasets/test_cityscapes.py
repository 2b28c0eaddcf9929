"""Detectron2's Cityscapes: what its loaders lack, missing files, and its scripts by any name."""

import importlib
import inspect
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances

from knet.data import KNetDatasetMapper
from knet.data.datasets import cityscapes
from knet.data.datasets.cityscapes import enable_cityscapes_scripts
from knet.data.training_images import load_dicts
from knet.errors import DatasetError, UsageError
from tests.data.datasets.cityscapes_tree import (
    installed_scripts,
    instance_ids,
    register,
    tiny,
    write_split,
)

GT = "cityscapes/gtFine"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "datasets"
    images = {"bonn_000000_000019": instance_ids(), "bonn_000000_000038": instance_ids()}
    for split in ("train", "val"):
        write_split(root, split, images)
    return root


@pytest.fixture
def names(root, monkeypatch):
    """Of the panoptic sets."""
    register(root, monkeypatch)
    return tiny("cityscapes_fine_panoptic_train"), tiny("cityscapes_fine_panoptic_val")


@pytest.fixture
def scripts(tmp_path):
    """A folder of modules with a package of Cityscapes' scripts."""
    with installed_scripts(tmp_path):
        yield tmp_path


def test_the_dicts_have_what_training_and_evaluation_need(names):
    for d in (d for name in names for d in load_dicts(name)):
        assert (d["height"], d["width"]) == (64, 128)
        things = {s["id"]: s["isthing"] for s in d["segments_info"]}
        assert things == {7: 0, 11: 0, 23: 0, 26: 1, 24000: 1, 26000: 1, 26001: 1}
        truth = KNetDatasetMapper(augmentations=[])(d)
        assert truth["instances"].gt_classes.tolist() == [11, 13, 13], "person, cars, not the group"
        masks = truth["instances"].gt_masks.tensor.numpy()
        for mask, i in zip(masks, (24000, 26000, 26001)):
            assert (mask == (instance_ids() == i)).all()
        labels = truth["sem_seg"].numpy()
        assert np.unique(labels[instance_ids() == 4]).tolist() == [255]
        assert np.unique(labels[instance_ids() == 23]).tolist() == [10]


@pytest.mark.parametrize(
    "part, remedy",
    [
        ("cityscapes/leftImg8bit/train", "unpack leftImg8bit_trainvaltest.zip into {}"),
        (GT, "unpack gtFine_trainvaltest.zip into {}"),
        (f"{GT}/cityscapes_panoptic_train.json", "CITYSCAPES_DATASET={} csCreatePanopticImgs"),
        (f"{GT}/cityscapes_panoptic_train", "CITYSCAPES_DATASET={} csCreatePanopticImgs"),
        (
            f"{GT}/train/bonn/bonn_000000_000019_gtFine_labelTrainIds.png",
            "CITYSCAPES_DATASET={} csCreateTrainIdLabelImgs",
        ),
    ],
)
def test_the_sentence_about_a_missing_file_has_the_command(
    root, names, tiny_options, train_net, part, remedy
):
    path = root / part
    path.unlink() if path.is_file() else shutil.rmtree(path)
    outcome = train_net(options={**tiny_options, "DATASETS.TRAIN": names[:1]})
    sentence = outcome.sentence()
    assert str(path) in sentence and remedy.format(root / "cityscapes") in sentence
    with pytest.raises(DatasetError, match=re.escape(remedy.format(root / "cityscapes"))):
        load_dicts(names[0])  # who does without train_net.py is told too


def test_a_path_that_detectron2_cannot_load_from(tmp_path, monkeypatch):
    root = tmp_path / "v1.0"
    for split in ("train", "val"):
        write_split(root, split, {"bonn_000000_000019": instance_ids()})
    register(root, monkeypatch)
    with pytest.raises(DatasetError, match="the path has a dot: set DETECTRON2_DATASETS"):
        load_dicts(tiny("cityscapes_fine_panoptic_train"))
    assert load_dicts(tiny("cityscapes_fine_sem_seg_train")), "this it can"


def test_the_adapter_leaves_the_names_as_they_are():
    names = {n for n in DatasetCatalog.list() if n.startswith("cityscapes_fine_")}
    loaders = {name: DatasetCatalog[name] for name in names}
    cityscapes.adapt_cityscapes()
    assert loaders == {name: DatasetCatalog[name] for name in names}, "once is enough"
    assert {f"cityscapes_fine_panoptic_{s}" for s in ("train", "val")} <= names


# ------------------------------------------------------------------------------------ the scripts


def test_without_the_scripts_one_sentence_says_what_to_install(names, monkeypatch):
    monkeypatch.setattr(cityscapes, "SCRIPTS", "no_such_package")
    with pytest.raises(UsageError, match="pip install cityscapesscripts"):
        load_dicts(tiny("cityscapes_fine_instance_seg_val"))
    assert len(load_dicts(tiny("cityscapes_fine_sem_seg_val"))) == 2, "which needs no scripts"


def test_without_shapely_one_sentence_says_what_to_install(names, scripts, monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)  # not found
    with pytest.raises(UsageError, match="pip install shapely"):
        load_dicts(tiny("cityscapes_fine_instance_seg_val"))


@pytest.fixture
def newer_detectron2(scripts, monkeypatch):
    """Detectron2's two modules as they import the scripts since December 2024."""
    package = scripts / "new_d2"
    package.mkdir()
    (package / "__init__.py").touch()
    for user in cityscapes.USERS:
        source = inspect.getsource(importlib.import_module(user))
        source = re.sub(
            r"(from|import) (?:deeplearning\.projects\.cityscapesApi\.)?cityscapesscripts",
            r"\1 deeplearning.projects.cityscapesApi.cityscapesscripts",
            source.replace("from .evaluator", "from detectron2.evaluation.evaluator"),
        )
        (package / f"{user.split('.')[-1]}.py").write_text(source)
    users = tuple(f"new_d2.{user.split('.')[-1]}" for user in cityscapes.USERS)
    monkeypatch.setattr(cityscapes, "USERS", users)
    return [importlib.import_module(user) for user in users]


def test_newer_detectron2_loads_instances_by_the_public_scripts(newer_detectron2, root):
    load = newer_detectron2[0].load_cityscapes_instances
    folders = [str(root / "cityscapes" / part / "val") for part in ("leftImg8bit", "gtFine")]
    with pytest.raises(ModuleNotFoundError, match="deeplearning"):
        load(*folders, from_json=False)
    enable_cityscapes_scripts()
    enable_cityscapes_scripts()  # harmless
    for d in load(*folders, from_json=False):  # in other processes
        crowd = [(a["category_id"], a["iscrowd"]) for a in d["annotations"]]
        assert crowd == [(2, True), (0, False), (2, False), (2, False)]


def test_newer_detectron2_evaluates_by_the_public_scripts(newer_detectron2, names):
    enable_cityscapes_scripts()
    classes = MetadataCatalog.get(names[1]).thing_classes
    empty = Instances((64, 128))
    empty.pred_masks = torch.zeros(1, 64, 128, dtype=torch.bool)
    empty.scores, empty.pred_classes = torch.ones(1), torch.tensor([classes.index("car")])
    output = {"instances": empty, "sem_seg": torch.rand(19, 64, 128)}
    evaluation = newer_detectron2[1]
    results = {}
    for kind in ("CityscapesInstanceEvaluator", "CityscapesSemSegEvaluator"):
        evaluator = getattr(evaluation, kind)(names[1])
        evaluator.reset()
        for d in load_dicts(names[1])[:1]:
            evaluator.process([d], [output])
        results.update(evaluator.evaluate())
    assert results["segm"]["AP"] == 50 and results["sem_seg"]["IoU"] == 50, "one of two images"


def test_nothing_is_entered_where_detectron2_does_not_ask(scripts, monkeypatch):
    monkeypatch.setattr(cityscapes, "USERS", ("json", "re"))
    enable_cityscapes_scripts()
    assert "deeplearning" not in sys.modules
