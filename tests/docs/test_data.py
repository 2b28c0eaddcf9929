"""docs/data.md: the log that it shows is the log, and the keys that it names are keys."""

import logging
import re

import pytest

from knet.data.datasets.custom import register_custom_datasets
from knet.engine.trainer import KNetTrainer
from tests.conftest import REPO
from tests.data.datasets.folders import InstanceFolder, box

PAGE = (REPO / "docs" / "data.md").read_text()


def test_the_log_of_the_page(tiny_config, tmp_path, caplog):
    folder = InstanceFolder(tmp_path)
    folder.add_ordinary()
    folder.add_ordinary()
    cup = {"category_id": folder.CUP, "segmentation": box(1, 1, 9, 9)}
    crowd = {**cup, "iscrowd": 1}
    folder.add([cup, crowd, crowd, {**cup, "segmentation": []}])
    folder.add([])
    tiny_config.DATASETS.CUSTOM = [folder.write().entry()]
    tiny_config.DATASETS.TRAIN, tiny_config.DATASETS.TEST = ("dishes",), ()
    tiny_config.DATALOADER.NUM_WORKERS = 0
    register_custom_datasets(tiny_config)
    with caplog.at_level(logging.INFO, logger="knet"):
        KNetTrainer.build_train_loader(tiny_config)
    names = ("knet.data.training_images", "knet.data.summary_log")
    lines = "\n".join(r.getMessage() for r in caplog.records if r.name in names)
    shown = re.search(r"^```\n(.*?)^```$", PAGE, re.M | re.S).group(1)
    assert lines.replace(str(folder.images), "images") + "\n" == shown


@pytest.mark.parametrize("key", sorted(set(re.findall(r"`([A-Z]+(?:\.[A-Z_]+)+)`", PAGE))))
def test_a_key(tiny_config, key):
    node = tiny_config
    for name in key.split("."):
        node = node[name]
