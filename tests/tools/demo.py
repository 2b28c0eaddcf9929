"""What tests of tools/demo.py, and of the page about it, share."""

import importlib
from fractions import Fraction

import numpy as np
import torch
from PIL import Image

from knet.engine import KNetTrainer
from knet.engine.main import load_config
from knet.engine.model_file import save_model
from knet.video import Frame
from tests.conftest import DEMO_CONFIG, REPO, pairs

PROGRAM = REPO / "projects" / "KNet" / "tools" / "demo.py"


def load_program():
    """The module of the program."""
    return importlib.import_module("knet.commands.demo")


def make_model_file(options, path, seed=0):
    """A K-Net whose random kernels find something; returns the path."""
    torch.manual_seed(seed)
    options = {**options, "MODEL.KNET.TEST.OVERLAP_THRESHOLD": 0.0}
    model = KNetTrainer.build_model(load_config(DEMO_CONFIG, pairs(options))).eval()
    for head in model.kernel_update_heads:
        torch.nn.init.normal_(head.class_proj.weight)
        torch.nn.init.zeros_(head.class_proj.bias)
    save_model(model, str(path))
    return str(path)


def write_picture(path, seed, size=(50, 70)):
    """Spots of colours; returns the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    picture.save(path)
    return picture


class Shown:
    """In place of a window."""

    pictures: list

    def __init__(self, title):
        Shown.pictures = []

    def show(self, picture, wait=False):
        self.pictures.append(picture)
        return len(self.pictures) < 3

    def close(self):
        pass


def camera():
    """In place of a camera: five frames."""
    for i in range(5):
        yield Frame(np.full((50, 70, 3), 40 * i, np.uint8), Fraction(i, 8))
