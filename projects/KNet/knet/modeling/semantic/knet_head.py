"""Kernel update on top of a semantic head (paper section 3.3, "semantic kernels").

The head's classifier is K_0, one kernel per class; its logits are M_0, its input is F. Shape
shorthand: B images, K classes (and kernels), C channels, H x W the head's map.
"""

from typing import Dict, List, Optional, Sequence, Tuple

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from ...errors import UsageError
from ..kernel_update import build_kernel_update_head
from ..masks import enlarge
from ..normalizers import Normalizer
from ..sampled_cells import are_sampled, random_cells, values_at
from ..structures import StagePrediction
from .base import ClassifierHead, segmentation_and_dice_loss, segmentation_loss
from .fcn_head import SemSegFCNHead

__all__ = ["KNetSemSegHead", "find_classifier"]


def find_classifier(head: nn.Module, num_classes: int, name: str = "") -> Tuple[str, nn.Conv2d]:
    """Find the 1x1 convolution that classifies each pixel.

    Args:
        head: any semantic head.
        num_classes: outputs of the classifier.
        name: of the classifier among the head's modules; "": the only one that fits.

    Returns:
        the name of the module whose input is F and whose output is M_0 (the convolution, or the
        sequence of it and a dropout before it), and the convolution.

    Raises:
        UsageError: none fits, or several do.
    """
    modules = dict(head.named_modules())
    kind = type(head).__name__
    if name and name not in modules:
        raise UsageError(
            f"MODEL.KNET.SEMANTIC.CLASSIFIER is '{name}', which {kind} has no module of: leave it "
            "empty, or name the head's 1x1 classifier"
        )
    prefix = f"{name}." if name else ""
    found = [
        n
        for n, m in modules.items()
        if (n == name or n.startswith(prefix)) and _is_classifier(m, num_classes)
    ]
    if len(found) != 1:
        raise UsageError(
            f"{kind} has {'no' if not found else 'more than one'} 1x1 convolution of {num_classes} "
            f"outputs without norm {('(' + ', '.join(found) + ')') if found else ''}: "
            + (
                "name its classifier in MODEL.KNET.SEMANTIC.CLASSIFIER"
                if found
                else "kernel update needs a head that ends in one, choose another "
                "MODEL.KNET.SEMANTIC.BASE_HEAD"
            )
        )
    conv_name = found[0]
    parent_name = conv_name.rpartition(".")[0]
    parent = modules[parent_name] if parent_name else None
    if isinstance(parent, nn.Sequential) and all(
        isinstance(m, (nn.Dropout, nn.Dropout2d)) or m is modules[conv_name] for m in parent
    ):
        return parent_name, modules[conv_name]
    return conv_name, modules[conv_name]


def _is_classifier(module: nn.Module, num_classes: int) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.out_channels == num_classes
        and tuple(module.kernel_size) == (1, 1)
        and module.groups == 1
        and getattr(module, "norm", None) is None
        and getattr(module, "activation", None) is None
    )


# An exporter cannot follow an exception out of a module; what nobody uses it leaves out by itself
STOP_AT_CLASSIFIER = True


class _Classified(Exception):
    """Ends a head's forward where its classifier has run."""


@SEM_SEG_HEADS_REGISTRY.register()
class KNetSemSegHead(nn.Module):
    """A semantic head whose classifier's kernels are updated by what they found in the image.

    Wraps any head that ends in a 1x1 classifier, without changing it, and works in Detectron2's
    ``SemanticSegmentor`` as in :class:`knet.modeling.semantic.SemanticKNet`.
    """

    @configurable
    def __init__(
        self,
        base_head: nn.Module,
        kernel_update_heads: Sequence[nn.Module],
        *,
        num_classes: int,
        classifier: str = "",
        auxiliary_head: Optional[nn.Module] = None,
        auxiliary_weight: float = 0.4,
        loss_weight: float = 1.0,
        dice_weight: float = 0.0,
        ignore_value: int = 255,
        normalizer: str = "process",
        sampled_cells: int = 0,
    ):
        """
        Args:
            base_head: called with the backbone's features and the labels, as far as to its
                classifier; has ``common_stride``, the stride of its logits.
            kernel_update_heads: one per stage; none leaves the base head alone.
            num_classes: K.
            classifier: see :func:`find_classifier`.
            auxiliary_head: a head that only helps in training, or None.
            auxiliary_weight, loss_weight: factor of the auxiliary loss, and of each stage's.
            dice_weight: of each stage's dice loss, beside the cross entropy; 0 leaves it out.
            ignore_value: label of pixels without class.
            normalizer: what several processes divide by, one of :data:`..normalizers.SHARES`.
            sampled_cells: pixels of an image that losses look at, drawn at random; 0: all.
        """
        super().__init__()
        self.normalizer = Normalizer(normalizer)
        self.sampled_cells = sampled_cells
        self.base_head = base_head
        self.kernel_update_heads = nn.ModuleList(kernel_update_heads)
        self.num_classes = num_classes
        self.auxiliary_head = auxiliary_head
        self.auxiliary_weight = auxiliary_weight
        self.loss_weight = loss_weight
        self.dice_weight = dice_weight
        self.ignore_value = ignore_value
        # names, not modules: a module of two owners would stand in the state dict twice
        self._classifier, conv = find_classifier(base_head, num_classes, classifier)
        self._kernels = next(n for n, m in base_head.named_modules() if m is conv)

    @classmethod
    def from_config(cls, cfg, input_shape):
        knet, head = cfg.MODEL.KNET, cfg.MODEL.SEM_SEG_HEAD
        semantic = knet.SEMANTIC
        if head.NUM_CLASSES < 1:
            raise UsageError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}: set it to the number of "
                "classes (-1 works with MODEL.META_ARCHITECTURE SemanticKNet only)"
            )
        if semantic.BASE_HEAD == "KNetSemSegHead":
            raise UsageError(
                "MODEL.KNET.SEMANTIC.BASE_HEAD is KNetSemSegHead itself: name the head underneath"
            )
        base_head = cls._build_base_head(cfg, input_shape)
        _, conv = find_classifier(base_head, head.NUM_CLASSES, semantic.CLASSIFIER)
        return {
            "base_head": base_head,
            "kernel_update_heads": cls._build_stages(cfg, conv.in_channels),
            "num_classes": head.NUM_CLASSES,
            "classifier": semantic.CLASSIFIER,
            "auxiliary_head": cls._build_auxiliary(cfg, input_shape),
            "auxiliary_weight": semantic.AUXILIARY_WEIGHT,
            "loss_weight": head.LOSS_WEIGHT,
            "dice_weight": semantic.DICE_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
            "normalizer": cfg.MODEL.KNET.LOSS.NORMALIZER,
            "sampled_cells": cfg.MODEL.KNET.LOSS.SAMPLED_CELLS,
        }

    @staticmethod
    def _build_base_head(cfg, input_shape) -> nn.Module:
        cfg = cfg.clone()
        cfg.defrost()
        # Detectron2's DeepLab heads would pool windows of the crop's size, and take no image that
        # they do not divide; without a crop they pool the image, which a crop is in training too
        cfg.INPUT.CROP.ENABLED = False
        return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.KNET.SEMANTIC.BASE_HEAD)(cfg, input_shape)

    @staticmethod
    def _build_stages(cfg, channels: int) -> List[nn.Module]:
        knet = cfg.MODEL.KNET
        update_channels = min(knet.SEMANTIC.UPDATE_CHANNELS, channels)
        for key, divisor in (
            ("SEMANTIC.UPDATE_CHANNELS", update_channels),
            ("KERNEL_UPDATE.NUM_HEADS", knet.KERNEL_UPDATE.NUM_HEADS),
        ):
            if divisor < 1 or channels % divisor:
                raise UsageError(
                    f"{knet.SEMANTIC.BASE_HEAD} classifies features of {channels} channels, which "
                    f"MODEL.KNET.{key} {divisor} does not divide: change one of them"
                )
        return [
            build_kernel_update_head(
                cfg,
                None,
                channels=channels,
                update_channels=update_channels,
                mask_threshold=None,
                xavier_init=False,
            )
            for _ in range(knet.NUM_STAGES)
        ]

    @staticmethod
    def _build_auxiliary(cfg, input_shape) -> Optional[nn.Module]:
        semantic = cfg.MODEL.KNET.SEMANTIC
        if not semantic.AUXILIARY_IN_FEATURE:
            return None
        if semantic.AUXILIARY_IN_FEATURE not in input_shape:
            raise UsageError(
                f"MODEL.KNET.SEMANTIC.AUXILIARY_IN_FEATURE is {semantic.AUXILIARY_IN_FEATURE}, the "
                f"backbone gives {sorted(input_shape)}: name one of these, or '' for no auxiliary "
                "head"
            )
        return SemSegFCNHead(
            input_shape,
            in_features=[semantic.AUXILIARY_IN_FEATURE],
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            channels=semantic.AUXILIARY_CHANNELS,
            norm=cfg.MODEL.SEM_SEG_HEAD.NORM,
            dropout=semantic.DROPOUT,
            num_convs=1,
            fuse_input=False,
        )

    @property
    def common_stride(self) -> int:
        """Stride of the logits, in input pixels."""
        return self.base_head.common_stride

    def forward(
        self, features: Dict[str, torch.Tensor], targets: Optional[torch.Tensor] = None
    ) -> Tuple[Optional[torch.Tensor], Dict[str, torch.Tensor]]:
        """
        Args:
            features: of the backbone.
            targets: (B, h, w) int64 labels, in training.

        Returns:
            in training None and the losses of :meth:`losses`, else the last stage's logits at the
            input's size and {}.
        """
        stages = self.predict(features, targets)
        if self.training:
            return None, self.losses(stages, features, targets)
        return enlarge(stages[-1].mask_logits, self.common_stride), {}

    def predict(
        self, features: Dict[str, torch.Tensor], targets: Optional[torch.Tensor] = None
    ) -> List[StagePrediction]:
        """Backbone features -> predictions of stage 0 to S; kernel n and mask n are class n's.

        Args:
            features: of the backbone.
            targets: labels, which heads are called with in training.
        """
        feature_map, logits = self._call_base_head(features, targets)
        kernels = self.base_head.get_submodule(self._kernels).weight.flatten(1)  # (K, C)
        prediction = StagePrediction(kernels.expand(logits.shape[0], -1, -1), logits)
        stages = [prediction]
        for head in self.kernel_update_heads:
            prediction = head(feature_map, prediction.kernels, prediction.mask_logits)
            stages.append(prediction)
        return stages

    def _call_base_head(self, features, targets) -> Tuple[torch.Tensor, torch.Tensor]:
        """F (B, C, H, W), without the classifier's dropout, and M_0 (B, K, H, W)."""
        if isinstance(self.base_head, ClassifierHead):  # nothing to intercept
            feature_map = self.base_head.pixel_features(features)
            return feature_map, self.base_head.predictor(feature_map)

        found = []

        def keep(module, inputs, output):
            found[:] = inputs[0], output
            if STOP_AT_CLASSIFIER:
                raise _Classified  # no loss of its own, no resizing

        handle = self.base_head.get_submodule(self._classifier).register_forward_hook(keep)
        try:
            self.base_head(features, targets)
        except _Classified:
            pass
        finally:
            handle.remove()
        if found:
            return found[0], found[1]
        raise UsageError(
            f"{type(self.base_head).__name__} does not call its '{self._classifier}': name its "
            "classifier in MODEL.KNET.SEMANTIC.CLASSIFIER"
        )

    def losses(
        self,
        stages: Sequence[StagePrediction],
        features: Dict[str, torch.Tensor],
        targets: torch.Tensor,
    ) -> Dict[str, torch.Tensor]:
        """
        Args:
            stages: of :meth:`predict`.
            features: of the backbone, for the auxiliary head.
            targets: (B, h, w) int64 labels.

        Returns:
            ``loss_semantic_s`` of stages 0..; with a dice weight ``loss_dice_s``, with an auxiliary
            head ``loss_auxiliary``.
        """
        logits = [stage.mask_logits for stage in stages]
        if self.auxiliary_head is not None:
            logits.append(self.auxiliary_head.layers(features))
        if are_sampled(targets, self.sampled_cells):
            logits, targets = _at_random_cells(logits, targets, self.sampled_cells)
        losses = {}
        for s in range(len(stages)):
            of_stage = logits[s], targets, self.ignore_value, self.normalizer
            if self.dice_weight > 0:
                loss, dice = segmentation_and_dice_loss(*of_stage)
            else:
                loss, dice = segmentation_loss(*of_stage), None
            losses[f"loss_semantic_{s}"] = self.loss_weight * loss
            if dice is not None:
                losses[f"loss_dice_{s}"] = self.dice_weight * dice
        if self.auxiliary_head is not None:
            losses["loss_auxiliary"] = self.auxiliary_weight * segmentation_loss(
                logits[-1], targets, self.ignore_value, self.normalizer
            )
        return losses


def _at_random_cells(
    logits: Sequence[torch.Tensor], labels: torch.Tensor, count: int
) -> Tuple[List[torch.Tensor], torch.Tensor]:
    """Logits (B, K, any height, any width) and labels (B, h, w) -> (B, K, 1, M) and (B, 1, M)."""
    size, cells = tuple(labels.shape[-2:]), random_cells(labels, count)
    found = [values_at(maps.float(), cells, size)[:, :, None] for maps in logits]
    return found, values_at(labels[:, None], cells, size)
