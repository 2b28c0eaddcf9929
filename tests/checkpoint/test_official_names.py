"""Every published model's names, shapes and values, to this project's and back."""

import pytest
import torch
from detectron2.modeling.backbone.swin import SwinTransformer

from knet.checkpoint import from_official, to_official
from tests.parity import recorded

from . import key_lists


@pytest.mark.parametrize("name", key_lists.NAMES)
def test_there_and_back_changes_nothing(name):
    official = key_lists.official(name, values=True)
    ours, unknown = from_official(official)
    assert not unknown
    assert len(ours) == len(official)  # no two of them under one name
    back, unknown = to_official(ours)
    assert not unknown
    assert set(back) == set(official)
    for key, tensor in official.items():
        assert back[key].dtype == tensor.dtype and torch.equal(back[key], tensor), key


@pytest.mark.parametrize("case", ["det_swin", "seg_swin"])
def test_swin_of_the_authors_frameworks_equals_detectron2s(case):
    recording = recorded.load("backbones_small.pt")["cases"][case]
    config = recording["config"]
    ours, unknown = from_official({f"backbone.{k}": v for k, v in recording["state_dict"].items()})
    assert not unknown
    model = SwinTransformer(
        embed_dim=config["embed_dims"],
        depths=config["depths"],
        num_heads=config["num_heads"],
        window_size=config["window_size"],
        drop_path_rate=0.0,
    ).eval()
    model.load_state_dict({k.replace("backbone.bottom_up.", ""): v for k, v in ours.items()})
    outputs = model(recording["input"])
    for i, expected in enumerate(recording["outputs"]):
        assert recorded.relative_error(outputs[f"p{i}"], expected) < 1e-5
