"""Published models by name, ready to predict."""

import shutil

import pytest
import torch
from detectron2.modeling import build_model

from knet import config_files, model_zoo
from knet.checkpoint import to_official
from knet.errors import UsageError
from tests.checkpoint import key_lists, models
from tests.checkpoint.models import FCN, PANOPTIC
from tests.conftest import REPO


@pytest.mark.parametrize("name", ["coco/panoptic/knet_r50_1x", "coco/panoptic/knet_r50_1x.yaml"])
def test_a_config_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nothing depends on where Python was started
    cfg = model_zoo.get_config(name, ["SOLVER.MAX_ITER", 7])
    assert cfg.OUTPUT_DIR == "./output/knet_panoptic_r50_1x" and cfg.SOLVER.MAX_ITER == 7


def test_a_config_by_path(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("SOLVER:\n  MAX_ITER: 3\n")
    assert model_zoo.get_config(str(path)).SOLVER.MAX_ITER == 3


def test_an_installed_package_brings_its_configs(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "knet"
    shutil.copytree(REPO / "configs", package / "configs")
    monkeypatch.setattr(config_files, "_FOLDERS", [package / "configs", tmp_path / "no checkout"])
    assert model_zoo.get_config("ade20k/knet_fcn_r50").MODEL.META_ARCHITECTURE == "SemanticKNet"


def test_a_name_that_does_not_exist(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=r"coco/panoptic/knet_r5.*coco/panoptic/knet_r50"):
        model_zoo.get_config("coco/panoptic/knet_r5")
    with pytest.raises(UsageError, match="there is no config ''"):
        model_zoo.get_config("")
    with pytest.raises(UsageError, match=r"known are.*ade20k/knet_fcn_r50"):
        model_zoo.get_config("?")
    monkeypatch.setattr(config_files, "_FOLDERS", [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UsageError, match="there is no config"):
        model_zoo.get_config("coco/panoptic/knet_r50_1x")


@pytest.mark.parametrize("config", [PANOPTIC, FCN])
def test_a_model_with_official_weights_predicts(config, tmp_path):
    theirs = models.build(config)
    weights = models.save_official(tmp_path / "official.pth", theirs.state_dict())
    model = model_zoo.load_model(config, weights, device="cpu", opts=models.options(config))
    models.assert_same(model, theirs)
    assert not model.training
    image = torch.rand(3, 64, 64) * 255
    result = model([{"image": image, "height": 32, "width": 40}])[0]
    # no gradient hinders the use of a result
    assert result["sem_seg"].numpy().shape[-2:] == (32, 40)


@pytest.mark.parametrize(
    "name, official, opts",
    [
        ("coco/panoptic/knet_r50_1x", "det__knet__knet_s3_r50_fpn_1x_coco-panoptic", []),
        ("ade20k/knet_upernet_swin_t", "seg__knet__knet_s3_upernet_swin-t_80k_adamw_ade20k", []),
        (
            "ade20k/knet_fcn_r50",
            "seg__baselines__fcn_r50-d8_512x512_80k_8x2_adamw_ade20k",
            ["MODEL.KNET.NUM_STAGES", 0],
        ),
    ],
)
def test_published_weights_at_full_size(name, official, opts, tmp_path):
    file = key_lists.official(official, values=True)
    weights = models.save(tmp_path / "official.pth", file)
    model = model_zoo.load_model(name, weights, device="cpu", opts=opts)
    loaded, unknown = to_official(model.state_dict())
    assert not unknown
    for key, tensor in file.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize(
    "official, num_things, first, last",
    [
        ("det__knet__knet_s3_r50_fpn_1x_coco-panoptic", 80, (1, "person"), (200, "rug-merged")),
        ("det__knet__knet_s3_r50_fpn_1x_coco", 80, (1, "person"), (90, "toothbrush")),
        ("seg__knet__knet_s3_fcn_r50-d8_80k_adamw_ade20k", 0, (0, "wall"), (149, "flag")),
        (  # without kernel update
            "seg__baselines__fcn_r50-d8_512x512_80k_8x2_adamw_ade20k",
            *(0, (0, "wall"), (149, "flag")),
        ),
    ],
)
def test_a_published_file_alone_is_a_model(official, num_things, first, last, tmp_path):
    file = key_lists.official(official, values=True)
    weights = models.save(tmp_path / "official.pth", file)
    classes = model_zoo.load_model(weights, device="cpu").info.classes
    assert sum(each.isthing for each in classes) == num_things
    assert [(each.dataset_id, each.name) for each in (classes[0], classes[-1])] == [first, last]


def test_incomplete_weights_are_refused(tmp_path):
    state = models.build(PANOPTIC).state_dict()
    state.pop("kernel_head.semantic_kernels.bias")
    torch.save({"model": state}, tmp_path / "ours.pth")
    with pytest.raises(UsageError, match=r"semantic_kernels\.bias is missing"):
        path = str(tmp_path / "ours.pth")
        model_zoo.load_model(PANOPTIC, path, device="cpu", opts=models.options(PANOPTIC))


def test_what_load_model_needs():
    with pytest.raises(UsageError, match="needs weights"):
        model_zoo.load_model(PANOPTIC, "")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="there is no GPU"):
            model_zoo.load_model(PANOPTIC, "weights.pth", device=torch.device("cuda"))
    with pytest.raises(UsageError, match="device 'gpu' is unknown"):
        model_zoo.load_model(PANOPTIC, "weights.pth", device="gpu")
    with pytest.raises(UsageError, match=r"weights\.pth not found; name a file of weights"):
        model_zoo.load_model(PANOPTIC, "weights.pth", device="cpu")


def test_a_trained_model_loads_where_its_data_is_not(tiny_config, shapes, tmp_path):
    """The class counts stand in for the data set, as docs/predict.md says."""
    config, weights = tmp_path / "config.yaml", tmp_path / "model.pth"
    torch.save({"model": build_model(tiny_config).state_dict()}, weights)
    config.write_text(tiny_config.dump().replace(shapes.train, "gone").replace(shapes.val, "gone"))
    with pytest.raises(UsageError, match=r"MODEL\.KNET\.NUM_THING_CLASSES"):
        model_zoo.load_model(str(config), str(weights), device="cpu")
    opts = ["DATASETS.CUSTOM", [], "DATASETS.TRAIN", (), "DATASETS.TEST", ()]
    opts += ["MODEL.KNET.NUM_THING_CLASSES", 5, "MODEL.KNET.NUM_STUFF_CLASSES", 4]
    model = model_zoo.load_model(str(config), str(weights), device="cpu", opts=opts)
    (result,) = model([{"image": torch.zeros(3, 64, 96)}])
    assert result["sem_seg"].shape == (9, 64, 96)
