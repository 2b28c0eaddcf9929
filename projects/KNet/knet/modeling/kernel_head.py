"""Kernel head: the first kernels K_0, the first masks M_0 and the feature map F.

Shape shorthand: B images, N kernels (things, then stuff), C channels, H x W the neck's map.
"""

import math
from typing import Any, Dict, Tuple

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.utils.registry import Registry
from torch import nn

from .grouping import group_features
from .neck import conv_block
from .structures import StagePrediction

__all__ = ["KERNEL_HEAD_REGISTRY", "KernelHead", "build_kernel_head"]

KERNEL_HEAD_REGISTRY = Registry("KNET_KERNEL_HEAD")
KERNEL_HEAD_REGISTRY.__doc__ = """
Modules that turn the neck's two maps into the first kernels and masks; called with
``(cfg, num_thing_classes, num_stuff_classes)``.
"""

# of a class before anything is learned, as in focal loss (RetinaNet): a probability, and its logit
PRIOR = 0.01
PRIOR_LOGIT = -math.log((1 - PRIOR) / PRIOR)


def build_kernel_head(cfg, num_thing_classes: int, num_stuff_classes: int) -> nn.Module:
    """Build the kernel head that ``MODEL.KNET.KERNEL_HEAD.NAME`` names."""
    name = cfg.MODEL.KNET.KERNEL_HEAD.NAME
    return KERNEL_HEAD_REGISTRY.get(name)(cfg, num_thing_classes, num_stuff_classes)


def kernel_head_arguments(cfg, num_thing_classes: int, num_stuff_classes: int) -> Dict[str, Any]:
    """What the config says of a kernel head, by the names of its arguments."""
    knet = cfg.MODEL.KNET
    return {
        "num_thing_classes": num_thing_classes,
        "num_stuff_classes": num_stuff_classes,
        "num_kernels": knet.NUM_KERNELS,
        "channels": knet.CHANNELS,
        "num_groups": knet.NUM_GROUPS,
        "mask_threshold": knet.MASK_THRESHOLD,
        "semantic_blocks": knet.SEMANTIC_BLOCKS,
    }


def start_classifier(classifier: nn.Conv2d, behind_blocks: bool) -> None:
    """First weights of the semantic branch's classifier; every class at the prior.

    Args:
        behind_blocks: of the paper, small; else of the size that any 1x1 convolution has, so that
            the pyramid learns from the first step on.
    """
    if behind_blocks:
        nn.init.normal_(classifier.weight, std=0.01)
    else:
        weight_init.c2_msra_fill(classifier)
    nn.init.constant_(classifier.bias, PRIOR_LOGIT)


@KERNEL_HEAD_REGISTRY.register()
class KernelHead(nn.Module):
    """Instance kernels that are learned, semantic kernels that are a classifier's rows.

    The learned instance kernels make their masks on the instance map; what they find on
    F = F_ins + F_seg is added to them. For panoptic models the stuff rows of the classifier and
    their logits are appended as kernels and masks (paper sections 3.2 and 3.4).
    """

    @configurable
    def __init__(
        self,
        *,
        num_thing_classes: int,
        num_stuff_classes: int,
        num_kernels: int = 100,
        channels: int = 256,
        num_groups: int = 32,
        mask_threshold: float = 0.5,
        semantic_blocks: bool = True,
    ):
        """
        Args:
            num_thing_classes, num_stuff_classes: the semantic branch has their sum as outputs,
                things first. Without stuff the model is an instance model.
            num_kernels: instance kernels (the paper's N), at most so many objects an image.
            channels: C.
            num_groups: groups of each GroupNorm.
            mask_threshold: see :func:`knet.modeling.grouping.group_features`.
            semantic_blocks: False: the classifier of the semantic branch reads the semantic map
                itself; see :func:`start_classifier`.
        """
        super().__init__()
        self.num_kernels = num_kernels
        self.num_thing_classes = num_thing_classes
        self.mask_threshold = mask_threshold
        num_classes = num_thing_classes + num_stuff_classes
        self.instance_conv = conv_block(channels, channels, 1, num_groups)
        self.semantic_conv = (
            conv_block(channels, channels, 1, num_groups) if semantic_blocks else nn.Identity()
        )
        self.instance_kernels = nn.Conv2d(channels, num_kernels, 1, bias=False)
        self.semantic_kernels = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.instance_kernels.weight, std=1.0)
        start_classifier(self.semantic_kernels, semantic_blocks)

    @classmethod
    def from_config(cls, cfg, num_thing_classes, num_stuff_classes):
        return kernel_head_arguments(cfg, num_thing_classes, num_stuff_classes)

    def forward(
        self, instance_map: torch.Tensor, semantic_map: torch.Tensor
    ) -> Tuple[torch.Tensor, StagePrediction, torch.Tensor]:
        """
        Args:
            instance_map, semantic_map: (B, C, H, W) each, from the neck.

        Returns:
            F (B, C, H, W); the prediction of stage 0 (kernels and masks of N kernels: instance
            kernels, then one per stuff class); semantic logits (B, K, H, W).
        """
        instance_features = self.instance_conv(instance_map)
        semantic_features = self.semantic_conv(semantic_map)
        feature_map = instance_features + semantic_features

        mask_logits = self.instance_kernels(instance_features)
        semantic_logits = self.semantic_kernels(semantic_features)

        found = group_features(mask_logits, feature_map, self.mask_threshold)
        kernels = self.instance_kernels.weight.flatten(1) + found  # (B, N_instance, C)

        stuff_kernels = self.semantic_kernels.weight[self.num_thing_classes :].flatten(1)
        stuff_kernels = stuff_kernels.expand(kernels.shape[0], -1, -1)
        prediction = StagePrediction(
            kernels=torch.cat((kernels, stuff_kernels), dim=1),
            mask_logits=torch.cat(
                (mask_logits, semantic_logits[:, self.num_thing_classes :]), dim=1
            ),
        )
        return feature_map, prediction, semantic_logits
