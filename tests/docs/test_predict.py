"""Every Python block of docs/predict.md runs, one after the other."""

import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from knet.engine import KNetTrainer
from knet.engine.model_file import save_model
from tests.conftest import REPO

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (REPO / "docs/predict.md").read_text(), re.M | re.S)


@pytest.fixture
def namespace(tiny_config, tmp_path):
    """What the page takes for given: ``weights`` and ``folder``."""
    torch.manual_seed(0)
    model = KNetTrainer.build_model(tiny_config)
    for head in model.kernel_update_heads:  # finds something
        torch.nn.init.zeros_(head.class_proj.bias)
    save_model(model, str(tmp_path / "model.pth"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).resize((90, 60), Image.BICUBIC).save(folder / "street.jpg")
    cv2.imwrite(str(folder / "scan.png"), rng.integers(0, 65536, (60, 90), np.uint16))
    (folder / "broken.jpg").write_text("not found")
    return {"weights": str(tmp_path / "model.pth"), "folder": folder}


def test_the_page_runs(namespace, capsys):
    assert len(BLOCKS) > 7
    for block in BLOCKS:
        exec(block, namespace)
    printed = capsys.readouterr().out
    assert re.search(r"^\w+ \d+% \d+ pixels$", printed, re.M), "the first block"
    assert re.search(r"^\w+ \d+ 0\.\d+ \[.*\]$", printed, re.M), "the instances"
    assert printed.count("cannot read the image") == 2, "the broken file, alone and in the stream"
    assert "street.jpg (60, 90, 3) torch.Size([60, 90])" in printed
    assert len(namespace["results"]) == 8 and namespace["owners"].max() == 1
    assert namespace["result"]["sem_seg"].shape[1:] == (256, 384)
