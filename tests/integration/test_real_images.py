"""Real annotated images through the commands that a user types."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch

from tests.conftest import REPO, pairs

FACADE_CONFIG = str(REPO / "configs" / "demo" / "knet_panoptic_facade.yaml")


def losses(output):
    lines = (output / "metrics.json").read_text().splitlines()
    return [r["total_loss"] for r in map(json.loads, lines) if "total_loss" in r]


@pytest.fixture
def output(tmp_path):
    """The run's folder; taken away, as the weights of a ResNet-50 with AdamW's state are large."""
    folder = tmp_path / "output"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_the_published_recipe_learns_from_and_evaluates_coco(real_coco, output):
    """ResNet-50, 256 channels, 100 + 53 kernels: only the images and the run are small."""
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": (),
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(output),
    }
    done = subprocess.run(
        [
            sys.executable,
            str(REPO / "train_net.py"),
            "--config-file",
            str(REPO / "configs" / "knet_panoptic.yaml"),
            *pairs(options),
        ],
        # the built-in names look there when the package is imported
        env={**os.environ, "DETECTRON2_DATASETS": str(real_coco), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    log = (output / "log.txt").read_text()
    assert "'coco_2017_train_panoptic': " in log and "Running on cpu" in log
    assert all(math.isfinite(loss) for loss in losses(output)) and losses(output)
    folder = output / "inference" / "coco_2017_val_panoptic"
    predictions = json.loads((folder / "predictions.json").read_text())
    assert len(predictions["annotations"]) == 4
    quality = json.loads((folder / "panoptic_quality.json").read_text())
    assert len(quality["per_class"]) == 133 and 0 <= quality["All"]["PQ"] < 50

    model = torch.load(output / "model_final.pth", weights_only=False)["model"]
    assert model["kernel_head.instance_kernels.weight"].shape == (100, 256, 1, 1)
    assert model["kernel_update_heads.2.class_proj.weight"].shape == (133, 256)


def test_ones_own_data_needs_nothing_but_its_description(
    real_data, tiny_options, train_net, output, monkeypatch
):
    """Facades: stuff first in the json, up to 198 things an image, kernels for 8 of them."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    options = {k: v for k, v in tiny_options.items() if not k.startswith("DATASETS.")}
    options.update({"SOLVER.MAX_ITER": 4, "OUTPUT_DIR": str(output)})
    assert train_net(config_file=FACADE_CONFIG, options=options).status == 0
    assert all(math.isfinite(loss) for loss in losses(output)) and losses(output)
    quality = json.loads(
        (output / "inference" / "facade_val" / "panoptic_quality.json").read_text()
    )
    assert list(quality["per_class"]) == ["others", "facade", "pillar", "window", "balcony"]
    assert (quality["Things"]["classes"], quality["Stuff"]["classes"]) == (2, 3)
