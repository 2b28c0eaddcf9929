"""Kernel update: kernels made better from what they found, one stage at a time (paper section 3.2).

Shape shorthand: B images, N kernels, C channels, K classes, H x W the feature map.
"""

from typing import Optional

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d
from detectron2.utils.registry import Registry
from torch import nn
from torch.nn import functional as F

from .grouping import group_transformed_features, kernels_before
from .kernel_head import PRIOR_LOGIT
from .masks import resize
from .structures import StagePrediction

__all__ = [
    "KERNEL_UPDATE_HEAD_REGISTRY",
    "KernelUpdateHead",
    "KernelUpdater",
    "build_kernel_update_head",
]

KERNEL_UPDATE_HEAD_REGISTRY = Registry("KNET_KERNEL_UPDATE_HEAD")
KERNEL_UPDATE_HEAD_REGISTRY.__doc__ = """
One stage of kernel update; called once per stage with ``(cfg, num_classes)``, and for semantic
models with the arguments of :class:`KernelUpdateHead` by which these differ. Its forward takes what
that of :class:`KernelUpdateHead` takes; ``class_logits`` are not given in semantic models.
"""


def build_kernel_update_head(cfg, num_classes: Optional[int], **differences) -> nn.Module:
    """Build one stage, of the kind that ``MODEL.KNET.KERNEL_UPDATE.NAME`` names.

    Args:
        num_classes: outputs of the class branch, None for none.
        differences: arguments that replace what the config says.
    """
    name = cfg.MODEL.KNET.KERNEL_UPDATE.NAME
    return KERNEL_UPDATE_HEAD_REGISTRY.get(name)(cfg, num_classes, **differences)


class KernelUpdater(nn.Module):
    """Adaptive kernel update: mix the group feature F^K and the kernel K by learned gates.

    F^G = phi_1(F^K) * phi_2(K);  K~ = G^F * psi_3(F^K) + G^K * psi_4(K)  (paper eq. 4 to 6), then
    a linear layer, LayerNorm and ReLU.
    """

    def __init__(
        self,
        channels: int = 256,
        *,
        gate_sigmoid: bool = True,
        gate_norm: bool = False,
        activate_terms: bool = False,
    ):
        """
        Args:
            channels: C. A longer feature or kernel, of m times C, is treated as m vectors that
                share these weights (the published 512-channel semantic models do).
            gate_sigmoid: squash the gates to 0..1, as every published model does.
            gate_norm: LayerNorm and ReLU on F^G before the gates.
            activate_terms: ReLU on both terms before they are mixed.
        """
        super().__init__()
        self.channels = channels
        self.gate_sigmoid = gate_sigmoid
        self.activate_terms = activate_terms
        self.feature_proj = nn.Linear(channels, 2 * channels)  # F^K -> phi_1, psi_3
        self.kernel_proj = nn.Linear(channels, 2 * channels)  # K -> phi_2, psi_4
        self.feature_norm = nn.LayerNorm(channels)
        self.kernel_norm = nn.LayerNorm(channels)
        self.gate_norm = nn.LayerNorm(channels) if gate_norm else None
        self.feature_gate = nn.Linear(channels, channels)
        self.feature_gate_norm = nn.LayerNorm(channels)
        self.kernel_gate = nn.Linear(channels, channels)
        self.kernel_gate_norm = nn.LayerNorm(channels)
        self.out_proj = nn.Linear(channels, channels)
        self.out_norm = nn.LayerNorm(channels)

    def forward(self, group_feature: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            group_feature: (..., m C), F^K.
            kernels: (..., m C), or any shape it broadcasts against: (..., L, m C) with a group
                feature of (..., 1, m C) is a kernel of L positions.

        Returns:
            the updated kernels, of the kernels' shape.
        """
        shape = kernels.shape
        group_feature = group_feature.unflatten(-1, (-1, self.channels))
        kernels = kernels.unflatten(-1, (-1, self.channels))
        feature_in, feature_out = self.feature_proj(group_feature).chunk(2, dim=-1)
        kernel_in, kernel_out = self.kernel_proj(kernels).chunk(2, dim=-1)

        gate = kernel_in * feature_in  # F^G
        if self.gate_norm is not None:
            gate = F.relu(self.gate_norm(gate))
        kernel_gate = self.kernel_gate_norm(self.kernel_gate(gate))
        feature_gate = self.feature_gate_norm(self.feature_gate(gate))
        if self.gate_sigmoid:
            kernel_gate, feature_gate = kernel_gate.sigmoid(), feature_gate.sigmoid()

        feature_out, kernel_out = self.feature_norm(feature_out), self.kernel_norm(kernel_out)
        if self.activate_terms:
            feature_out, kernel_out = F.relu(feature_out), F.relu(kernel_out)
        mixed = feature_gate * feature_out + kernel_gate * kernel_out
        return F.relu(self.out_norm(self.out_proj(mixed))).reshape(shape)


def _linear_blocks(channels: int, count: int) -> nn.Sequential:
    """``count`` times linear without bias, LayerNorm, ReLU."""
    layers = []
    for _ in range(count):
        layers += [nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


@KERNEL_UPDATE_HEAD_REGISTRY.register()
class KernelUpdateHead(nn.Module):
    """One stage: assemble group features, update the kernels, let them interact, predict."""

    @configurable
    def __init__(
        self,
        *,
        num_classes: Optional[int],
        channels: int = 256,
        update_channels: Optional[int] = None,
        num_heads: int = 8,
        feedforward_channels: int = 2048,
        dropout: float = 0.0,
        num_class_layers: int = 1,
        num_mask_layers: int = 1,
        mask_threshold: Optional[float] = 0.5,
        xavier_init: bool = True,
        residual: bool = False,
        iou_branch: bool = False,
    ):
        """
        Args:
            num_classes: K, the outputs of the class branch (sigmoid scores); None: no class
                branch, kernel n is that of class n.
            channels: C.
            update_channels: of the :class:`KernelUpdater`, a divisor of C; C if None.
            num_heads: attention heads of the kernel interaction.
            feedforward_channels: width of the feed-forward layer.
            dropout: of attention and feed-forward.
            num_class_layers, num_mask_layers: blocks before the last linear of each branch.
            mask_threshold: see :func:`knet.modeling.grouping.group_features`.
            xavier_init: start as the published detection models did, else as the semantic ones.
            residual: add to the masks and class logits of the stage before, instead of making
                them anew; a stage that has learned nothing changes nothing.
            iou_branch: also predict the masks' IoU with their objects, see
                :mod:`knet.modeling.mask_iou`.
        """
        super().__init__()
        self.mask_threshold = mask_threshold
        self.residual = residual
        self.feature_transform = Conv2d(channels, channels, 1)
        self.updater = KernelUpdater(update_channels or channels)
        self.attention = nn.MultiheadAttention(channels, num_heads, dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, feedforward_channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward_channels, channels),
            nn.Dropout(dropout),
        )
        self.feedforward_norm = nn.LayerNorm(channels)
        self.class_proj = None
        if num_classes is not None:
            self.class_layers = _linear_blocks(channels, num_class_layers)
            self.class_proj = nn.Linear(channels, num_classes)
        self.mask_layers = _linear_blocks(channels, num_mask_layers)
        self.mask_proj = nn.Linear(channels, channels)
        self.iou_branch = None
        if iou_branch:
            self.iou_branch = nn.Sequential(*_linear_blocks(channels, 2), nn.Linear(channels, 1))
        if xavier_init:
            self._init_xavier()
        else:  # linear and attention layers stay as PyTorch starts them
            weight_init.c2_msra_fill(self.feature_transform)
        if self.class_proj is not None:
            nn.init.constant_(self.class_proj.bias, PRIOR_LOGIT)
        if residual:
            for layer in (self.mask_proj, self.class_proj):
                if layer is not None:
                    nn.init.normal_(layer.weight, std=0.01)
                    nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg, num_classes):
        knet = cfg.MODEL.KNET
        update = knet.KERNEL_UPDATE
        return {
            "num_classes": num_classes,
            "channels": knet.CHANNELS,
            "num_heads": update.NUM_HEADS,
            "feedforward_channels": update.FEEDFORWARD_CHANNELS,
            "dropout": update.DROPOUT,
            "num_class_layers": update.NUM_CLASS_LAYERS,
            "num_mask_layers": update.NUM_MASK_LAYERS,
            "mask_threshold": knet.MASK_THRESHOLD,
            "residual": update.RESIDUAL,
            "iou_branch": update.IOU_BRANCH and num_classes is not None,
        }

    def _init_xavier(self):
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.zeros_(self.feature_transform.bias)

    def forward(
        self,
        feature_map: torch.Tensor,
        kernels: torch.Tensor,
        mask_logits: torch.Tensor,
        class_logits: Optional[torch.Tensor] = None,
    ) -> StagePrediction:
        """
        Args:
            feature_map: (B, C, H, W), F.
            kernels: (B, N, C), K_{s-1}.
            mask_logits: (B, N, H', W'), M_{s-1}; resized to H x W if it has another size.
            class_logits: (B, N, K) of the stage before, if it has some; for residual stages.

        Returns:
            K_s, M_s at H x W and, with such branches, the class and the IoU logits.
        """
        mask_logits = resize(mask_logits, feature_map.shape[-2:])
        group_feature = group_transformed_features(
            mask_logits, feature_map, self.feature_transform, self.mask_threshold
        )

        # the sums reach 1e4 and are multiplied with each other: too large for half precision
        with torch.autocast(device_type=feature_map.device.type, enabled=False):
            kernels = self.updater(group_feature, kernels.float())
        attended = self.attention(kernels, kernels, kernels, need_weights=False)[0]
        kernels = self.attention_norm(kernels + attended)
        kernels = self.feedforward_norm(kernels + self.feedforward(kernels))

        mask_kernels, mask_biases = kernels_before(
            self.mask_proj(self.mask_layers(kernels)), self.feature_transform
        )
        new_masks = torch.baddbmm(mask_biases, mask_kernels, feature_map.flatten(2))
        new_masks = new_masks.unflatten(2, feature_map.shape[-2:])
        new_classes = None
        if self.class_proj is not None:
            new_classes = self.class_proj(self.class_layers(kernels))
        if self.residual:
            new_masks = mask_logits + new_masks
            if new_classes is not None:
                new_classes = new_classes + (PRIOR_LOGIT if class_logits is None else class_logits)
        ious = None if self.iou_branch is None else self.iou_branch(kernels).squeeze(2)
        return StagePrediction(kernels, new_masks, new_classes, iou_logits=ious)
