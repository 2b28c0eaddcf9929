"""One file to share, made of a checkpoint by a program."""

import subprocess
import sys

import torch

import knet
from knet.engine import KNetTrainer
from tests.conftest import REPO

TOOL = str(REPO / "projects" / "KNet" / "tools" / "make_model_file.py")


def run(*words: object):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, words)], capture_output=True, text=True, timeout=120
    )


def test_an_old_checkpoint_becomes_a_file_that_needs_nothing(tiny_config, tmp_path):
    """Weights alone, as training wrote them once, and the config of the run."""
    model = KNetTrainer.build_model(tiny_config)
    old, config, target = tmp_path / "old.pth", tmp_path / "config.yaml", tmp_path / "new.pth"
    torch.save({"model": model.state_dict()}, old)
    tiny_config.DATASETS.TRAIN, tiny_config.DATASETS.TEST = (), ()
    config.write_text(tiny_config.dump())
    classes = [{"id": i, "name": f"class {i}", "isthing": i < 5} for i in range(9)]

    refused = run(old, target)
    assert refused.returncode == 1 and "does not tell its config" in refused.stderr
    made = run(
        old, target, "--half", "--config-file", config, "--opts", "MODEL.KNET.CLASSES", classes
    )
    assert made.returncode == 0, made.stderr
    assert "9 classes" in made.stdout
    again = run(old, target, "--config-file", config)
    assert again.returncode == 1 and "--force" in again.stderr

    loaded = knet.load_model(str(target), device="cpu")
    assert [each.name for each in loaded.info.classes] == [f"class {i}" for i in range(9)]
    name = "kernel_head.instance_kernels.weight"
    assert torch.equal(loaded.state_dict()[name], model.state_dict()[name].half().float())
