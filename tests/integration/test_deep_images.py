"""Pictures of five channels of 16 bits, from training to the predictor that has its file alone."""

import numpy as np
import pytest
import torch
from PIL import Image

import knet
from knet.data import KNetDatasetMapper
from knet.data.datasets.custom import register_custom_datasets
from knet.data.image_reading import ImageReader
from knet.engine.checks import check_config, check_datasets
from knet.engine.image_checks import check_image_keys, look_at_images
from knet.errors import DatasetError, UsageError
from knet.visualization import draw_predictions
from knet.visualization.training_samples import draw_training_samples
from tests.conftest import pairs

FIVE = {
    "INPUT.FORMAT": "RAW",
    "INPUT.VALUE_RANGE": (0, 4095),
    "MODEL.PIXEL_MEAN": [100.0] * 5,
    "MODEL.PIXEL_STD": [50.0] * 5,
}


def store_as_npy(pottery, channels: int = 5) -> None:
    """Of the same pictures .npy files of 12 bits, and a json that names them."""
    rng = np.random.default_rng(0)
    for image in pottery.content["images"]:
        path = pottery.images / image["file_name"]
        shape = (image["height"], image["width"], channels)
        np.save(path.with_suffix(".npy"), rng.integers(0, 4096, shape, np.uint16))
        image["file_name"] = path.with_suffix(".npy").name
        path.unlink()
    pottery.write()


@pytest.fixture
def options(tiny_options, pottery):
    store_as_npy(pottery)
    more = {"SOLVER.MAX_ITER": 2, "TEST.EXPECTED_RESULTS": [], "MODEL_FILE.FORMAT": "pth"}
    return {**tiny_options, **pottery.options(), **FIVE, **more}


def test_from_training_to_the_predictor(train_net, options, pottery, tmp_path):
    outcome = train_net(options=options)
    assert outcome.status == 0, outcome.err
    predictor = knet.Predictor(tmp_path / "output" / "model.pth")
    assert predictor.cfg.INPUT.VALUE_RANGE == (0, 4095)
    path = str(pottery.images / "001.npy")
    inputs = KNetDatasetMapper(predictor.cfg, is_train=False)({"file_name": path})
    assert inputs["image"].shape[0] == 5 and inputs["image"].dtype == torch.float32
    with torch.inference_mode():
        (expected,) = predictor.model([inputs])
    assert torch.equal(predictor(path)["sem_seg"], expected["sem_seg"])
    assert torch.equal(predictor(np.load(path))["sem_seg"], expected["sem_seg"])
    (item,) = predictor.stream([path])
    assert item.image.shape == (40, 64, 3) and item.image.dtype == np.uint8
    assert np.abs(item.image - np.load(path)[:, :, :3] / 4095 * 255).max() <= 0.51

    evaluated = tmp_path / "output" / "inference" / pottery.name
    reader = ImageReader.from_config(predictor.cfg)
    files = draw_predictions(evaluated, pottery.name, tmp_path / "pictures", reader=reader)
    assert len(files) == 2


def test_what_is_learned_from_is_drawn(tiny_config, pottery, tmp_path):
    store_as_npy(pottery)
    tiny_config.merge_from_list(pairs({**pottery.options(), **FIVE, "INPUT.CROP.ENABLED": False}))
    register_custom_datasets(tiny_config)
    files = draw_training_samples(tiny_config, 2, str(tmp_path / "samples"))
    assert len(files) == 2
    for file in files:
        colors = np.asarray(Image.open(file))
        assert colors.dtype == np.uint8 and colors.shape[2] == 3


def test_a_dim_picture_is_no_mistake(train_net, options, pottery, tmp_path):
    """All its values are below 1 of 255: of a wrong scale, it would seem without the range."""
    options["SOLVER.MAX_ITER"], options["DATASETS.TEST"] = 1, ()
    for path in pottery.images.iterdir():
        np.save(path, np.load(path) // 1000)
    assert train_net(options=options).status == 0


# ------------------------------------------------------------------------------- told before


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"MODEL.PIXEL_STD": [1.0] * 4}, "MODEL.PIXEL_STD has 4 numbers, MODEL.PIXEL_MEAN has 3"),
        ({"INPUT.FORMAT": "L"}, "INPUT.FORMAT L gives images of 1 channels.*to 1, or INPUT.FORMAT"),
        ({"INPUT.FORMAT": "RGBA"}, "images of 4 channels, MODEL.PIXEL_MEAN has 3 numbers"),
        ({"INPUT.FORMAT": "CIE"}, "INPUT.FORMAT is 'CIE': it is RGB, BGR"),
        ({"INPUT.VALUE_RANGE": (5,)}, r"INPUT.VALUE_RANGE is \(5,\): it must be"),
        ({"INPUT.VALUE_RANGE": (5, 5)}, "the values that are black and white, such as"),
        ({"INPUT.VALUE_RANGE": (0, float("nan"))}, "INPUT.VALUE_RANGE"),
        (
            {"INPUT.FORMAT": "YUV-BT.601", "INPUT.VALUE_RANGE": (0, 1)},
            "needs INPUT.FORMAT RGB, BGR, L or RAW, not YUV",
        ),
        (
            {"INPUT.VALUE_RANGE": (0, 1), "INPUT.RESIZE_ANTIALIAS": True},
            "not for INPUT.VALUE_RANGE",
        ),
        ({"INPUT.VALUE_RANGE": (0, 1), "INPUT.COLOR_AUG_SSD": True}, "COLOR_AUG_SSD True is for"),
        ({"INPUT.FORMAT": "RAW", "INPUT.RESIZE_ANTIALIAS": True}, "not for INPUT.FORMAT RAW"),
    ],
)
def test_keys_that_cannot_be(tiny_config, changes, what):
    check_config(tiny_config)
    for key, value in changes.items():
        section, name = key.split(".")
        tiny_config[section][name] = value
    with pytest.raises(UsageError, match=what):
        check_image_keys(tiny_config)


def test_other_channels_than_the_model_has(train_net, options, pottery):
    store_as_npy_of_four = [pottery.images / i["file_name"] for i in pottery.content["images"]]
    for path in store_as_npy_of_four:
        np.save(path, np.load(path)[:, :, :4])
    outcome = train_net(options=options)
    assert outcome.status != 0
    assert "001.npy has 4 channels, MODEL.PIXEL_MEAN has 5: set MODEL.PIXEL_MEAN" in outcome.err


def test_the_first_image_is_read_before_training(tiny_config, tmp_path):
    sets = [("a", []), ("b", [{"file_name": str(tmp_path / "missing.png")}])]
    with pytest.raises(DatasetError, match=r"missing\.png: no such file"):
        look_at_images(tiny_config, sets)
    tiny_config.DATALOADER.MAX_UNREADABLE = 1
    look_at_images(tiny_config, sets)


def test_a_test_set_of_other_channels(tiny_config, pottery):
    store_as_npy(pottery, channels=2)
    tiny_config.DATASETS.CUSTOM = [pottery.entry()]
    tiny_config.DATASETS.TRAIN, tiny_config.DATASETS.TEST = (), (pottery.name,)
    tiny_config.INPUT.FORMAT, tiny_config.INPUT.VALUE_RANGE = "RAW", (0, 4095)
    with pytest.raises(DatasetError, match=r"001\.npy has 2 channels, MODEL\.PIXEL_MEAN has 3"):
        check_datasets(tiny_config)


def test_a_picture_so_narrow_that_nothing_is_left(tmp_path):
    from detectron2.data import transforms as T

    from knet.data.transforms import CheckedResizeShortestEdge, OpenCVResizeShortestEdge

    np.save(tmp_path / "line.npy", np.zeros((1, 5000, 3), np.uint8))
    for kind in (CheckedResizeShortestEdge, OpenCVResizeShortestEdge):
        mapper = KNetDatasetMapper(False, augmentations=[kind(800, 1333), T.RandomFlip()])
        with pytest.raises(
            DatasetError, match=r"line\.npy of 5000 x 1 has no pixel left.*MAX_SIZE_\* 1333"
        ):
            mapper({"file_name": str(tmp_path / "line.npy")})
