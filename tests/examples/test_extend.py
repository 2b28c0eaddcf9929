"""Each part of projects/KNet/examples/extend trains, and is what the model is made of."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from knet.data.checks import check_data
from knet.engine.main import load_config
from tests.conftest import DEMO_CONFIG, REPO, pairs

FOLDER = REPO / "projects" / "KNet" / "examples" / "extend"
SEMANTIC = str(REPO / "configs" / "demo" / "knet_semantic_shapes.yaml")
INSTANCE = str(REPO / "configs" / "demo" / "knet_instance_shapes.yaml")


@pytest.fixture
def part(monkeypatch):
    """Imports a module of the examples as their train_net.py does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def metrics(options) -> str:
    folder = options["OUTPUT_DIR"]
    with open(f"{folder}/metrics.json") as file:
        return file.read()


def test_a_backbone(part, train_net, tiny_options):
    module = part("own_backbone")
    features = module.Stairs(channels=8)(torch.zeros(1, 3, 64, 96))
    shapes = module.Stairs(channels=8).output_shape()
    assert {name: x.shape[1:] for name, x in features.items()} == {
        name: (spec.channels, 64 // spec.stride, 96 // spec.stride) for name, spec in shapes.items()
    }
    options = {**tiny_options, "MODEL.BACKBONE.NAME": "build_stairs_fpn_backbone"}
    assert train_net(options=options).status == 0
    assert "total_loss" in metrics(options)


@pytest.mark.parametrize("form", ["KernelHead", "PointKernelHead"])
def test_a_neck(part, train_net, tiny_options, form):
    part("own_neck")
    options = {
        **tiny_options,
        "MODEL.KNET.NECK.NAME": "ConcatNeck",
        "MODEL.KNET.KERNEL_HEAD.NAME": form,
    }
    if form == "KernelHead":
        assert train_net(options=options).status == 0
    model = build_model(load_config(DEMO_CONFIG, pairs(options))).eval()
    (result,) = model([{"image": torch.zeros(3, 70, 100), "height": 35, "width": 50}])
    assert type(model.neck).__name__ == "ConcatNeck" and result["sem_seg"].shape[1:] == (35, 50)


def test_a_kernel_head_starts_as_the_papers_and_learns(part, train_net, tiny_options):
    part("own_kernel_head")
    options = {**tiny_options, "MODEL.KNET.KERNEL_HEAD.NAME": "SceneKernelHead"}
    cfg = load_config(DEMO_CONFIG, pairs(options))
    model = build_model(cfg)
    maps = torch.randn(2, 2, 16, 8, 12)
    head = model.kernel_head
    ours = head(*maps)[1].kernels
    torch.testing.assert_close(ours, super(type(head), head).forward(*maps)[1].kernels)
    assert train_net(options=options).status == 0
    learned = torch.load(f"{options['OUTPUT_DIR']}/model_final.pth", weights_only=False)["model"]
    assert learned["kernel_head.scene_proj.weight"].abs().sum() > 0


def test_a_semantic_head(part, train_net, tiny_options):
    part("own_semantic_head")
    shared = (
        "INPUT.",
        "SOLVER.MAX_ITER",
        "SOLVER.STEPS",
        "TEST.EXPECTED",
        "OUTPUT_DIR",
        "DATASETS",
    )
    options = {key: value for key, value in tiny_options.items() if key.startswith(shared)}
    options |= {
        "MODEL.DEVICE": "cpu",
        "MODEL.KNET.NUM_STAGES": 1,
        "MODEL.KNET.SEMANTIC.BASE_HEAD": "SkipHead",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    }
    assert train_net(config_file=SEMANTIC, options=options).status == 0
    cfg = load_config(SEMANTIC, pairs({**options, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 9}))
    head = build_model(cfg).sem_seg_head
    assert type(head.base_head).__name__ == "SkipHead" and len(head.kernel_update_heads) == 1


@pytest.fixture
def numbered(tmp_path):
    """Folders of two images; the first has the objects 1 and 3, the second has 2."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, objects in {"a": {1: 4, 3: 24}, "b": {2: 12}}.items():
        numbers = np.zeros((48, 64), np.uint16)
        for number, start in objects.items():
            numbers[start : start + 16, start : start + 20] = number
        pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(numbers.astype(np.int32)).convert("I;16").save(
            tmp_path / "labels" / f"{name}.png"
        )
    return tmp_path / "images", tmp_path / "labels"


def test_a_kind_of_data_and_a_task(part, train_net, tiny_options, numbered):
    part("own_task")
    register = part("own_dataset").register_numbered_objects
    register("numbered", *map(str, numbered), "cell", evaluator_type="counted")
    options = {
        **tiny_options,
        "DATASETS.TRAIN": ("numbered",),
        "DATASETS.TEST": ("numbered",),
        "MODEL.KNET.TEST.PANOPTIC_ON": False,
        "MODEL.KNET.TEST.SEMANTIC_ON": False,
    }
    report = check_data(load_config(INSTANCE, pairs(options)))
    assert " 0 errors" in report.summary(), str(report.table())
    outcome = train_net(config_file=INSTANCE, options=options)
    assert outcome.status == 0, outcome.err
    assert "2 images with 3 of 3 objects" in outcome.out
    assert "count/error" in metrics(options) and "segm/AP" in metrics(options)


def test_the_program_has_all_parts(tmp_path):
    """As a user starts it; a name that does not exist is told with those that do."""
    words = ["--config-file", DEMO_CONFIG, "--num-gpus", "0"]
    words += ["MODEL.KNET.NECK.NAME", "ConcatNeck", "MODEL.KNET.NUM_KERNELS", "many"]
    words += ["OUTPUT_DIR", str(tmp_path)]
    program = subprocess.run(
        [sys.executable, str(FOLDER / "train_net.py"), *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert program.returncode == 1 and "NUM_KERNELS many does not fit" in program.stderr
