"""What a config and its data sets can contradict each other in, found before training."""

import json
import shutil

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco_panoptic import register_coco_panoptic as d2_register
from detectron2.modeling import build_model

from knet.data import panoptic_metadata, register_coco_panoptic
from knet.data.class_layout import resolve_class_layout
from knet.data.datasets.shapes.dataset import register_all_shapes
from knet.data.training_images import load_dicts
from knet.engine.checks import check_config, check_datasets
from knet.engine.main import prepare
from knet.errors import DatasetError, UsageError
from tests.conftest import PanopticFolder
from tests.training_dicts import load_training_dicts


def register(folder, name=None, **metadata):
    """Write the folder's json and register it."""
    folder.write()
    name = name or folder.name
    register_coco_panoptic(name, str(folder.images), str(folder.pngs), str(folder.json_file))
    for key, value in metadata.items():
        MetadataCatalog.get(name).__dict__[key] = value  # set() refuses to change one
    return name


def other_folder(tmp_path, name, categories):
    """A data set of other classes, with one image without segments."""
    folder = PanopticFolder(tmp_path, name)
    folder.content["categories"] = [
        {"id": i, "name": n, "isthing": t} for i, (n, t) in enumerate(categories, start=1)
    ]
    folder.add(np.zeros((40, 40), int), {})
    return folder


# -------------------------------------------------------------------------- resolve_class_layout


def test_counts_come_from_the_data_set(tiny_config):
    layout = resolve_class_layout(tiny_config)
    assert (layout.thing_ids, layout.stuff_ids) == ((1, 3, 5, 6, 8), (0, 2, 4, 7))


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_one_data_set_is_enough(tiny_config, split):
    tiny_config.DATASETS[split] = ()
    assert resolve_class_layout(tiny_config).num_things == 5


def test_right_counts_may_stand_in_the_config(tiny_config):
    tiny_config.MODEL.KNET.NUM_THING_CLASSES = 5
    tiny_config.MODEL.KNET.NUM_STUFF_CLASSES = 4
    assert resolve_class_layout(tiny_config).num_stuff == 4


@pytest.mark.parametrize(
    "key, count, right",
    [
        ("NUM_THING_CLASSES", 9, 5),
        ("NUM_THING_CLASSES", 0, 5),
        ("NUM_STUFF_CLASSES", 1, 4),
        ("NUM_STUFF_CLASSES", -2, 4),
    ],
)
def test_a_contradicting_count_names_key_and_data_set(tiny_config, shapes, key, count, right):
    tiny_config.MODEL.KNET[key] = count
    with pytest.raises(UsageError) as error:
        resolve_class_layout(tiny_config)
    for mention in (f"MODEL.KNET.{key} is {count}", shapes.train, f"set it to {right}"):
        assert mention in str(error.value)


def test_no_stuff_classes_on_panoptic_data_make_an_instance_model(tiny_config):
    tiny_config.MODEL.KNET.NUM_STUFF_CLASSES = 0
    layout = resolve_class_layout(tiny_config)
    assert (layout.thing_ids, layout.stuff_ids) == ((1, 3, 5, 6, 8), ())


def test_without_a_data_set_the_config_says_the_counts(tiny_config):
    tiny_config.DATASETS.TRAIN = tiny_config.DATASETS.TEST = ()
    with pytest.raises(UsageError, match=r"DATASETS\.TRAIN.*MODEL\.KNET\.NUM_THING_CLASSES"):
        resolve_class_layout(tiny_config)
    tiny_config.MODEL.KNET.NUM_THING_CLASSES = 3
    with pytest.raises(UsageError, match=r"MODEL\.KNET\.NUM_STUFF_CLASSES"):
        resolve_class_layout(tiny_config)
    tiny_config.MODEL.KNET.NUM_STUFF_CLASSES = 2
    layout = resolve_class_layout(tiny_config)
    assert (layout.thing_ids, layout.stuff_ids) == ((0, 1, 2), (3, 4))


def test_train_and_test_of_different_kinds_of_classes(tiny_config, tmp_path, shapes):
    register(other_folder(tmp_path, "pets", [("cat", 1), ("lawn", 0)]))
    tiny_config.DATASETS.TEST = ("pets",)
    with pytest.raises(UsageError) as error:
        resolve_class_layout(tiny_config)
    for mention in (shapes.train, "'pets'", "DATASETS.TRAIN", "DATASETS.TEST"):
        assert mention in str(error.value)


def test_train_and_test_of_as_many_but_other_classes(tiny_config, tmp_path):
    register(other_folder(tmp_path, "pets", [("cat", 1), ("lawn", 0)]))
    register(other_folder(tmp_path, "cars", [("car", 1), ("road", 0)]))
    tiny_config.DATASETS.TRAIN, tiny_config.DATASETS.TEST = ("pets",), ("cars",)
    with pytest.raises(UsageError, match="'pets' and 'cars'"):
        resolve_class_layout(tiny_config)


def test_train_and_test_of_the_same_classes_in_another_order(tiny_config, tmp_path):
    register(other_folder(tmp_path, "ab", [("a", 1), ("b", 1)]))
    register(other_folder(tmp_path, "ba", [("b", 1), ("a", 1)]))
    tiny_config.DATASETS.TRAIN, tiny_config.DATASETS.TEST = ("ab",), ("ba",)
    with pytest.raises(UsageError, match="'ab' and 'ba'"):
        resolve_class_layout(tiny_config)


def test_train_and_test_of_equal_classes_but_other_category_ids_work(tiny_config, tmp_path):
    one, two = (other_folder(tmp_path, n, [("cat", 1), ("lawn", 0)]) for n in ("one", "two"))
    for category in two.content["categories"]:
        category["id"] += 40
    tiny_config.DATASETS.TRAIN = (register(one),)
    tiny_config.DATASETS.TEST = (register(two),)
    assert resolve_class_layout(tiny_config).ids == [0, 1]


# ---------------------------------------------------------------------------------- check_config


def test_the_tiny_config_passes(tiny_config):
    check_config(tiny_config)
    check_datasets(tiny_config)


@pytest.mark.parametrize(
    "key, value",
    [
        ("NUM_STAGES", 0),
        ("NUM_KERNELS", 0),
        ("NUM_KERNELS", -5),
        ("NUM_GROUPS", 5),
        ("NUM_GROUPS", 0),
        ("NUM_GROUPS", -4),
        ("KERNEL_UPDATE.NUM_HEADS", 3),
        ("KERNEL_UPDATE.NUM_HEADS", 0),
        ("MASK_STRIDE", 3),
        ("MASK_STRIDE", 16),
        ("MASK_STRIDE", 0),
        ("LOSS.SAMPLED_CELLS", -1),
        ("NECK.STRIDE", 6),
        ("NECK.STRIDE", 12),
        ("NECK.IN_FEATURES", ["p2", "p9"]),
        ("NECK.IN_FEATURES", []),
        ("NECK.NAME", "Nope"),
        ("KERNEL_HEAD.NAME", "Nope"),
        ("KERNEL_UPDATE.NAME", "Nope"),
        ("NECK.INIT", "he"),
        ("NECK.INIT", ""),
        ("KERNEL_HEAD.STUFF_SCORES", True),
        ("LOSS.SEMANTIC", "dice"),
        ("LOSS.SEMANTIC", "cross entropy"),
    ],
)
def test_a_value_that_cannot_work_is_named(tiny_config, key, value):
    tiny_config.merge_from_list([f"MODEL.KNET.{key}", value])
    with pytest.raises(UsageError) as error:
        check_config(tiny_config)
        build_model(tiny_config)  # the parts know more than the check; either may tell
    assert f"MODEL.KNET.{key}" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key, known",
    [("NECK.INIT", ("normal", "msra")), ("LOSS.SEMANTIC", ("focal", "cross_entropy"))],
)
def test_a_choice_of_few_tells_them_all(tiny_config, key, known):
    """Before anything is built; each of them passes."""
    for value in known:
        tiny_config.merge_from_list([f"MODEL.KNET.{key}", value])
        check_config(tiny_config)
    tiny_config.merge_from_list([f"MODEL.KNET.{key}", known[0].upper()])
    with pytest.raises(UsageError) as error:
        check_config(tiny_config)
    for mention in (f"MODEL.KNET.{key} is '{known[0].upper()}'", *known):
        assert mention in str(error.value)


@pytest.mark.parametrize("power", [0.0, 1.0, 4.0])
def test_a_power_of_the_mask_quality_needs_the_mask_quality(tiny_config, power):
    tiny_config.merge_from_list(["MODEL.KNET.TEST.MASK_QUALITY_POWER", power])
    tiny_config.MODEL.KNET.TEST.MASK_QUALITY = True
    check_config(tiny_config)
    tiny_config.MODEL.KNET.TEST.MASK_QUALITY = False
    if power == 1:
        return check_config(tiny_config)
    with pytest.raises(UsageError, match=rf"POWER is {power}, .*TEST\.MASK_QUALITY to True"):
        check_config(tiny_config)


def test_half_precision_needs_a_gpu(tiny_config):
    tiny_config.SOLVER.AMP.ENABLED = True
    with pytest.raises(UsageError, match=r"SOLVER\.AMP\.ENABLED.*False"):
        check_config(tiny_config)
    tiny_config.MODEL.DEVICE = "cuda"
    check_config(tiny_config)


def test_half_precision_where_no_gpu_is_found(tiny_config, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tiny_config.MODEL.DEVICE, tiny_config.SOLVER.AMP.ENABLED = "cuda", True
    with pytest.raises(UsageError, match=r"SOLVER\.AMP\.ENABLED"):
        prepare(tiny_config, num_gpus=1)


# -------------------------------------------------------------------------------- check_datasets


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_a_name_that_is_not_registered(tiny_config, split):
    tiny_config.DATASETS[split] = ("shapse_panoptic_train",)
    with pytest.raises(UsageError, match=rf"DATASETS\.{split} names 'shapse_panoptic_train'"):
        check_datasets(tiny_config)


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
@pytest.mark.parametrize("what", ["images", "pngs", "json_file"])
def test_a_part_that_is_not_there(tiny_config, pottery, split, what):
    tiny_config.DATASETS.TRAIN = tiny_config.DATASETS.TEST = ()
    tiny_config.DATASETS[split] = (register(pottery),)
    check_datasets(tiny_config)
    path = getattr(pottery, what)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetError) as error:
        check_datasets(tiny_config)
    for mention in (str(path), "'pottery'", f"DATASETS.{split}", "DETECTRON2_DATASETS"):
        assert mention in str(error.value)


def test_the_built_in_set_is_written_where_it_is_missing(tmp_path, tiny_config):
    register_all_shapes(str(tmp_path / "new"), prefix="new", scenes={"train": 1, "val": 1})
    tiny_config.DATASETS.TRAIN = ("new_panoptic_train",)
    check_datasets(tiny_config)
    assert (tmp_path / "new" / "shapes" / "train").is_dir()


def test_data_that_nobody_can_evaluate_is_found_before_training(tiny_config, pottery):
    name = register(pottery, evaluator_type="lvis")
    tiny_config.DATASETS.TRAIN = tiny_config.DATASETS.TEST = (name,)
    with pytest.raises(UsageError, match=r"'pottery' in DATASETS\.TEST"):
        prepare(tiny_config, num_gpus=0)


def test_no_data_set_at_all_stops_before_training(tiny_config):
    tiny_config.DATASETS.TRAIN = tiny_config.DATASETS.TEST = ()
    with pytest.raises(UsageError, match=r"DATASETS\.TRAIN"):
        prepare(tiny_config, num_gpus=0)


def test_a_loader_of_detectron2_that_finds_no_image_is_told_in_a_sentence(tmp_path):
    """Detectron2's own panoptic loader asserts; the name of the file is all it says."""
    folder = tmp_path / "coco"
    (folder / "images").mkdir(parents=True)
    (folder / "pngs").mkdir()
    annotation = {"image_id": 1, "file_name": "1.png", "segments_info": []}
    path = folder / "panoptic.json"
    path.write_text(json.dumps({"annotations": [annotation]}))
    metadata = panoptic_metadata([{"id": 1, "name": "a", "isthing": 1}])
    d2_register("no_images", metadata, str(folder / "images"), str(folder / "pngs"), str(path))
    with pytest.raises(DatasetError, match=r"'no_images'.*1\.jpg"):
        load_dicts("no_images")


@pytest.mark.parametrize("workers, right", [(1, True), (2, True), (4, False)])
def test_a_batch_that_the_processes_cannot_share(tiny_config, workers, right):
    tiny_config.SOLVER.IMS_PER_BATCH = 6
    if right:
        check_config(tiny_config, workers)
    else:
        with pytest.raises(UsageError, match=r"SOLVER\.IMS_PER_BATCH 6.*4 processes"):
            check_config(tiny_config, workers)


def test_an_evaluation_without_any_result(tiny_config):
    for kind in ("PANOPTIC", "INSTANCE", "SEMANTIC"):
        tiny_config.MODEL.KNET.TEST[f"{kind}_ON"] = False
    with pytest.raises(UsageError, match=r"MODEL\.KNET\.TEST\.PANOPTIC_ON True"):
        check_datasets(tiny_config)


def test_panopticapi_that_is_not_installed(tiny_config, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps panopticapi-lite"):
        check_datasets(tiny_config)


def test_training_data_of_another_task(tiny_config, shapes):
    tiny_config.DATASETS.TRAIN = (shapes.train.replace("panoptic", "semantic"),)
    with pytest.raises(DatasetError, match="choose a panoptic or an instance data set"):
        load_training_dicts(tiny_config)


def test_masks_are_not_to_be_switched_off(tiny_config):
    tiny_config.MODEL.MASK_ON = False
    with pytest.raises(UsageError, match=r"MODEL\.MASK_ON True"):
        check_config(tiny_config)


def test_a_semantic_model_has_no_masks(tiny_config):
    tiny_config.MODEL.META_ARCHITECTURE = "SemanticKNet"
    with pytest.raises(UsageError, match=r"MODEL\.MASK_ON False"):
        check_config(tiny_config)


def test_deeplab_heads_whose_channels_differ(tiny_config):
    tiny_config.MODEL.META_ARCHITECTURE, tiny_config.MODEL.MASK_ON = "SemanticKNet", False
    head = tiny_config.MODEL.SEM_SEG_HEAD
    head.NAME, head.CONVS_DIM, head.ASPP_CHANNELS = "KNetSemSegHead", 128, 256
    tiny_config.MODEL.KNET.SEMANTIC.BASE_HEAD = "DeepLabV3Head"
    with pytest.raises(UsageError, match=r"CONVS_DIM 128 and ASPP_CHANNELS 256"):
        check_config(tiny_config)
    head.ASPP_CHANNELS = 128
    check_config(tiny_config)


def test_deeplab_plus_heads_project_every_feature_but_the_coarsest(tiny_config):
    tiny_config.MODEL.META_ARCHITECTURE, tiny_config.MODEL.MASK_ON = "SemanticKNet", False
    head = tiny_config.MODEL.SEM_SEG_HEAD
    head.NAME, head.NUM_CLASSES, head.IN_FEATURES = "KNetSemSegHead", -1, ["p2", "p3", "p4"]
    head.CONVS_DIM, head.PROJECT_CHANNELS = 256, [48]
    tiny_config.MODEL.KNET.SEMANTIC.BASE_HEAD = "DeepLabV3PlusHead"
    told = r"SEM_SEG_HEAD\.PROJECT_CHANNELS is \[48\].*IN_FEATURES \['p2', 'p3', 'p4'\] but"
    with pytest.raises(UsageError, match=told):
        check_config(tiny_config)
    head.PROJECT_CHANNELS = [64, 32]
    check_config(tiny_config)
    build_model(tiny_config)


def test_an_instance_model_has_no_rank_loss(tiny_config):
    tiny_config.MODEL.KNET.NUM_STUFF_CLASSES = 0
    assert build_model(tiny_config).criterion.rank_weight == 0
    tiny_config.MODEL.KNET.NUM_STUFF_CLASSES = -1
    assert build_model(tiny_config).criterion.rank_weight > 0
