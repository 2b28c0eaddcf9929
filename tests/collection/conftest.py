"""A model in a file, and images to predict on."""

from pathlib import Path
from typing import List

import numpy as np
import pytest
import torch
from PIL import Image

import knet
from knet.engine import KNetTrainer
from knet.engine.main import load_config
from tests.conftest import DEMO_CONFIG, pairs


def write_model(options: dict, path: Path) -> str:
    """An untrained model that finds things and stuff in noise."""
    options = {
        **options,
        "MODEL.KNET.TEST.SCORE_THRESHOLD": 0.0,
        "MODEL.KNET.TEST.OVERLAP_THRESHOLD": 0.0,
        "MODEL.KNET.TEST.MAX_INSTANCES": 5,
    }
    torch.manual_seed(0)
    model = KNetTrainer.build_model(load_config(DEMO_CONFIG, pairs(options))).eval()
    for head in model.kernel_update_heads:
        torch.nn.init.zeros_(head.class_proj.bias)
    knet.save_model(model, str(path))
    return str(path)


@pytest.fixture
def model_file(tiny_options, tmp_path) -> str:
    return write_model(tiny_options, tmp_path / "model.pth")


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """Nine images of several sizes, of which the fifth is none; the last is in a folder below."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    names = [*"abcdefgh", "more/a"]
    for i, name in enumerate(names):
        noise = np.random.default_rng(i).integers(0, 256, (40 + 3 * i, 60, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    (folder / "e.png").write_text("no image")
    return folder


def images_of(folder: Path) -> List[str]:
    """In the order in which they are predicted."""
    return [str(folder / f"{name}.png") for name in [*"abcdefgh", "more/a"]]
