"""What the semantic heads share: conv blocks, classifier, loss, Detectron2's head interface.

Shape shorthand: B images, K classes, C channels, H x W the head's map, h x w the labels.
"""

from typing import Dict, Optional, Sequence, Tuple, Union

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import nn
from torch.nn import functional as F

from ...errors import UsageError
from ..masks import enlarge, resize
from ..normalizers import Normalizer
from ..semantic_losses import cross_entropy_and_dice

__all__ = ["ClassifierHead", "conv_norm_relu", "segmentation_and_dice_loss", "segmentation_loss"]


_PUBLISHED = Normalizer("process")


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int, *, norm: str, dilation: int = 1
) -> Conv2d:
    """A convolution that keeps the size, its norm (bias only without one) and ReLU."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_label: int = 255,
    normalizer: Normalizer = _PUBLISHED,
) -> torch.Tensor:
    """Cross entropy, summed over labelled pixels and divided by all pixels of the batch.

    Args:
        logits: (B, K, H, W), resized bilinearly to the labels' size.
        labels: (B, h, w) int64.
        ignore_label: of pixels without label. They count in the divisor, as in the published
            recipe, so a batch without any label has the loss 0.
        normalizer: of several processes.
    """
    logits = resize(logits.float(), labels.shape[-2:])
    total = F.cross_entropy(logits, labels, ignore_index=ignore_label, reduction="sum")
    return total / _num_pixels(labels, normalizer)


def segmentation_and_dice_loss(
    logits: torch.Tensor, labels: torch.Tensor, ignore_label: int, normalizer: Normalizer
) -> Tuple[torch.Tensor, torch.Tensor]:
    """:func:`segmentation_loss`, and the dice loss of the classes beside it. The same arguments."""
    total, dice = cross_entropy_and_dice(
        logits.float(), labels, ignore_label, over_batch=normalizer.over_batch
    )
    return total / _num_pixels(labels, normalizer), dice


def _num_pixels(labels: torch.Tensor, normalizer: Normalizer) -> Union[int, torch.Tensor]:
    shared = normalizer.own(labels.numel(), labels.device)
    return labels.numel() if shared is None else shared


class ClassifierHead(nn.Module):
    """A semantic head that ends in dropout and a 1x1 classifier; subclasses make its feature map.

    Follows the interface of Detectron2's heads, so it works in ``SemanticSegmentor`` too.
    """

    def __init__(
        self,
        input_shape: Dict[str, ShapeSpec],
        *,
        in_features: Sequence[str],
        num_classes: int,
        channels: int = 512,
        norm: str = "SyncBN",
        dropout: float = 0.1,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ):
        """
        Args:
            input_shape: channels and stride of each backbone feature.
            in_features: names of those that the head uses, in any order.
            num_classes: K.
            channels: C of the map that is classified.
            norm: of every convolution but the classifier, see :func:`detectron2.layers.get_norm`.
            dropout: probability of dropping a channel before the classifier, in training.
            loss_weight: factor of the loss.
            ignore_value: label of pixels without class.
        """
        super().__init__()
        missing = [name for name in in_features if name not in input_shape]
        if missing or not in_features:
            raise UsageError(
                f"the semantic head asks for the features {list(in_features)}, the backbone gives "
                f"{sorted(input_shape)}: set MODEL.SEM_SEG_HEAD.IN_FEATURES"
            )
        if num_classes < 1:
            raise UsageError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}: set it to the number of "
                "classes (-1 works with MODEL.META_ARCHITECTURE SemanticKNet only)"
            )
        self.in_features = sorted(in_features, key=lambda name: input_shape[name].stride)
        self.in_channels = [input_shape[name].channels for name in self.in_features]
        self.in_strides = [input_shape[name].stride for name in self.in_features]
        self.channels = channels
        self.norm = norm
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        conv = Conv2d(channels, num_classes, 1)
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)
        self.predictor = nn.Sequential(nn.Dropout2d(dropout), conv)

    @classmethod
    def from_config(cls, cfg, input_shape):
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": input_shape,
            "in_features": head.IN_FEATURES,
            "num_classes": head.NUM_CLASSES,
            "channels": head.CONVS_DIM,
            "norm": head.NORM,
            "dropout": cfg.MODEL.KNET.SEMANTIC.DROPOUT,
            "loss_weight": head.LOSS_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
        }

    @property
    def common_stride(self) -> int:
        """Stride of the logits, in input pixels."""
        return self.in_strides[-1]

    def pixel_features(self, features: Dict[str, torch.Tensor]) -> torch.Tensor:
        """Backbone features -> the map that is classified (B, C, H, W)."""
        raise NotImplementedError

    def layers(self, features: Dict[str, torch.Tensor]) -> torch.Tensor:
        """Backbone features -> logits (B, K, H, W)."""
        return self.predictor(self.pixel_features(features))

    def forward(
        self, features: Dict[str, torch.Tensor], targets: Optional[torch.Tensor] = None
    ) -> Tuple[Optional[torch.Tensor], Dict[str, torch.Tensor]]:
        """
        Args:
            features: of the backbone.
            targets: (B, h, w) int64 labels, in training.

        Returns:
            in training None and a dict of losses, else logits at the input's size and {}.
        """
        logits = self.layers(features)
        if self.training:
            return None, self.losses(logits, targets)
        return enlarge(logits, self.common_stride), {}

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> Dict[str, torch.Tensor]:
        """See :func:`segmentation_loss`."""
        loss = segmentation_loss(logits, targets, self.ignore_value)
        return {"loss_sem_seg": self.loss_weight * loss}
