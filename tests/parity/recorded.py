"""Access to the recorded behaviour of the authors' implementation, and the models it belongs to."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from knet.checkpoint import from_official
from knet.data.class_layout import ClassLayout
from knet.modeling.criterion import Criterion
from knet.modeling.inference import Postprocessor
from knet.modeling.kernel_head import KernelHead
from knet.modeling.kernel_update import KernelUpdateHead
from knet.modeling.matcher import Matcher
from knet.modeling.meta_arch import KNet
from knet.modeling.neck import SemanticFPN
from knet.modeling.targets import TargetBuilder

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "parity"
CHANNELS, GROUPS, KERNELS, THINGS, STUFF = 32, 8, 12, 5, 4
LEVELS = ["p2", "p3", "p4", "p5"]


def load(name: str):
    """A recording; skips the test where the recordings are not at hand."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the recording {name} is not beside the project (../shared/parity)")
    return torch.load(path, weights_only=True)


def tolerance(device: torch.device, on_cpu: float, on_gpu: float = 1e-3) -> float:
    """Of a relative error; a GPU sums in another order than a CPU, which made the recordings."""
    return on_cpu if device.type == "cpu" else on_gpu


def relative_error(actual, expected) -> float:
    """max |a - b| / max |b|"""
    actual, expected = (torch.as_tensor(x).cpu().double() for x in (actual, expected))
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def shapes():
    return {f"p{i}": ShapeSpec(channels=CHANNELS, stride=2**i) for i in range(2, 6)}


def build_neck():
    return SemanticFPN(shapes(), in_features=LEVELS, channels=CHANNELS, num_groups=GROUPS)


def build_update_head(num_classes):
    return KernelUpdateHead(
        num_classes=num_classes, channels=CHANNELS, num_heads=4, feedforward_channels=64
    )


class NoBackbone(nn.Module):
    """Stands where the recordings, which start at the pyramid, need no backbone."""

    size_divisibility = 32


def build_model(num_stuff: int = STUFF) -> KNet:
    """The recorded model: everything behind the pyramid."""
    layout = ClassLayout(range(THINGS), range(THINGS, THINGS + num_stuff))
    return KNet(
        backbone=NoBackbone(),
        neck=build_neck(),
        kernel_head=KernelHead(
            num_thing_classes=THINGS,
            num_stuff_classes=num_stuff,
            num_kernels=KERNELS,
            channels=CHANNELS,
            num_groups=GROUPS,
        ),
        kernel_update_heads=[build_update_head(THINGS + num_stuff) for _ in range(3)],
        criterion=Criterion(
            matcher=Matcher(),
            num_kernels=KERNELS,
            num_thing_classes=THINGS,
            rank_weight=0.1 if num_stuff else 0.0,
        ),
        target_builder=TargetBuilder(layout, mask_stride=4),
        postprocessor=Postprocessor(layout=layout, num_kernels=KERNELS),
    )


def load_official(module: nn.Module, state_dict, prefix: str = "") -> None:
    """Load recorded weights into a part of the model; every tensor must find its place.

    Args:
        prefix: of the part, in our names.
    """
    ours, unknown = from_official(state_dict)
    assert not unknown
    assert all(name.startswith(prefix) for name in ours)
    module.load_state_dict({name[len(prefix) :]: tensor for name, tensor in ours.items()})


def features(recording, device: torch.device) -> dict:
    return {k: v.to(device) for k, v in zip(LEVELS, recording["inputs"]["fpn_feats"])}
