"""Small models of the published architectures, and their weights as other frameworks save them."""

import datetime

import numpy as np
import torch

from knet.checkpoint import to_official
from knet.engine import KNetTrainer
from knet.engine.main import load_config
from tests.conftest import REPO, pairs

_TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.SWIN.EMBED_DIM": 8,
    "MODEL.SWIN.DEPTHS": [2, 2, 2, 2],
    "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8],
    "MODEL.KNET.KERNEL_UPDATE.NUM_HEADS": 4,
    "MODEL.KNET.KERNEL_UPDATE.FEEDFORWARD_CHANNELS": 32,
}
_DETECTION = {
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.KNET.CHANNELS": 16,
    "MODEL.KNET.NUM_GROUPS": 4,
    "MODEL.KNET.NUM_KERNELS": 8,
    "MODEL.KNET.NUM_THING_CLASSES": 3,
    "MODEL.KNET.NUM_STUFF_CLASSES": 2,
}
_SEMANTIC = {
    "MODEL.SEM_SEG_HEAD.NORM": "BN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "MODEL.KNET.SEMANTIC.AUXILIARY_CHANNELS": 8,
}
PANOPTIC = "coco/panoptic/knet_r50_1x.yaml"
PANOPTIC_SWIN = "coco/panoptic/knet_swin_l_ms3x.yaml"
FCN = "ade20k/knet_fcn_r50.yaml"
UPERNET_SWIN = "ade20k/knet_upernet_swin_t.yaml"


def options(config: str, **changes) -> list:
    """What makes a published config small; in a change, a key's dots are double underscores."""
    size = _SEMANTIC if config.startswith("ade20k") else _DETECTION
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return pairs({**_TINY, **size, **changes})


def build(config: str, seed: int = 0, **changes) -> torch.nn.Module:
    """A published model made small, every tensor of it random."""
    cfg = load_config(str(REPO / "configs" / config), options(config, **changes))
    torch.manual_seed(seed)
    model = KNetTrainer.build_model(cfg)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.0)
    return model


def backbone_of(model: torch.nn.Module, prefix: str) -> dict:
    """The backbone's tensors alone, under its own names."""
    state = model.state_dict()
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def save_official(path, state_dict: dict) -> str:
    """Write weights as the authors' framework does, with what it puts beside them."""
    official, unknown = to_official(state_dict)
    assert not unknown
    return save(path, official)


def save(path, official: dict) -> str:
    content = {
        "meta": {
            "mmdet_version": "2.17.0",
            "config": "model = dict()\n",
            "score": np.float64(0.5),
            "time": datetime.datetime(2021, 10, 1),
            "CLASSES": ("cup", "plate"),
        },
        "state_dict": official,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    torch.save(content, path)
    return str(path)


def assert_same(model: torch.nn.Module, other: torch.nn.Module, but=()) -> None:
    theirs = other.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, theirs[name]) == (name not in but), name
