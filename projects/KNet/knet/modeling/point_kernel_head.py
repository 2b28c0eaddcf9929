"""Kernel head whose instance kernels start at a place of the image, instead of being learned.

Not the paper's: a kernel that is the same for every image must first learn which objects are its
own; one that starts on an object has it. Shape shorthand: B images, N kernels (things, then stuff),
K thing classes, C channels, H x W the neck's map.
"""

from typing import Tuple

import torch
from detectron2.config import configurable
from torch import nn

from .fall_off import NUM_FALL_OFF, fall_off_logits
from .grouping import group_features
from .kernel_head import (
    KERNEL_HEAD_REGISTRY,
    PRIOR,
    PRIOR_LOGIT,
    kernel_head_arguments,
    start_classifier,
)
from .neck import conv_block
from .points import covered_by_stronger, strongest_cells
from .structures import Points, StagePrediction

__all__ = ["PointKernelHead", "class_presence"]


@KERNEL_HEAD_REGISTRY.register()
class PointKernelHead(nn.Module):
    """Instance kernels that start where the middle of an object seems to be.

    A point map tells where middles are (:mod:`knet.modeling.points`); at its N best cells p_n a
    kernel k_n, a bias b_n and a fall-off L_n are read from a second map, from which each cell p
    also votes for the middle of its object, e(p) = p + v(p) (the spatial embedding of Neven et al.,
    "Instance Segmentation by Jointly Optimizing Spatial Embeddings and Clustering Bandwidth"):

        M_0 = k_n * F_ins + b_n - |L_n (e(p) - p_n)|^2 / 4^2,

    distances (y, x) in cells. L_n is a lower triangular matrix, its diagonal positive, so that a
    mask may reach further along an object than across it. K_0 is k_n and what M_0 finds on F =
    F_ins + F_seg; the class logits of stage 0 are the point's. Stuff kernels are those of
    :class:`knet.modeling.KernelHead`.
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
        stuff_scores: bool = False,
    ):
        """
        Args:
            num_thing_classes: at least one.
            stuff_scores: see :meth:`_class_logits`.
            others: as of :class:`knet.modeling.KernelHead`.
        """
        super().__init__()
        self.stuff_scores = stuff_scores
        self.num_kernels = num_kernels
        self.num_thing_classes = num_thing_classes
        self.mask_threshold = mask_threshold
        num_classes = num_thing_classes + num_stuff_classes
        self.instance_conv = conv_block(channels, channels, 1, num_groups, init="msra")
        self.semantic_conv = (
            conv_block(channels, channels, 1, num_groups, init="msra")
            if semantic_blocks
            else nn.Identity()
        )
        self.point_conv = conv_block(channels, channels, 3, num_groups, init="msra")
        self.point_proj = nn.Conv2d(channels, num_thing_classes, 1)
        self.kernel_conv = conv_block(channels, channels, 3, num_groups, init="msra")
        self.kernel_proj = nn.Linear(channels, channels + 1 + NUM_FALL_OFF)  # k, b, L
        self.vote_proj = nn.Conv2d(channels, 2, 1)  # v, in 4 cells
        self.semantic_kernels = nn.Conv2d(channels, num_classes, 1)
        for layer in (self.point_proj, self.kernel_proj):
            nn.init.normal_(layer.weight, std=0.01)
        start_classifier(self.semantic_kernels, semantic_blocks)
        for parameter in (self.kernel_proj.bias, *self.vote_proj.parameters()):
            nn.init.zeros_(parameter)
        nn.init.constant_(self.point_proj.bias, PRIOR_LOGIT)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        """Weights from before there were votes: without them masks are what they were."""
        if f"{prefix}kernel_proj.weight" in state_dict:  # a backbone's file stays one
            for name, parameter in self.vote_proj.named_parameters(f"{prefix}vote_proj"):
                state_dict.setdefault(name, torch.zeros_like(parameter))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    @classmethod
    def from_config(cls, cfg, num_thing_classes, num_stuff_classes):
        return {
            **kernel_head_arguments(cfg, num_thing_classes, num_stuff_classes),
            "stuff_scores": cfg.MODEL.KNET.KERNEL_HEAD.STUFF_SCORES,
        }

    def forward(
        self, instance_map: torch.Tensor, semantic_map: torch.Tensor
    ) -> Tuple[torch.Tensor, StagePrediction, torch.Tensor]:
        """
        Args:
            instance_map, semantic_map: (B, C, H, W) each, from the neck.

        Returns:
            F (B, C, H, W); the prediction of stage 0, with class logits and points; semantic
            logits (B, thing and stuff classes, H, W).
        """
        instance_features = self.instance_conv(instance_map)
        semantic_features = self.semantic_conv(semantic_map)
        feature_map = instance_features + semantic_features
        semantic_logits = self.semantic_kernels(semantic_features)

        point_features = self.point_conv(instance_map)
        # rounded to half precision, neighbours of a maximum would be maxima too
        with torch.autocast(device_type=instance_map.device.type, enabled=False):
            point_logits = self.point_proj(point_features.float())
        cells, is_peak = strongest_cells(point_logits.detach(), self.num_kernels)
        kernels, mask_logits, votes = self._start(instance_map, instance_features, cells)
        kernels = kernels + group_features(mask_logits, feature_map, self.mask_threshold)

        stuff_kernels = self.semantic_kernels.weight[self.num_thing_classes :].flatten(1)
        stuff_logits = semantic_logits[:, self.num_thing_classes :]
        prediction = StagePrediction(
            kernels=torch.cat((kernels, stuff_kernels.expand(kernels.shape[0], -1, -1)), dim=1),
            mask_logits=torch.cat((mask_logits, stuff_logits), dim=1),
            class_logits=self._class_logits(
                point_logits, cells, is_peak, mask_logits, semantic_logits
            ),
            points=Points(logits=point_logits, cells=cells, votes=votes),
        )
        return feature_map, prediction, semantic_logits

    def _start(
        self, instance_map: torch.Tensor, instance_features: torch.Tensor, cells: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Kernels k (B, N, C) at the cells (B, N), their masks M_0 (B, N, H, W), and the votes."""
        channels, *size = instance_map.shape[1:]
        described = self.kernel_conv(instance_map)
        votes = self.vote_proj(described).float()
        at_points = described.flatten(2).gather(2, cells[:, None].expand(-1, channels, -1))
        at_points = self.kernel_proj(at_points.transpose(1, 2))
        kernels, bias, fall_off = at_points.split((channels, 1, NUM_FALL_OFF), dim=2)

        mask_logits = torch.einsum("bnc,bchw->bnhw", kernels, instance_features)
        mask_logits = mask_logits + bias.float()[..., None]
        rows = torch.div(cells, size[1], rounding_mode="floor")
        points = torch.stack((rows, cells - rows * size[1]), -1)
        mask_logits = fall_off_logits(mask_logits, fall_off.float(), points, votes)
        return kernels, mask_logits, votes

    @torch.no_grad()  # learned by the losses of the points and of the semantic branch
    def _class_logits(
        self,
        point_logits: torch.Tensor,
        cells: torch.Tensor,
        is_peak: torch.Tensor,
        mask_logits: torch.Tensor,
        semantic_logits: torch.Tensor,
    ) -> torch.Tensor:
        """Class logits of stage 0: (B, N + stuff, all classes), of things those of the points.

        A point that is none of its own (a neighbour of a better one, or inside the mask of a better
        one) starts as no object. A stuff kernel starts, with stuff scores, at what the semantic
        branch says of its class. All else starts at the focal loss's prior.
        """
        num_things, num_classes = self.num_thing_classes, self.semantic_kernels.out_channels
        index = cells[:, None].expand(-1, num_things, -1)
        of_points = point_logits.flatten(2).gather(2, index).transpose(1, 2)  # (B, N, K)
        own = is_peak & ~covered_by_stronger(mask_logits, cells, self.mask_threshold)
        of_points = torch.where(own[..., None], of_points, of_points.clamp(max=PRIOR_LOGIT))

        shape = (cells.shape[0], self.num_kernels + num_classes - num_things, num_classes)
        class_logits = of_points.new_full(shape, PRIOR_LOGIT)
        class_logits[:, : self.num_kernels, :num_things] = of_points
        if self.stuff_scores:
            own = torch.eye(num_classes - num_things, dtype=torch.bool, device=cells.device)
            of_stuff = class_presence(semantic_logits)[:, num_things:, None]
            of_stuff = torch.where(own, of_stuff, PRIOR_LOGIT)
            class_logits[:, self.num_kernels :, num_things:] = of_stuff
        return class_logits


def class_presence(semantic_logits: torch.Tensor) -> torch.Tensor:
    """Logits (B, K) of how sure a semantic branch is where it sees a class.

    The mean of the class's probability over all cells (by a softmax), each weighted by itself; not
    below the focal loss's prior.

    Args:
        semantic_logits: (B, K, H, W).
    """
    probability = semantic_logits.float().softmax(1)
    mean = probability.square().sum((2, 3)) / probability.sum((2, 3)).clamp(min=1e-6)
    return mean.logit(eps=PRIOR)
