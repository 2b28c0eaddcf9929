"""Data sets that a config describes itself."""

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from knet.data.class_layout import resolve_class_layout
from knet.data.custom import register_custom_datasets
from knet.engine.checks import check_datasets
from knet.engine.main import load_config
from knet.errors import DatasetError, UsageError
from tests.conftest import REPO, PanopticFolder, pairs


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
    cfg = load_config("", pairs({**tiny_options, **pottery.options()}))
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


@pytest.mark.parametrize("entry", ["pottery", 5, ["NAME", "pottery"], None])
def test_an_entry_that_is_no_mapping(custom, entry):
    custom.DATASETS.CUSTOM = [entry]
    with pytest.raises(UsageError, match=r"DATASETS\.CUSTOM"):
        register_custom_datasets(custom)


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
