"""docs/troubleshooting.md: what it says the program says, the program says."""

import re

import numpy as np
import pytest

from tests.conftest import REPO

PAGE = (REPO / "docs" / "troubleshooting.md").read_text()
SENTENCES = re.findall(r"^```text\n(.*?)\n```$", PAGE, re.M | re.S)


def is_on_page(sentence: str) -> bool:
    """``...`` on the page stands for anything."""
    patterns = [".*".join(map(re.escape, shown.split("..."))) for shown in SENTENCES]
    return sum(bool(re.fullmatch(pattern, sentence)) for pattern in patterns) == 1


OPTIONS = {
    "the number of classes": {"MODEL.KNET.NUM_THING_CLASSES": 80},
    "a key of another model": {"MODEL.KNET.NUM_QUERIES": 3},
    "data": {"DATASETS.TRAIN": ("coco_2017_train_panoptic",)},
    "NaN": {
        "SOLVER.BASE_LR": 1e30,
        "SOLVER.CLIP_GRADIENTS.ENABLED": False,
        "SOLVER.MAX_ITER": 4,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option(name, train_net, tiny_options):
    outcome = train_net(options={**tiny_options, **OPTIONS[name]})
    assert is_on_page(outcome.sentence()), outcome.sentence()


def trained(train_net, options) -> str:
    """A model of the built-in classes, in the folder of its run."""
    assert train_net(options={**options, "SOLVER.MAX_ITER": 1}).status == 0
    return f"{options['OUTPUT_DIR']}/model_final.pth"


def test_weights_of_other_classes(train_net, tiny_options, pottery, tmp_path):
    weights = trained(train_net, tiny_options)
    pottery.write()
    options = {**tiny_options, **pottery.options(), "OUTPUT_DIR": str(tmp_path / "mine")}
    outcome = train_net(options={**options, "MODEL.WEIGHTS": weights})
    assert is_on_page(outcome.sentence()), outcome.sentence()
    options["MODEL.KNET.WEIGHTS_SKIP_CLASSES"] = True
    assert train_net(options={**options, "MODEL.WEIGHTS": weights}).status == 0


def test_the_folder_of_another_model(train_net, tiny_options):
    trained(train_net, tiny_options)
    outcome = train_net("--resume", options={**tiny_options, "MODEL.KNET.CHANNELS": 32})
    assert is_on_page(outcome.sentence()), outcome.sentence()


def test_a_broken_image(train_net, tiny_options, pottery):
    pottery.write()
    image = pottery.images / "001.png"
    image.write_bytes(image.read_bytes()[:200])
    options = {**tiny_options, **pottery.options()}
    outcome = train_net(options=options)
    assert is_on_page(outcome.sentence()), outcome.sentence()


def test_images_without_objects(train_net, tiny_options, pottery):
    """No image of the batch has an object: losses are finite."""
    pottery.content["annotations"].clear()
    pottery.content["images"].clear()
    for _ in range(2):
        pottery.add(np.full((40, 64), 9), {9: (pottery.WALL,)})
    pottery.write()
    options = {**tiny_options, **pottery.options()}
    options["DATALOADER.FILTER_EMPTY_ANNOTATIONS"] = False
    assert train_net(options=options).status == 0


def test_every_sentence_is_provoked():
    assert len(SENTENCES) == len(OPTIONS) + 3
