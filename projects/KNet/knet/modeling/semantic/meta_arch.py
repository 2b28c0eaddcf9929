"""Detectron2's SemanticSegmentor, with the resizing and padding of the published recipe."""

from typing import Dict, List, Optional, Sequence, Tuple

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import nn
from torch.nn import functional as F

from ...data.class_layout import resolve_semantic_classes
from ...errors import DatasetError
from ..autocast import inference_autocast, inference_dtype
from ..cpu import frozen_in_fast_layout, prefer_onednn, to_fast_layout
from ..frozen_norm import fold_frozen_norms, keep_statistics
from ..images import check_output_sizes, normalize_images
from ..masks import resize

__all__ = ["SemanticKNet"]


@META_ARCH_REGISTRY.register()
class SemanticKNet(SemanticSegmentor):
    """Semantic K-Net: image -> backbone -> base head -> kernel update x S -> logits or losses.

    Differs from Detectron2's ``SemanticSegmentor`` in four points: logits are resized to the
    input's exact size, which need not be a multiple of the stride; training images are padded to
    the crop's size, whose every pixel counts in the loss; the backbone's BatchNorm can keep its
    statistics; the number of classes can come from the data set.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        train_size: Tuple[int, int] = (0, 0),
        backbone_norm_eval: bool = False,
        test_dtype: Optional[torch.dtype] = None,
        on_cpu: bool = False,
    ):
        """
        Args:
            backbone: Detectron2 backbone.
            sem_seg_head: a :class:`knet.modeling.semantic.KNetSemSegHead`.
            pixel_mean, pixel_std: per channel of the input image.
            train_size: height and width to which smaller training images are padded.
            backbone_norm_eval: keep the backbone's BatchNorm statistics in training.
            test_dtype: of the network in inference, where that is safe; None: its own.
            on_cpu: it is built to run on a CPU.
        """
        super().__init__(
            backbone=backbone,
            sem_seg_head=sem_seg_head,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.train_size = tuple(train_size)
        self.backbone_norm_eval = backbone_norm_eval
        self.test_dtype = test_dtype
        if backbone_norm_eval:
            fold_frozen_norms(backbone)
        if on_cpu:
            prefer_onednn(self)
            frozen_in_fast_layout(backbone)

    @classmethod
    def from_config(cls, cfg):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = resolve_semantic_classes(cfg).num_classes
        crop = cfg.INPUT.CROP
        absolute = crop.ENABLED and crop.TYPE == "absolute"
        return {
            **super().from_config(cfg),
            "train_size": tuple(crop.SIZE) if absolute else (0, 0),
            "backbone_norm_eval": cfg.MODEL.BACKBONE.NORM_EVAL,
            "test_dtype": inference_dtype(cfg),
            "on_cpu": cfg.MODEL.DEVICE == "cpu",
        }

    def train(self, mode: bool = True):
        super().train(mode)
        if self.backbone_norm_eval:
            keep_statistics(self.backbone)
        return self

    def forward(self, batched_inputs: List[Dict]) -> object:
        """
        Args:
            batched_inputs: dicts with ``image`` (channels, H, W); for training ``sem_seg`` (H, W)
                int64 labels; for inference optionally ``height`` and ``width`` of the wanted
                result.

        Returns:
            in training a dict of losses (see
            :meth:`knet.modeling.semantic.KNetSemSegHead.losses`), else one dict an image:
            ``sem_seg`` (K, height, width) logits, K the data set's classes.

        Raises:
            UsageError, DatasetError: inputs that cannot be used (see :mod:`knet.modeling.images`).
        """
        images = self._stack(normalize_images(batched_inputs, self.pixel_mean, self.pixel_std))
        if self.training:
            labels = [self._labels(x).to(self.device) for x in batched_inputs]
            targets = self._stack(labels, self.sem_seg_head.ignore_value).tensor
            return self.sem_seg_head(self.backbone(images.tensor), targets)[1]
        check_output_sizes(batched_inputs)
        with inference_autocast(self.device, self.test_dtype):
            features = self.backbone(to_fast_layout(images.tensor))
            logits = self.sem_seg_head.predict(features)[-1].mask_logits
        return self._results(logits.float(), images, batched_inputs)

    def _labels(self, x: Dict) -> torch.Tensor:
        """(H, W) int64 labels of a training input, checked where the loader left them."""
        name, labels = x.get("file_name", "(no file_name)"), x.get("sem_seg")
        if labels is None:
            raise DatasetError(
                f"{name} has no 'sem_seg': training needs KNetDatasetMapper, or a mapper that "
                "gives what it gives"
            )
        if labels.shape != x["image"].shape[-2:]:
            raise DatasetError(
                f"{name} has labels of {tuple(labels.shape)} in 'sem_seg' for an image of "
                f"{tuple(x['image'].shape[-2:])} (height, width): mend the mapper that made them"
            )
        labels, num_classes = labels.long(), self.sem_seg_head.num_classes
        wrong = ((labels < 0) | (labels >= num_classes)) & (
            labels != self.sem_seg_head.ignore_value
        )
        if wrong.any():
            raise DatasetError(
                f"{name} has the label {int(labels[wrong][0])} in 'sem_seg', which is none of the "
                f"{num_classes} classes nor MODEL.SEM_SEG_HEAD.IGNORE_VALUE "
                f"{self.sem_seg_head.ignore_value}: mend the labels, or the classes of the data set"
            )
        return labels

    def _stack(self, tensors: List[torch.Tensor], pad_value: Optional[float] = 0.0) -> ImageList:
        """Pad (right and below) to one size; in training at least to ``train_size``."""
        if self.training:
            tensors = [self._pad(x, pad_value) for x in tensors]
        return ImageList.from_tensors(tensors, self.backbone.size_divisibility, pad_value)

    def _pad(self, x: torch.Tensor, value: float) -> torch.Tensor:
        bottom, right = (
            max(0, wanted - size) for wanted, size in zip(self.train_size, x.shape[-2:])
        )
        return F.pad(x, (0, right, 0, bottom), value=value)

    @staticmethod
    @torch.no_grad()  # a result is to be used
    def _results(
        logits: torch.Tensor, images: ImageList, batched_inputs: List[Dict]
    ) -> List[Dict[str, torch.Tensor]]:
        """Logits at the stride -> at the input's size -> at each wanted size."""
        results = []
        padded_size = images.tensor.shape[-2:]
        for i, (x, image_size) in enumerate(zip(batched_inputs, images.image_sizes)):
            height, width = x.get("height", image_size[0]), x.get("width", image_size[1])
            at_input_size = resize(logits[i : i + 1], padded_size)[0]
            results.append(
                {"sem_seg": sem_seg_postprocess(at_input_size, image_size, height, width)}
            )
        return results
