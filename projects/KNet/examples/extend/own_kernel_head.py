"""A kernel head: the neck's two maps -> the first kernels K_0, their masks M_0, and the map F."""

from typing import Tuple

import torch
from detectron2.config import configurable
from torch import nn

from knet import KERNEL_HEAD_REGISTRY, KernelHead
from knet.modeling.structures import StagePrediction


@KERNEL_HEAD_REGISTRY.register()
class SceneKernelHead(KernelHead):
    """The paper's head; each image shifts all instance kernels by what its mean feature says.

    Learned kernels are the same for every image. Here a linear layer of the mean of F is added to
    them before the first update, so that the first stage already knows the kind of scene.
    """

    @configurable
    def __init__(self, *, channels: int = 256, **kwargs):
        super().__init__(channels=channels, **kwargs)
        self.scene_proj = nn.Linear(channels, channels)
        nn.init.zeros_(self.scene_proj.weight)  # starts as the paper's head
        nn.init.zeros_(self.scene_proj.bias)

    def forward(
        self, instance_map: torch.Tensor, semantic_map: torch.Tensor
    ) -> Tuple[torch.Tensor, StagePrediction, torch.Tensor]:
        """As :meth:`knet.KernelHead.forward`."""
        feature_map, stage, semantic_logits = super().forward(instance_map, semantic_map)
        shift = self.scene_proj(feature_map.mean((2, 3)))[:, None]  # (B, 1, C)
        instance, stuff = stage.kernels.split(
            [self.num_kernels, stage.kernels.shape[1] - self.num_kernels], dim=1
        )
        stage.kernels = torch.cat((instance + shift, stuff), dim=1)
        return feature_map, stage, semantic_logits
