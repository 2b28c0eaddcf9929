"""A K-Net small enough to train in a test, and inputs for it."""

from typing import Sequence

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Instances
from torch import nn

from knet.data.class_layout import ClassLayout
from knet.modeling.criterion import Criterion
from knet.modeling.inference import Postprocessor
from knet.modeling.kernel_head import KernelHead
from knet.modeling.kernel_update import KernelUpdateHead
from knet.modeling.matcher import Matcher
from knet.modeling.meta_arch import KNet
from knet.modeling.neck import SemanticFPN
from knet.modeling.targets import TargetBuilder


class Patches(nn.Module):
    """A backbone of one convolution a level."""

    def __init__(self, in_channels: int, channels: int, strides: Sequence[int] = (4, 8, 16, 32)):
        super().__init__()
        self.convs = nn.ModuleDict(
            {f"p{s}": nn.Conv2d(in_channels, channels, s, stride=s) for s in strides}
        )
        self.size_divisibility = max(strides)

    def output_shape(self):
        return {
            name: ShapeSpec(channels=conv.out_channels, stride=conv.stride[0])
            for name, conv in self.convs.items()
        }

    def forward(self, images):
        return {name: conv(images) for name, conv in self.convs.items()}


def tiny_model(
    *,
    layout=None,
    num_kernels: int = 6,
    channels: int = 16,
    num_stages: int = 3,
    neck_stride: int = 8,
    mask_stride: int = 4,
    in_channels: int = 3,
    seed: int = 0,
    kernel_head=KernelHead,
    residual: bool = False,
    semantic_loss: str = "focal",
    iou_branch: bool = False,
    vote_weight: float = 0.0,
) -> KNet:
    """A whole K-Net that trains a step in milliseconds; class scores start near 0.5, not 0.01.

    Where stages are residual, class scores start at those of the kernel head.
    """
    layout = layout or ClassLayout([0, 1, 2], [3, 4])
    num_classes = layout.num_things + layout.num_stuff
    torch.manual_seed(seed)
    backbone = Patches(in_channels, channels)
    shapes = backbone.output_shape()
    model = KNet(
        backbone=backbone,
        neck=SemanticFPN(
            shapes, in_features=list(shapes), channels=channels, stride=neck_stride, num_groups=4
        ),
        kernel_head=kernel_head(
            num_thing_classes=layout.num_things,
            num_stuff_classes=layout.num_stuff,
            num_kernels=num_kernels,
            channels=channels,
            num_groups=4,
        ),
        kernel_update_heads=[
            KernelUpdateHead(
                num_classes=num_classes,
                channels=channels,
                num_heads=2,
                feedforward_channels=24,
                residual=residual,
                iou_branch=iou_branch,
            )
            for _ in range(num_stages)
        ],
        criterion=Criterion(
            matcher=Matcher(),
            num_kernels=num_kernels,
            num_thing_classes=layout.num_things,
            rank_weight=0.1 if layout.num_stuff else 0.0,
            semantic_loss=semantic_loss,
            vote_weight=vote_weight,
        ),
        target_builder=TargetBuilder(layout, mask_stride),
        postprocessor=Postprocessor(layout=layout, num_kernels=num_kernels),
        mask_stride=mask_stride,
        pixel_mean=[100.0] * in_channels,
        pixel_std=[50.0] * in_channels,
    )
    for head in model.kernel_update_heads:
        nn.init.zeros_(head.class_proj.bias)
    return model


def training_input(rng, layout, size, num_things=2, in_channels=3) -> dict:
    height, width = size
    masks = np.zeros((num_things, height, width), dtype=bool)
    for mask in masks:
        y, x = int(rng.integers(height // 2)), int(rng.integers(width // 2))
        mask[y : y + height // 2, x : x + width // 2] = True
    instances = Instances(size)
    instances.gt_classes = torch.from_numpy(rng.choice(layout.thing_ids, size=num_things)).long()
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    image = rng.integers(0, 256, size=(in_channels, height, width), dtype=np.uint8)
    x = {"image": torch.from_numpy(image), "instances": instances, "file_name": "image.jpg"}
    if layout.num_stuff:
        x["sem_seg"] = torch.from_numpy(rng.choice([*layout.ids, 255], size=(height, width)))
    return x


LAYOUT = ClassLayout([0, 1, 2], [3, 4])
THINGS_ONLY = ClassLayout([0, 1], [])
SIZE = (61, 75)
