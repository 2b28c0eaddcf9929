"""What a user can get wrong with a semantic model is told in one sentence, before training."""

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPO

CONFIG = str(REPO / "configs" / "demo" / "knet_semantic_shapes.yaml")
SMALL = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "MODEL.KNET.KERNEL_UPDATE.FEEDFORWARD_CHANNELS": 32,
    "INPUT.CROP.SIZE": [32, 48],
    "INPUT.MIN_SIZE_TRAIN": (40,),
    "INPUT.MIN_SIZE_TEST": 40,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.STEPS": (),
    "TEST.EXPECTED_RESULTS": [],
}


@pytest.fixture
def fields(tmp_path):
    """A semantic data set of two images and three classes, as options of a config."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for stem in ("one", "two"):
        pixels = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{stem}.png")
        labels = rng.integers(0, 3, (40, 56)).astype(np.uint8)
        labels[:4] = 255
        Image.fromarray(labels).save(tmp_path / "labels" / f"{stem}.png")
    entry = {
        "NAME": "fields",
        "IMAGE_ROOT": str(tmp_path / "images"),
        "LABEL_ROOT": str(tmp_path / "labels"),
        "CLASSES": ["crop", "weed", "soil"],
    }
    return {
        **SMALL,
        "DATASETS.CUSTOM": [entry],
        "DATASETS.TRAIN": ("fields",),
        "DATASETS.TEST": ("fields",),
        "OUTPUT_DIR": str(tmp_path / "output"),
    }


@pytest.fixture
def told(train_net, fields):
    """The sentence that these changes lead to."""

    def run(**changes) -> str:
        options = {**fields, **{k.replace("__", "."): v for k, v in changes.items()}}
        return train_net("--num-gpus", "0", config_file=CONFIG, options=options).sentence()

    return run


def test_the_right_input_trains(train_net, fields):
    outcome = train_net("--num-gpus", "0", config_file=CONFIG, options=fields)
    assert outcome.status == 0 and "mIoU" in outcome.out


@pytest.mark.parametrize("base_head", ["SemSegFPNHead", "SemSegUPerHead"])
def test_a_class_count_that_disagrees(told, base_head):
    sentence = told(MODEL__SEM_SEG_HEAD__NUM_CLASSES=4, MODEL__KNET__SEMANTIC__BASE_HEAD=base_head)
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 4" in sentence and "set it to 3" in sentence


def test_an_ignore_label_that_differs(told):
    sentence = told(MODEL__SEM_SEG_HEAD__IGNORE_VALUE=250)
    assert "MODEL.SEM_SEG_HEAD.IGNORE_VALUE is 250" in sentence and "255" in sentence


def test_a_label_map_with_an_id_that_is_no_class(told, tmp_path):
    path = tmp_path / "labels" / "two.png"
    labels = np.array(Image.open(path))
    labels[20, 20] = 7
    Image.fromarray(labels).save(path)
    sentence = told()
    assert str(path) in sentence and "the class id 7" in sentence


def test_a_head_without_a_classifier(told):
    sentence = told(MODEL__KNET__SEMANTIC__CLASSIFIER="p2")
    assert "no 1x1 convolution of 3 outputs" in sentence


def test_a_head_that_is_not_there(told):
    sentence = told(MODEL__KNET__SEMANTIC__BASE_HEAD="FCN")
    assert "MODEL.KNET.SEMANTIC.BASE_HEAD is 'FCN', known are" in sentence


def test_a_head_without_kernel_update_in_the_wrong_place(told):
    sentence = told(MODEL__SEM_SEG_HEAD__NAME="SemSegFPNHead")
    assert "MODEL.KNET.SEMANTIC.BASE_HEAD names the head underneath" in sentence


def test_one_image_at_a_time_cannot_teach_batch_norm(told):
    sentence = told(
        SOLVER__IMS_PER_BATCH=1,
        MODEL__KNET__SEMANTIC__BASE_HEAD="SemSegPSPHead",
    )
    assert "SOLVER.IMS_PER_BATCH to 2 or more" in sentence


def test_instance_data_for_a_semantic_model(told):
    sentence = told(DATASETS__TRAIN=("shapes_instance_train",))
    assert "shapes_instance_train" in sentence
