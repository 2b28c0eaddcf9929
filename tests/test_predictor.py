"""The predictor: any picture in, the result of the evaluation out."""

import itertools
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

import knet
from knet.data import KNetDatasetMapper
from knet.engine import KNetTrainer
from knet.engine.main import load_config
from knet.engine.model_file import ModelInfo, save_model
from knet.errors import DatasetError, UsageError
from knet.modeling.inference import masks_to_boxes
from knet.predictor import Predictor, remove_overlap
from tests.conftest import DEMO_CONFIG, pairs
from tests.modeling.semantic.heads import NUM_CLASSES, small_config

SIZES = ((50, 70), (70, 50), (64, 96), (50, 70), (200, 80))  # height, width


@pytest.fixture
def model(tiny_options):
    """A K-Net whose random kernels find something, and whose images are BGR."""
    return build(tiny_options)


def build(options, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    options = {**options, "INPUT.FORMAT": "BGR", **changes}
    torch.manual_seed(0)
    model = KNetTrainer.build_model(load_config(DEMO_CONFIG, pairs(options))).eval()
    for head in model.kernel_update_heads:
        torch.nn.init.normal_(head.class_proj.weight)
        torch.nn.init.zeros_(head.class_proj.bias)
    return model


@pytest.fixture
def files(tmp_path):
    """Five pictures of four sizes."""
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height // 10, width // 10, 3), np.uint8)
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels).resize((width, height), Image.BICUBIC).save(paths[-1])
    return paths


def evaluated(model, path):
    """The result that ``train_net.py --eval-only`` gets."""
    mapper = KNetDatasetMapper(model.info.cfg, is_train=False)
    with torch.no_grad():
        return model([mapper({"file_name": path})])[0]


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours.keys() & {"sem_seg"}:
        assert torch.equal(ours[key], theirs[key])
    if "panoptic_seg" in ours:
        assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
        for segment, other in zip(ours["panoptic_seg"][1], theirs["panoptic_seg"][1], strict=True):
            assert segment == {**segment, **other}
    if "instances" in ours:
        fields, others = ours["instances"].get_fields(), theirs["instances"].get_fields()
        assert fields.keys() == others.keys()
        for name, value in fields.items():
            same = getattr(value, "tensor", value) == getattr(others[name], "tensor", others[name])
            assert same.all(), name


# ------------------------------------------------------------------------- results of evaluation


def test_results_are_those_of_the_evaluation(model, files):
    predictor = Predictor(model)
    segments = 0
    for path, size in zip(files, SIZES):
        expected = evaluated(model, path)
        result = predictor(path)
        assert_same(result, expected)
        assert result["sem_seg"].shape[1:] == result["instances"].image_size == size
        segments += len(result["panoptic_seg"][1])
    assert segments > len(files)
    for result, path in zip(predictor(files), files, strict=True):
        assert_same(result, evaluated(model, path))


def test_results_are_those_of_the_test_loader(model, shapes):
    predictor = Predictor(model)
    for inputs in KNetTrainer.build_test_loader(model.info.cfg, shapes.val):
        with torch.no_grad():
            assert_same(predictor(inputs[0]["file_name"]), model(inputs)[0])


def test_every_source_gives_the_same(model, files):
    predictor = Predictor(model)
    path = files[0]
    expected = predictor(path)
    image = Image.open(path)
    array = np.asarray(image)
    with open(path, "rb") as file:
        content = file.read()
        file.seek(0)
        for source in (
            content,
            file,
            image,
            array,
            array.astype(np.float32),
            array.astype(np.uint16) * 257,
            torch.from_numpy(array.copy()).permute(2, 0, 1),
            np.dstack((array, array[:, :, 0])),
        ):
            assert_same(predictor(source), expected)


def test_segments_tell_class_and_kernel(model, files, shapes):
    predictor = Predictor(model)
    metadata = MetadataCatalog.get(shapes.val)
    to_contiguous = {
        **metadata.thing_dataset_id_to_contiguous_id,
        **metadata.stuff_dataset_id_to_contiguous_id,
    }
    for segment in itertools.chain(*(predictor(path)["panoptic_seg"][1] for path in files)):
        assert to_contiguous[segment["dataset_id"]] == segment["category_id"]
        assert segment["category_name"] == metadata.stuff_classes[segment["category_id"]]
        assert 0 <= segment["kernel"] < model.info.cfg.MODEL.KNET.NUM_KERNELS + 4
    assert predictor.classes == model.info.classes and predictor.cfg is model.info.cfg
    assert list(predictor.metadata.thing_classes) == list(metadata.thing_classes)


def test_instances_have_names_if_asked(model, files):
    instances = Predictor(model, names=True)(files[0])["instances"]
    classes = {each.id: each for each in model.info.classes}
    expected = [classes[i] for i in instances.pred_classes.tolist()]
    assert instances.pred_names.tolist() == [each.name for each in expected]
    assert instances.pred_dataset_ids.tolist() == [each.dataset_id for each in expected]
    best = instances[instances.scores >= instances.scores.median()]
    assert 0 < len(best.pred_names) < len(instances)
    assert not Predictor(model)(files[0])["instances"].has("pred_names")


def test_a_model_file_needs_nothing_else(model, files, tmp_path, monkeypatch):
    save_model(model, str(tmp_path / "model.pth"))
    expected = Predictor(model)(files[0])
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", {})
    for file in (tmp_path / "model.pth", str(tmp_path / "model.pth")):
        predictor = Predictor(file, device="cpu")
        assert not predictor.model.training
        assert_same(predictor(files[0]), expected)
    opts = ["MODEL.KNET.TEST.SEMANTIC_ON", False]
    assert "sem_seg" not in Predictor(file, device="cpu", opts=opts)(files[0])


def test_a_config_beside_the_weights(model, files, tmp_path):
    (tmp_path / "config.yaml").write_text(model.info.standing_alone().cfg.dump())
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    config = str(tmp_path / "config.yaml")
    predictor = Predictor(tmp_path / "weights.pth", config=config, device="cpu")
    assert_same(predictor(files[0]), Predictor(model)(files[0]))


# ---------------------------------------------------------------------------------- other models


def test_a_semantic_model(files):
    cfg = small_config("SemSegFCNHead", "SemanticKNet")
    cfg.MODEL.MASK_ON = False
    model = build_model(cfg).eval()
    model.info = ModelInfo.from_config(cfg)
    for options in ({}, {"overlap": False, "names": True}):
        result = Predictor(model, **options)(files[0])
        assert result.keys() == {"sem_seg"} and result["sem_seg"].shape == (NUM_CLASSES, 50, 70)
        assert_same(result, evaluated(model, files[0]))


class Detector(torch.nn.Module):
    """Instances with masks and boxes alone, as Detectron2's Mask R-CNN has them."""

    def __init__(self, info):
        super().__init__()
        self.info = info

    def forward(self, batched_inputs):
        results = []
        for x in batched_inputs:
            instances = Instances((x["height"], x["width"]))
            instances.pred_masks = torch.zeros(2, x["height"], x["width"], dtype=torch.bool)
            instances.pred_masks[:, :20, :20] = True
            instances.pred_boxes = Boxes(masks_to_boxes(instances.pred_masks))
            instances.scores, instances.pred_classes = (
                torch.tensor([0.5, 0.9]),
                torch.tensor([0, 4]),
            )
            results.append({"instances": instances})
        return results


def test_a_model_of_detectron2_that_has_info(model, files):
    predictor = Predictor(Detector(model.info).eval(), overlap=False, names=True)
    instances = predictor(files[0])["instances"]
    assert instances.scores.tolist() == [pytest.approx(0.9)]
    assert instances.pred_names.tolist() == [model.info.classes[4].name]
    assert not instances.has("pred_kernels")


# ------------------------------------------------------------------------------ batches, threads


def sizes_of_batches(model, monkeypatch):
    sizes = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda x: sizes.append([tuple(i["image"].shape) for i in x]) or forward(x)
    )
    return sizes


def test_only_images_of_one_size_are_batched(model, files, monkeypatch):
    expected = [evaluated(model, path) for path in files]
    seen = sizes_of_batches(model, monkeypatch)
    results = Predictor(model, batch_size=3)(files * 2)
    assert sorted(map(len, seen)) == [1, 2, 2, 2, 3]
    assert all(len(set(batch)) == 1 for batch in seen)
    for result, other in zip(results, expected * 2, strict=True):
        # rounding differs with the batch, nothing else
        assert torch.allclose(result["sem_seg"], other["sem_seg"], atol=1e-5)


def test_a_long_list_is_not_held_at_once(model, files, monkeypatch):
    seen = sizes_of_batches(model, monkeypatch)
    read = []

    def open_lazily(reader, source, max_pixels):
        read.append(source)
        return Image.open(source)

    monkeypatch.setattr("knet.predictor.ImageReader.open", open_lazily)
    Predictor(model)(files * 4)
    assert len(seen) == len(read) == 20
    with pytest.raises(FileNotFoundError):
        Predictor(model)([files[0]] * 8 + ["missing"])
    assert len(seen) == 28


@pytest.mark.parametrize("source", [[], ()])
def test_no_image_at_all(model, source):
    assert Predictor(model)(source) == []
    assert list(Predictor(model).stream(source)) == []


def test_eight_threads_get_the_results_of_one(model, files):
    predictor = Predictor(model)
    expected = [predictor(path) for path in files]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(predictor, files * 8))
    for result, other in zip(results, expected * 8, strict=True):
        assert_same(result, other)


def test_the_model_of_the_caller_stays_as_it_is(model, files):
    flags = [p.requires_grad for p in model.parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predictor = Predictor(model)
    assert predictor.model is model
    result = predictor(files[0])
    assert not model.training and flags == [p.requires_grad for p in model.parameters()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.is_grad_enabled() and not result["sem_seg"].requires_grad


def test_a_model_in_training_mode_is_refused(model, files):
    predictor = Predictor(model)
    model.train()
    for act in (lambda: Predictor(model), lambda: predictor(files[0])):
        with pytest.raises(UsageError, match=r"training mode.*model\.eval\(\)"):
            act()
    assert model.training


# ---------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("workers, batch_size", [(1, 1), (3, 1), (2, 4)])
def test_a_stream_keeps_the_order_and_goes_on_after_a_broken_file(
    model, files, tmp_path, workers, batch_size
):
    broken = str(tmp_path / "broken.jpg")
    (tmp_path / "broken.jpg").write_text("not found")
    sources = [*files[:2], broken, *files[2:], 5, files[0]]
    predictor = Predictor(model, batch_size=batch_size)
    items = list(predictor.stream(iter(sources), workers=workers))
    assert [item.source for item in items] == sources
    for item in items:
        if item.source in (broken, 5):
            assert item.result is None and item.image is None
            assert isinstance(item.error, DatasetError if item.source == broken else UsageError)
        else:
            assert item.error is None
            assert np.array_equal(item.image, np.asarray(Image.open(item.source)))
            assert item.result["panoptic_seg"][0].shape == item.image.shape[:2]
            if batch_size == 1:
                assert_same(item.result, predictor(item.source))
    assert broken in str(items[2].error)


def test_a_camera_is_not_read_beyond_the_bound(model):
    taken = []

    def frames():
        for i in itertools.count():
            taken.append(i)
            yield np.full((40, 60), i, np.uint8)

    before = threading.active_count()
    stream = Predictor(model, batch_size=2).stream(frames(), workers=2)
    for i in range(5):
        item = next(stream)
        assert (item.image == i).all()
        assert len(taken) <= i + 2 + 2 * 2
    stream.close()
    assert threading.active_count() == before


def test_an_interrupted_stream_leaves_no_thread(model, files, interruptible):
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        for i, _ in enumerate(Predictor(model).stream(itertools.cycle(files))):
            if i == 2:
                signal.raise_signal(signal.SIGINT)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "sources", ["folder", b"bytes", np.zeros((4, 5, 3), np.uint8), torch.zeros(3, 4, 5)]
)
def test_one_image_is_no_stream(model, sources):
    with pytest.raises(UsageError, match="a stream takes an iterable of images"):
        Predictor(model).stream(sources)


# ---------------------------------------------------------------------------- overlapping instances


def slowly_without_overlap(masks, scores):
    """Pixel after pixel."""
    result = np.zeros_like(masks)
    for y, x in np.ndindex(masks.shape[1:]):
        having = [i for i in range(len(masks)) if masks[i, y, x]]
        if having:
            result[max(having, key=lambda i: (scores[i], -i)), y, x] = True
    return result


def test_masks_without_overlap():
    rng = np.random.default_rng(0)
    masks = np.zeros((9, 20, 30), bool)
    for mask in masks:
        y, x = rng.integers(0, 15), rng.integers(0, 25)
        mask[y : y + 9, x : x + 9] = True
    masks[4], masks[6] = masks[2], False  # a duplicate, and an empty one
    scores = rng.permutation(9) / 10
    scores[4] = scores[2]
    instances = Instances((20, 30), pred_masks=torch.from_numpy(masks.copy()))
    instances.scores, instances.pred_kernels = torch.from_numpy(scores), torch.arange(9)
    instances.pred_boxes = Boxes(torch.zeros(9, 4))
    result = remove_overlap(instances)
    expected = slowly_without_overlap(masks, scores)
    left = [i for i in range(9) if expected[i].any()]
    assert result.pred_kernels.tolist() == left and {4, 6}.isdisjoint(left)
    assert np.array_equal(result.pred_masks.numpy(), expected[left])
    assert torch.equal(result.scores, instances.scores[left])
    assert torch.equal(result.pred_boxes.tensor, masks_to_boxes(result.pred_masks))
    assert np.array_equal(instances.pred_masks.numpy(), masks), "the caller's stay"


def test_no_instance_does_not_overlap():
    instances = Instances((4, 5), pred_masks=torch.zeros(0, 4, 5, dtype=torch.bool))
    instances.scores = torch.zeros(0)
    assert len(remove_overlap(instances)) == 0


def test_a_predictor_without_overlap(model, files):
    with_overlap = Predictor(model)(files[2])["instances"].pred_masks
    instances = Predictor(model, overlap=False)(files[2])["instances"]
    assert with_overlap.sum(0).max() > 1 and instances.pred_masks.sum(0).max() == 1
    assert torch.equal(instances.pred_masks.any(0), with_overlap.any(0))


# -------------------------------------------------------------------------------------- wrong input


def test_a_broken_picture_of_a_list_is_named(model, files):
    with pytest.raises(DatasetError, match=r"image 2 of 3: the float64 array .* multiply by 255"):
        Predictor(model)([files[0], np.full((40, 50), 0.5), files[1]])
    with pytest.raises(UsageError, match=r"image 1 of 1: an object of type NoneType is no image"):
        Predictor(model)([None])


def test_a_picture_that_resizing_leaves_nothing_of(model):
    predictor = Predictor(model)
    with pytest.raises(DatasetError, match=r"image \(ndarray\) of 5000 x 1 has no pixel left"):
        predictor(np.zeros((1, 5000), np.uint8))
    assert predictor(np.zeros((1, 60), np.uint8))["sem_seg"].shape[1:] == (1, 60)
    assert predictor(np.zeros((1, 1), np.uint8))["sem_seg"].shape[1:] == (1, 1)


def test_large_pictures_are_refused(model, files):
    predictor = Predictor(model, max_pixels=50 * 70)
    assert predictor(files[0])
    with pytest.raises(DatasetError, match=r"2\.png: it is 96 x 64, more than 3500 pixels"):
        predictor(files[2])


@pytest.mark.parametrize(
    "options, what",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"max_pixels": 1e6}, r"max_pixels is 1000000\.0"),
        ({"device": "cpu"}, "are for a file"),
        ({"opts": ["INPUT.FORMAT", "RGB"]}, "are for a file"),
    ],
)
def test_wrong_arguments(model, options, what):
    with pytest.raises(UsageError, match=what):
        Predictor(model, **options)
    with pytest.raises(UsageError, match="workers is 0"):
        Predictor(model).stream([], workers=0)


def test_a_model_without_info(tiny_config):
    with pytest.raises(UsageError, match=r"KNet has no info.*knet\.load_model"):
        Predictor(build_model(tiny_config).eval())


def test_what_is_no_model():
    with pytest.raises(UsageError, match="an object of type dict is no model"):
        Predictor({"model": {}})
    with pytest.raises(UsageError, match=r"missing\.pth"):
        Predictor("missing.pth")


def test_what_the_package_exports():
    assert knet.Predictor is Predictor


def test_half_precision_is_the_configs(tiny_options, files):
    """TEST.AMP is part of the model: evaluation and predictor compute alike."""
    half = {"TEST.AMP": True, "SOLVER.AMP.DTYPE": "bfloat16"}
    plain, fast = build(tiny_options), build({**tiny_options, **half})
    fast.load_state_dict(plain.state_dict())
    results = [Predictor(model)(files[0]) for model in (plain, fast)]
    scores = [result["sem_seg"] for result in results]
    assert scores[1].dtype is torch.float32 and not torch.equal(*scores)
    assert torch.equal(scores[1], evaluated(fast, files[0])["sem_seg"])
