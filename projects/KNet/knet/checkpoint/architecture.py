"""What K-Net a state dict belongs to, and which config builds it."""

import re
from dataclasses import asdict, dataclass
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

import torch

__all__ = ["Architecture", "describe", "differences", "published_config"]

_RESNETS = {
    (2, 2, 2, 2): "ResNet-18",
    (3, 4, 6, 3): "ResNet-50",
    (3, 4, 23, 3): "ResNet-101",
    (3, 8, 36, 3): "ResNet-152",
}
_SWINS = {
    (96, (2, 2, 6, 2)): "Swin-T",
    (96, (2, 2, 18, 2)): "Swin-S",
    (128, (2, 2, 18, 2)): "Swin-B",
    (192, (2, 2, 18, 2)): "Swin-L",
}
_DETECTION, _SEMANTIC = "panoptic or instance segmentation", "semantic segmentation"
# by a module of the kernel head: where instance kernels start
_STARTS = {"instance_kernels": "learned", "point_proj": "points"}
_START_IN_WORDS = {"learned": "are learned", "points": "start at points"}


@dataclass(frozen=True)
class Architecture:
    """A K-Net as far as its tensors tell; 0 and "" for what it does not have."""

    task: str
    backbone: str
    # Of a semantic model: what the kernels are updated on top of
    head: str
    classes: int
    channels: int
    # Where instance kernels start: "learned" or "points"
    start: str
    # Instance kernels that are learned; how many start at points is not in the weights
    kernels: int
    stages: int

    def __str__(self) -> str:
        parts = [self.head, self.backbone]
        numbers = [f"{self.kernels} instance kernels"] if self.start == "learned" else []
        if self.start == "points":
            numbers = [f"instance kernels that {_START_IN_WORDS[self.start]}"]
        numbers += [f"{self.classes} classes", f"{self.channels} channels", f"{self.stages} stages"]
        return f"{self.task}, {', '.join([part for part in parts if part] + numbers)}"


def describe(state_dict: Mapping[str, torch.Tensor]) -> Optional[Architecture]:
    """The architecture of a whole model, None if it is no K-Net.

    Args:
        state_dict: under this project's names.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    module = next((name for name in _STARTS if f"kernel_head.{name}.weight" in shapes), None)
    if module is not None:
        start = _STARTS[module]
        rows, channels = shapes[f"kernel_head.{module}.weight"][:2]
        return Architecture(
            task=_DETECTION,
            backbone=_backbone(_behind(shapes, "backbone.bottom_up.")),
            head="",
            classes=shapes.get("kernel_head.semantic_kernels.weight", (0,))[0],
            channels=channels,
            start=start,
            kernels=rows if start == "learned" else 0,
            stages=_count(shapes, r"kernel_update_heads\.(\d+)\."),
        )
    head = _behind(shapes, "sem_seg_head.base_head.")
    if not head:
        return None
    classifier = head.get("predictor.1.weight", head.get("predictor.weight", (0, 0)))
    return Architecture(
        task=_SEMANTIC,
        backbone=_backbone(_behind(shapes, "backbone.")),
        head=_base_head({name.split(".")[0] for name in head}),
        classes=classifier[0],
        channels=classifier[1],
        start="",
        kernels=0,
        stages=_count(shapes, r"sem_seg_head\.kernel_update_heads\.(\d+)\."),
    )


def differences(file: Architecture, model: Architecture) -> List[str]:
    """What a file's architecture has that a model's has not, in words; empty if nothing."""
    theirs, ours = asdict(file), asdict(model)
    if file.task != model.task:
        return [f"a model for {file.task} and not for {model.task}"]
    apart = {
        key: f"{key} {theirs[key]} and not {ours[key]}"
        for key in theirs
        if theirs[key] != ours[key]
    }
    if "start" in apart:
        here, there = _START_IN_WORDS[model.start], _START_IN_WORDS[file.start]
        apart["start"] = f"kernels that {there} where this model's {here}"
        apart.pop("kernels", None)  # a number on one side only
    return list(apart.values())


def published_config(architecture: Architecture) -> Optional[str]:
    """Path, below ``configs``, of the config that builds a published model; None for others.

    Models that differ in their schedule only have more configs than the one named here.
    """
    return _PUBLISHED.get(
        (
            architecture.backbone,
            architecture.head,
            architecture.classes,
            architecture.channels,
            architecture.kernels,
        )
    )


def _published() -> Dict[Tuple, str]:
    configs = {}
    for config, backbone in (
        ("r50_1x", "ResNet-50"),
        ("r101_ms3x", "ResNet-101"),
        ("r101_dcn_ms3x", "ResNet-101-DCN"),
        ("swin_l_ms3x", "Swin-L"),
    ):
        configs[backbone, "", 133, 256, 100] = f"coco/panoptic/knet_{config}.yaml"
        if backbone != "Swin-L":
            configs[backbone, "", 80, 256, 100] = f"coco/instance/knet_{config}.yaml"
    resnet = "deep-stem ResNet-50"
    for head in ("FCN", "PSPNet", "DeepLabV3"):
        configs[resnet, head, 150, 512, 0] = f"ade20k/knet_{head.lower()}_r50.yaml"
    for config, backbone in (("r50", resnet), ("swin_t", "Swin-T"), ("swin_l", "Swin-L")):
        configs[backbone, "UPerNet", 150, 256, 0] = f"ade20k/knet_upernet_{config}.yaml"
        configs[backbone, "UPerNet", 150, 512, 0] = f"ade20k/mmseg_knet_upernet_{config}.yaml"
    return configs


_PUBLISHED = _published()


def _backbone(shapes: Mapping[str, Tuple[int, ...]]) -> str:
    """A backbone's name; anything else's is "another backbone"."""
    if "patch_embed.proj.weight" in shapes:
        channels = shapes["patch_embed.proj.weight"][0]
        depths = _depths(shapes, "layers.{}.blocks", range(4))
        return _SWINS.get((channels, depths), f"Swin of {channels} channels and {depths} blocks")
    if "stem.conv1.weight" not in shapes:
        return "another backbone"
    depths = _depths(shapes, "res{}", range(2, 6))
    name = _RESNETS.get(depths, f"ResNet of {depths} blocks")
    has_bottlenecks = "res2.0.conv3.weight" in shapes
    if depths == (3, 4, 6, 3) and not has_bottlenecks:
        name = "ResNet-34"
    last = shapes.get("res2.0.conv3.weight" if has_bottlenecks else "res2.0.conv2.weight", (0,))[0]
    if last != (256 if has_bottlenecks else 64):
        name = f"{name} of {last} channels"
    if any(".conv2_offset." in key for key in shapes):
        name = f"{name}-DCN"
    return f"deep-stem {name}" if "stem.conv2.weight" in shapes else name


def _base_head(modules: Iterable[str]) -> str:
    for module, name in (
        ("pyramid_conv", "UPerNet"),
        ("pyramid_pooling", "PSPNet"),
        ("aspp_convs", "DeepLabV3"),
        ("fuse_conv", "FCN"),
    ):
        if module in modules:
            return name
    return "another head"


def _behind(shapes: Mapping[str, Tuple[int, ...]], prefix: str) -> Dict[str, Tuple[int, ...]]:
    return {name[len(prefix) :]: s for name, s in shapes.items() if name.startswith(prefix)}


def _count(names: Iterable[str], pattern: str) -> int:
    found = (re.match(pattern, name) for name in names)
    return len({match.group(1) for match in found if match})


def _depths(names: Iterable[str], stage: str, numbers: Iterable[int]) -> Tuple[int, ...]:
    names = list(names)
    counts = (_count(names, rf"{re.escape(stage.format(i))}\.(\d+)\.") for i in numbers)
    return tuple(count for count in counts if count)
