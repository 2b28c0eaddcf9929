"""Training, evaluation and prediction on a GPU, beside the CPU."""

import gc
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Dict, List

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from knet.engine import KNetTrainer
from knet.engine.model_file import save_model
from knet.errors import DatasetError
from knet.predictor import Predictor
from knet.results.predictions import predict_each
from tests.conftest import PUBLISHED_FORM
from tests.engine.test_train_net import LENIENT, optimizer_steps
from tests.test_predictor import build

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.usefixtures("whole_float32"),
]

FORMS = pytest.mark.parametrize("form", ["published", "fast"])
NO_TEST = {"DATASETS__TEST": ()}
# statistics of two small images would make much of rounding
STEADY = {"MODEL.DEVICE": DEVICE, "MODEL.BACKBONE.NORM_EVAL": True}
OTHER = {"cpu": DEVICE, DEVICE: "cpu"}


# ----------------------------------------------------------------------------------- train_net.py


@dataclass
class Run:
    """What a call of ``train_net.py`` that ended well has done."""

    out: str
    device: str  # of the model
    losses: List[float]  # of each iteration
    metrics: Dict[str, float]  # of the last evaluation


@pytest.fixture
def run(train_net, tiny_options, monkeypatch):
    """Calls ``train_net.py`` for a form of the model on a device; options have __ for a point."""
    trainers, tests = [], []

    class Watched(KNetTrainer):
        def __init__(self, cfg):
            super().__init__(cfg)
            trainers.append(self)

        @classmethod
        def test(cls, cfg, model, evaluators=None):
            results = super().test(cfg, model, evaluators)
            tests.append((model, results))
            return results

    monkeypatch.setattr("knet.engine.main.KNetTrainer", Watched)

    def call(*flags, form="published", device=DEVICE, **options):
        trainers.clear()
        tests.clear()
        tiny = {k: v for k, v in tiny_options.items() if form != "fast" or k not in PUBLISHED_FORM}
        options = {key.replace("__", "."): value for key, value in options.items()}
        num_gpus = "0" if device == "cpu" else "1"
        flags = (*flags, "--num-gpus", num_gpus)
        outcome = train_net(*flags, options={**tiny, **STEADY, **options})
        assert outcome.status == 0, outcome.err
        model = trainers[0].model if trainers else tests[0][0]
        history = trainers[0].storage.history("total_loss").values() if trainers else []
        tasks = tests[-1][1] if tests else {}
        return Run(
            outcome.out,
            model.device.type,
            [loss for loss, _ in history],
            {f"{task} {key}": v for task, found in tasks.items() for key, v in found.items()},
        )

    return call


@FORMS
def test_losses_of_a_training_are_those_of_the_cpu(run, form, tmp_path):
    options = {"form": form, "SOLVER__MAX_ITER": 3, **NO_TEST}
    options.update({"SOLVER__BASE_LR": 1e-4, "SOLVER__WARMUP_ITERS": 0})
    on_gpu = run(**options, OUTPUT_DIR=str(tmp_path / "gpu"))
    on_cpu = run(**options, device="cpu", OUTPUT_DIR=str(tmp_path / "cpu"))
    assert (on_gpu.device, on_cpu.device) == (DEVICE, "cpu")
    assert len(on_cpu.losses) == 3
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=1e-3)


@FORMS
def test_a_model_that_a_gpu_has_trained_is_as_good_on_the_cpu(run, form, pottery, tmp_path):
    """The checkpoint, and the model file of half the size."""
    data = {
        key.replace(".", "__"): v for key, v in {**pottery.write().options(), **LENIENT}.items()
    }
    steps = {"SOLVER__MAX_ITER": 60, "SOLVER__BASE_LR": 2e-3, "SOLVER__WARMUP_ITERS": 5}
    file = {"MODEL_FILE__FORMAT": "pth", "MODEL_FILE__HALF": True}
    trained = run(form=form, **data, **steps, **file, OUTPUT_DIR=str(tmp_path / "gpu"))
    weights = {"MODEL__WEIGHTS": str(tmp_path / "gpu" / "model_final.pth")}
    again = {**data, **weights, "OUTPUT_DIR": str(tmp_path / "again")}
    evaluated = run("--eval-only", form=form, device="cpu", **again)
    assert (trained.device, evaluated.device) == (DEVICE, "cpu")
    assert trained.losses[-1] < 0.7 * trained.losses[0]
    assert trained.metrics["sem_seg mIoU"] > 20
    assert trained.metrics == pytest.approx(evaluated.metrics, abs=0.5, nan_ok=True)

    half = tmp_path / "gpu" / "model.pth"
    found, expected = (
        Predictor(half, device=device)(pictures()[0])["sem_seg"].cpu() for device in (DEVICE, "cpu")
    )
    assert float((found - expected).abs().mean()) < 1e-3


@FORMS
def test_mixed_precision_trains(run, form, tmp_path):
    options = {"form": form, **NO_TEST}
    exact = run(**options, SOLVER__MAX_ITER=1, OUTPUT_DIR=str(tmp_path / "exact")).losses
    options["SOLVER__AMP__ENABLED"] = True
    losses = run(**options, SOLVER__MAX_ITER=4, OUTPUT_DIR=str(tmp_path / "mixed")).losses
    assert len(losses) == 4 and all(math.isfinite(loss) for loss in losses)
    assert losses[0] == pytest.approx(exact[0], rel=0.02)
    assert losses[0] != exact[0]


@pytest.mark.parametrize("first, form", [("cpu", "published"), (DEVICE, "fast")])
def test_a_run_goes_on_on_the_other_device(run, first, form, tmp_path):
    options = {"form": form, **NO_TEST}
    start = run(**options, device=first, SOLVER__MAX_ITER=2)
    end = run("--resume", **options, device=OTHER[first], SOLVER__MAX_ITER=4)
    assert (start.device, end.device) == (first, OTHER[first])
    assert "Starting training from iteration 2" in end.out
    assert len(end.losses) == 2 and all(math.isfinite(loss) for loss in end.losses)
    file = tmp_path / "output" / "model_final.pth"
    assert optimizer_steps(torch.load(file, map_location="cpu", weights_only=False)) == {4.0}


def test_workers_load_the_data_of_a_training_on_a_gpu(run):
    """They are started when CUDA is in use already."""
    assert len(run(DATALOADER__NUM_WORKERS=2, SOLVER__MAX_ITER=3, **NO_TEST).losses) == 3


# --------------------------------------------------------------------------------------- Predictor


def pictures() -> List[np.ndarray]:
    """Smooth ones of three sizes."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in ((50, 70), (70, 50), (128, 192)):
        image = Image.fromarray(rng.integers(0, 256, (height // 10, width // 10, 3), np.uint8))
        made.append(np.asarray(image.resize((width, height), Image.BICUBIC)))
    return made


@pytest.fixture
def model_file(tiny_options, tmp_path):
    """Of a model whose kernels find something."""
    path = tmp_path / "model.pth"
    save_model(build(tiny_options), path)
    return path


def assert_alike(on_gpu, on_cpu):
    """Results of the two devices agree to rounding, and where a cell lies on a threshold nearly."""
    assert on_gpu.keys() == on_cpu.keys() == {"panoptic_seg", "instances", "sem_seg"}
    (segments, infos), instances = on_gpu["panoptic_seg"], on_gpu["instances"]
    for tensor in (segments, instances.pred_masks, instances.scores, on_gpu["sem_seg"]):
        assert tensor.device.type == DEVICE
    assert_close(on_gpu["sem_seg"].cpu(), on_cpu["sem_seg"], rtol=0, atol=0.02)
    wanted, wanted_infos = on_cpu["panoptic_seg"]
    assert [info["category_name"] for info in infos] == [i["category_name"] for i in wanted_infos]
    wanted_scores = [info["score"] for info in wanted_infos]
    assert [info["score"] for info in infos] == pytest.approx(wanted_scores, abs=0.05)
    assert (segments.cpu() == wanted).float().mean() > 0.98
    ours, theirs = (by_kernel(each) for each in (instances.to("cpu"), on_cpu["instances"]))
    assert torch.equal(ours.pred_kernels, theirs.pred_kernels)
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert_close(ours.scores, theirs.scores, rtol=0, atol=0.05)
    assert (ours.pred_masks == theirs.pred_masks).float().mean() > 0.99


def by_kernel(instances):
    """In an order that scores of nearly the same size do not change."""
    return instances[(instances.pred_kernels * 1000 + instances.pred_classes).argsort()]


@pytest.mark.parametrize("half", [False, True], ids=["whole", "half"])
def test_predictions_are_those_of_the_cpu(tiny_options, tmp_path, half):
    path = tmp_path / "model.pth"
    save_model(build(tiny_options), path, half=half)
    on_gpu, on_cpu = Predictor(path), Predictor(path, device="cpu")
    assert on_gpu.model.device.type == DEVICE, "a GPU is used where there is one"
    found = 0
    for picture in pictures():
        expected = on_cpu(picture)
        found += len(expected["panoptic_seg"][1])
        assert_alike(on_gpu(picture), expected)
    assert found > 3


def test_a_list_a_stream_and_threads_give_what_single_calls_give(model_file):
    predictor = Predictor(model_file, device=DEVICE, batch_size=2)
    on_cpu = Predictor(model_file, device="cpu")
    sources = pictures() * 3
    expected = [on_cpu(picture) for picture in sources]
    with ThreadPoolExecutor(2) as pool:
        in_threads = list(pool.map(predictor, sources))
    in_stream = list(predictor.stream(sources))
    assert all(item.error is None for item in in_stream)
    for found in (in_threads, predictor(sources), [item.result for item in in_stream]):
        for result, other in zip(found, expected, strict=True):
            assert_alike(result, other)


def test_masks_without_overlap_and_names(model_file):
    options = {"overlap": False, "names": True}
    sources = pictures()
    overlapping = [Predictor(model_file, device=DEVICE)(source) for source in sources]
    stream = Predictor(model_file, device=DEVICE, **options).stream(sources)
    for item, other in zip(stream, overlapping, strict=True):
        instances, masks = item.result["instances"], other["instances"].pred_masks
        assert instances.pred_masks.device.type == DEVICE
        assert masks.sum(0).max() > 1 and instances.pred_masks.sum(0).max() == 1
        assert (instances.pred_masks.any(0) == masks.any(0)).float().mean() > 0.995
        assert len(instances.pred_names) == len(instances.pred_dataset_ids) == len(instances) > 0


# ---------------------------------------------------------------------------------- out of memory


@pytest.fixture
def leave_memory():
    """Lets this process take so many bytes more of the GPU than it has."""

    def leave(size: int):
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_picture_too_large_for_the_gpu_is_named_and_the_others_have_a_result(
    model_file, tmp_path, leave_memory
):
    """Of 12 megapixels the masks of all kernels have room, half a gigabyte; not the results."""
    names = {name: str(tmp_path / f"{name}.png") for name in ("small", "other", "large")}
    for name, picture in zip(names, pictures()):
        Image.fromarray(picture).save(names[name])
    Image.new("RGB", (4000, 3000), (90, 120, 30)).save(names["large"])
    predictor = Predictor(model_file, device=DEVICE, batch_size=2)
    list(predict_each(predictor, [names["small"], names["other"]]))  # libraries take their part
    gc.collect()
    before = torch.cuda.memory_allocated()
    leave_memory(700 * 2**20)
    sources = [names[name] for name in ("small", "large", "other", "small")]
    found = list(predict_each(predictor, sources))
    assert [item.source for item in found] == sources
    assert [item.error is None for item in found] == [True, False, True, True]
    assert [item.result is None for item in found] == [False, True, False, False]
    assert isinstance(found[1].error, DatasetError)
    assert str(found[1].error).startswith("it is too large for the memory: ")
    del found
    gc.collect()
    assert torch.cuda.memory_allocated() - before < 2**24
