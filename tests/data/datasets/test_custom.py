"""Data sets that a config describes itself."""

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from knet.data.class_layout import resolve_class_layout, resolve_semantic_classes
from knet.data.datasets.custom import register_custom_datasets
from knet.engine.checks import check_datasets
from knet.engine.main import load_config
from knet.errors import DatasetError, UsageError
from tests.conftest import DEMO_CONFIG, REPO, PanopticFolder, pairs
from tests.data.datasets.folders import InstanceFolder, SemanticFolder


@pytest.fixture
def custom(tiny_config, pottery):
    """A config that trains and evaluates on `pottery`, which it describes itself."""
    pottery.write()
    tiny_config.DATASETS.CUSTOM = [pottery.entry()]
    tiny_config.DATASETS.TRAIN = tiny_config.DATASETS.TEST = (pottery.name,)
    return tiny_config


def test_it_is_registered_under_its_name_as_often_as_one_asks(custom, pottery):
    for _ in range(2):
        register_custom_datasets(custom)
    assert len(DatasetCatalog.get("pottery")) == 2
    metadata = MetadataCatalog.get("pottery")
    assert (metadata.image_root, metadata.json_file) == (str(pottery.images), None)
    layout = resolve_class_layout(custom)
    assert (layout.thing_ids, layout.stuff_ids) == ((0, 2), (1,))


def test_relative_paths_start_at_detectron2_datasets(custom, pottery, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    custom.DATASETS.CUSTOM = [
        {
            "NAME": "pottery",
            "IMAGE_ROOT": "pottery_images",
            "PANOPTIC_ROOT": "pottery_panoptic",
            "PANOPTIC_JSON": "pottery.json",
            "INSTANCES_JSON": "instances.json",
        }
    ]
    check_datasets(custom)
    metadata = MetadataCatalog.get("pottery")
    assert metadata.panoptic_root == str(pottery.pngs)
    assert metadata.json_file == str(tmp_path / "instances.json")


def test_the_command_line_can_describe_it(pottery, tiny_options):
    pottery.write()
    cfg = load_config(DEMO_CONFIG, pairs({**tiny_options, **pottery.options()}))
    check_datasets(cfg)
    assert len(DatasetCatalog.get("pottery")) == 2


def test_what_is_not_used_need_not_be_there(custom, tmp_path):
    custom.DATASETS.CUSTOM.append(PanopticFolder(tmp_path, "absent").entry())
    check_datasets(custom)
    assert "absent" not in DatasetCatalog.list()


@pytest.mark.parametrize(
    "changes, mention",
    [
        ({"PANOPTIC_ROOT": None}, "lacks PANOPTIC_ROOT"),
        ({"NAME": "", "IMAGE_ROOT": ""}, "lacks NAME, IMAGE_ROOT"),
        ({"IMAGE_FOLDER": "x"}, "unknown keys ['IMAGE_FOLDER']"),
    ],
)
def test_an_entry_of_wrong_keys_is_named_with_the_right_ones(custom, pottery, changes, mention):
    custom.DATASETS.CUSTOM = [pottery.entry(**changes)]
    with pytest.raises(UsageError) as error:
        register_custom_datasets(custom)
    assert mention in str(error.value) and "DATASETS.CUSTOM" in str(error.value)
    assert "NAME, IMAGE_ROOT, PANOPTIC_ROOT, PANOPTIC_JSON" in str(error.value)


KEYS = {
    "panoptic": "needs NAME, IMAGE_ROOT, PANOPTIC_ROOT, PANOPTIC_JSON and may have INSTANCES_JSON",
    "instance": "needs NAME, IMAGE_ROOT, INSTANCES_JSON",
    "semantic": "needs NAME, IMAGE_ROOT, LABEL_ROOT, CLASSES and may have IGNORE_LABEL",
}


@pytest.mark.parametrize("entry", ["pottery", 5, ["NAME", "pottery"], None, {"NAME": "pottery"}])
def test_an_entry_that_is_no_mapping_or_of_no_kind(custom, entry):
    custom.DATASETS.CUSTOM = [entry]
    with pytest.raises(UsageError, match=r"DATASETS\.CUSTOM") as error:
        register_custom_datasets(custom)
    assert all(f"{kind} data {keys}" in str(error.value) for kind, keys in KEYS.items())


ANY = {"NAME": "mine", "IMAGE_ROOT": "images"}
SEMANTIC = {**ANY, "LABEL_ROOT": "labels", "CLASSES": ["a", "b"]}


@pytest.mark.parametrize(
    "entry, kind, mention",
    [
        ({"NAME": "mine", "INSTANCES_JSON": "a.json"}, "instance", "lacks IMAGE_ROOT"),
        ({**ANY, "INSTANCES_JSON": "a.json", "THINGS": 1}, "instance", "unknown keys ['THINGS']"),
        ({**ANY, "LABEL_ROOT": "labels"}, "semantic", "lacks CLASSES"),
        ({**ANY, "CLASSES": ["a"]}, "semantic", "lacks LABEL_ROOT"),
        ({**SEMANTIC, "CLASSES": []}, "semantic", "lacks CLASSES"),
        ({**SEMANTIC, "INSTANCES_JSON": "a.json"}, "semantic", "keys ['INSTANCES_JSON']"),
        ({**SEMANTIC, "PANOPTIC_JSON": "a.json"}, "panoptic", "lacks PANOPTIC_ROOT"),
        ({**ANY, "LABEL_ROOT": "labels", "CLASSES": "a, b"}, None, "CLASSES 'a, b'"),
        ({**SEMANTIC, "CLASSES": ["a", "a"]}, None, "different names"),
        ({**SEMANTIC, "CLASSES": [0, 1]}, None, "different names"),
        ({**SEMANTIC, "IGNORE_LABEL": 1}, None, "IGNORE_LABEL 1"),
        ({**SEMANTIC, "IGNORE_LABEL": "255"}, None, "IGNORE_LABEL '255'"),
        ({**SEMANTIC, "LABEL_ROOT": 5}, None, "LABEL_ROOT 5"),
    ],
)
def test_an_entry_of_each_kind_with_a_mistake(custom, entry, kind, mention):
    custom.DATASETS.CUSTOM = [entry]
    with pytest.raises(UsageError, match=r"DATASETS\.CUSTOM \(mine\)") as error:
        register_custom_datasets(custom)
    assert mention in str(error.value)
    assert kind is None or f"{kind} data {KEYS[kind]}" in str(error.value)


def test_an_instance_entry(custom, tmp_path):
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    folder.write()
    custom.DATASETS.CUSTOM = [folder.entry()]
    custom.DATASETS.TRAIN = custom.DATASETS.TEST = (folder.name,)
    layout = resolve_class_layout(custom)
    assert (layout.thing_ids, layout.stuff_ids) == ((0, 1), ())
    metadata = MetadataCatalog.get(folder.name)
    assert (metadata.evaluator_type, metadata.json_file) == ("coco", str(folder.json_file))
    assert (metadata.image_root, metadata.thing_classes) == (str(folder.images), ["plate", "cup"])
    (record,) = DatasetCatalog.get(folder.name)  # Detectron2's loader finds the same classes
    assert [a["category_id"] for a in record["annotations"]] == [1, 0]
    register_again(custom)


def register_again(cfg):
    """As the mapper and the model do; harmless."""
    for _ in range(2):
        register_custom_datasets(cfg)


def test_a_semantic_entry(custom, tmp_path):
    folder = SemanticFolder(tmp_path)
    folder.add_ordinary(3)
    custom.DATASETS.CUSTOM = [folder.entry(IGNORE_LABEL=200)]
    custom.DATASETS.TRAIN = custom.DATASETS.TEST = (folder.name,)
    custom.MODEL.SEM_SEG_HEAD.NUM_CLASSES, custom.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = -1, 200
    classes = resolve_semantic_classes(custom)
    assert (classes.num_classes, classes.ignore_label) == (3, 200)
    assert classes.names == folder.CLASSES
    metadata = MetadataCatalog.get(folder.name)
    assert (metadata.evaluator_type, metadata.ignore_label) == ("sem_seg", 200)
    assert (metadata.image_root, metadata.sem_seg_root) == (str(folder.images), str(folder.labels))
    assert len(metadata.stuff_colors) == 3
    assert len(DatasetCatalog.get(folder.name)) == 3
    register_again(custom)


def test_the_command_line_can_describe_a_semantic_one(tiny_options, tmp_path):
    folder = SemanticFolder(tmp_path)
    folder.add_ordinary(2)
    options = {
        **tiny_options,
        "DATASETS.CUSTOM": [folder.entry()],
        "DATASETS.TRAIN": (folder.name,),
        "DATASETS.TEST": (),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": -1,
    }
    assert resolve_semantic_classes(load_config("", pairs(options))).names == folder.CLASSES


def test_one_mapping_instead_of_a_list_of_them(pottery, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"VERSION": 2, "DATASETS": {"CUSTOM": pottery.entry()}}))
    with pytest.raises(UsageError, match="CUSTOM"):
        load_config(str(path))


def test_the_name_of_a_built_in_set_is_taken(custom, pottery):
    custom.DATASETS.CUSTOM = [pottery.entry(NAME="coco_2017_val_panoptic")]
    custom.DATASETS.TEST = ("coco_2017_val_panoptic",)
    with pytest.raises(UsageError, match=r"'coco_2017_val_panoptic'.*another NAME"):
        register_custom_datasets(custom)


def test_another_entry_of_a_name_that_is_registered(custom, pottery):
    register_custom_datasets(custom)
    custom.DATASETS.CUSTOM = [pottery.entry(IMAGE_ROOT="elsewhere")]
    with pytest.raises(UsageError, match=r"'pottery'.*another NAME"):
        register_custom_datasets(custom)


@pytest.mark.parametrize("key", ["PANOPTIC_JSON", "IMAGE_ROOT", "PANOPTIC_ROOT"])
def test_two_entries_of_one_name_are_refused(custom, pottery, tmp_path, key):
    other = PanopticFolder(tmp_path, "other")
    other.add_ordinary()
    other.write()
    custom.DATASETS.CUSTOM.append(pottery.entry(**{key: other.entry()[key]}))
    with pytest.raises(UsageError, match=r"DATASETS\.CUSTOM.*'pottery'"):
        register_custom_datasets(custom)


def test_its_json_must_be_there(custom, pottery):
    pottery.json_file.unlink()
    with pytest.raises(DatasetError, match=str(pottery.json_file)):
        register_custom_datasets(custom)


def test_the_facade_example(real_data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    cfg = load_config(str(REPO / "configs" / "demo" / "knet_panoptic_facade.yaml"))
    check_datasets(cfg)
    layout = resolve_class_layout(cfg)
    assert (layout.thing_ids, layout.stuff_ids) == ((3, 4), (0, 1, 2))
    assert MetadataCatalog.get("facade_val").json_file.endswith("instances_val.json")
    assert len(DatasetCatalog.get("facade_val")) == 57
