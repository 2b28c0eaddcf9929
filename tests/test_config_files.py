"""Configs by name, and published ones as the base of one's own, away from the checkout."""

import pytest
import yaml

from knet.config_files import config_names, find_config
from knet.engine.main import load_config
from knet.errors import UsageError
from tests.conftest import REPO

CONFIGS = REPO / "configs"


@pytest.mark.parametrize(
    "name", ["knet_panoptic", "knet_panoptic.yaml", "configs/knet_panoptic.yaml"]
)
def test_a_published_config_by_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).samefile(CONFIGS / "knet_panoptic.yaml")
    assert load_config(name).MODEL.META_ARCHITECTURE == "KNet"


def test_a_file_of_ones_own_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "knet_panoptic.yaml").write_text("SEED: 7")
    assert load_config("knet_panoptic.yaml").SEED == 7
    (tmp_path / "mine.yaml").write_text("_BASE_: knet_panoptic.yaml")
    assert load_config("mine.yaml").SEED == 7


@pytest.mark.parametrize("base", ["knet_instance_fast.yaml", "coco/panoptic/knet_r50_1x.yaml"])
def test_a_published_config_as_base_of_a_file_anywhere(tmp_path, base):
    """The bases of the base, which it names by where they lie beside it, are found too."""
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"_BASE_": base, "SEED": 7}))
    expected = load_config(str(CONFIGS / base), ["SEED", "7"])
    assert load_config(str(config)) == expected


def test_a_base_that_is_nowhere_is_told(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("_BASE_: knet_nothing.yaml")
    with pytest.raises(UsageError, match=r"knet_nothing\.yaml"):
        load_config(str(config))
    with pytest.raises(UsageError, match="--config-file knet_nothing does not exist"):
        load_config("knet_nothing")
    with pytest.raises(UsageError, match=r"did you mean .*knet_panoptic_fast"):
        load_config("knet_panoptic_fsat.yaml")


def test_names_are_of_files():
    names = config_names()
    assert "coco/panoptic/knet_r50_1x" in names and not any("Base" in name for name in names)
    assert all(find_config(name) for name in names)
