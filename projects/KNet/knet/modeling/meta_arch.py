"""K-Net as a Detectron2 meta-architecture: panoptic and instance segmentation."""

from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList
from torch import nn

from ..data.class_layout import ClassLayout, resolve_class_layout
from .autocast import inference_autocast, inference_dtype
from .counts import Counts
from .cpu import frozen_in_fast_layout, prefer_onednn, to_fast_layout
from .criterion import Criterion
from .frozen_norm import fold_frozen_norms, keep_statistics
from .images import check_output_sizes, normalize_images
from .inference import ImageSizes, Postprocessor
from .kernel_head import build_kernel_head
from .kernel_update import build_kernel_update_head
from .mask_iou import weigh_classes
from .masks import enlarge
from .neck import build_neck
from .structures import StagePrediction
from .targets import TargetBuilder

__all__ = ["KNet"]


@META_ARCH_REGISTRY.register()
class KNet(nn.Module):
    """K-Net (NeurIPS 2021): kernels make masks, and are updated from what they found.

    image -> backbone -> neck -> kernel head -> kernel update x S -> results or losses
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        kernel_head: nn.Module,
        kernel_update_heads: Sequence[nn.Module],
        criterion: Criterion,
        target_builder: TargetBuilder,
        postprocessor: Postprocessor,
        mask_stride: int = 4,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        backbone_norm_eval: bool = True,
        test_dtype: Optional[torch.dtype] = None,
        on_cpu: bool = False,
    ):
        """
        Args:
            backbone: Detectron2 backbone.
            neck: features -> instance map, semantic map.
            kernel_head: the two maps -> F, stage 0, semantic logits.
            kernel_update_heads: one per stage.
            criterion: stages and targets -> losses.
            target_builder: training inputs -> targets.
            postprocessor: last stage -> results.
            mask_stride: stride at which masks are matched, learned and returned.
            pixel_mean, pixel_std: per channel of the input image; their number is the number of
                input channels.
            backbone_norm_eval: keep the backbone's BatchNorm statistics in training.
            test_dtype: of the network in inference, where that is safe; None: its own.
            on_cpu: it is built to run on a CPU.
        """
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.kernel_head = kernel_head
        self.kernel_update_heads = nn.ModuleList(kernel_update_heads)
        self.criterion = criterion
        self.target_builder = target_builder
        self.postprocessor = postprocessor
        self.mask_stride = mask_stride
        self.backbone_norm_eval = backbone_norm_eval
        self.test_dtype = test_dtype
        if backbone_norm_eval:
            fold_frozen_norms(backbone)
        if on_cpu:
            prefer_onednn(self)
            frozen_in_fast_layout(backbone)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        layout: ClassLayout = resolve_class_layout(cfg)
        backbone = build_backbone(cfg)
        num_classes = layout.num_things + layout.num_stuff
        return {
            "backbone": backbone,
            "neck": build_neck(cfg, backbone.output_shape()),
            "kernel_head": build_kernel_head(cfg, layout.num_things, layout.num_stuff),
            "kernel_update_heads": [
                build_kernel_update_head(cfg, num_classes) for _ in range(cfg.MODEL.KNET.NUM_STAGES)
            ],
            "criterion": Criterion(cfg, layout),
            "target_builder": TargetBuilder(layout, cfg.MODEL.KNET.MASK_STRIDE),
            "postprocessor": Postprocessor(cfg, layout),
            "mask_stride": cfg.MODEL.KNET.MASK_STRIDE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "backbone_norm_eval": cfg.MODEL.BACKBONE.NORM_EVAL,
            "test_dtype": inference_dtype(cfg),
            "on_cpu": cfg.MODEL.DEVICE == "cpu",
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True):
        super().train(mode)
        if self.backbone_norm_eval:
            keep_statistics(self.backbone)
        return self

    def forward(self, batched_inputs: List[Dict]) -> object:
        """
        Args:
            batched_inputs: dicts with ``image`` (channels, H, W); for training ``instances`` and
                ``sem_seg`` (see :class:`knet.modeling.targets.TargetBuilder`); for inference
                optionally ``height`` and ``width`` of the wanted result.

        Returns:
            in training a dict of losses (see :class:`knet.modeling.criterion.Criterion`), else one
            dict an image (see :class:`knet.modeling.inference.Postprocessor`).

        Raises:
            UsageError, DatasetError: inputs that cannot be used (see :mod:`knet.modeling.images`).
        """
        images = self.preprocess_image(batched_inputs)
        padded_size = tuple(images.tensor.shape[-2:])
        if self.training:
            # before the network, so that the copies to a GPU do not wait for it
            targets = self.target_builder(batched_inputs, padded_size, self.device)
            stages, semantic_logits = self.predict(self.backbone(images.tensor))
            return self.losses(stages, semantic_logits, targets)
        check_output_sizes(batched_inputs)
        with inference_autocast(self.device, self.test_dtype):
            stages, _ = self.predict(self.backbone(to_fast_layout(images.tensor)))
        return self.results(stages[-1], images, batched_inputs)

    @contextmanager
    def counted_together(self, parts: Sequence[List[Dict]]) -> Iterator[None]:
        """Within it the losses of each part of a batch are those of one of several processes.

        Args:
            parts: training inputs of this process, as forward will be called with them.
        """
        counts = []
        for part in parts:
            size = tuple(self.preprocess_image(part).tensor.shape[-2:])
            targets = self.target_builder(part, size, self.device)
            counts.append(Counts.of(targets, self.criterion.num_kernels))
        self.criterion.counts_of_parts = Counts.mean(counts)
        try:
            yield
        finally:
            self.criterion.counts_of_parts = None

    def predict(
        self, features: Dict[str, torch.Tensor]
    ) -> Tuple[List[StagePrediction], torch.Tensor]:
        """Backbone features -> predictions of stage 0 to S, and the semantic logits.

        In inference the class scores of stage S are those of the results: with an IoU branch they
        are weighed by the masks' IoU.
        """
        feature_map, prediction, semantic_logits = self.kernel_head(*self.neck(features))
        stages = [prediction]
        for head in self.kernel_update_heads:
            prediction = head(
                feature_map, prediction.kernels, prediction.mask_logits, prediction.class_logits
            )
            stages.append(prediction)
        if not self.training:
            stages[-1] = weigh_classes(prediction, self.criterion.num_kernels)
        return stages, semantic_logits

    def losses(self, stages, semantic_logits, targets) -> Dict[str, torch.Tensor]:
        """Losses at the mask stride; see :class:`knet.modeling.criterion.Criterion`."""
        return self.criterion(stages, semantic_logits, targets)

    @torch.no_grad()  # a result is to be used: the parameters of a model that learns keep theirs
    def results(
        self, prediction: StagePrediction, images: ImageList, batched_inputs: List[Dict]
    ) -> List[Dict]:
        """Detectron2's outputs, image by image (their sizes differ), never in half precision."""
        with torch.autocast(self.device.type, enabled=False):
            return self._results(prediction, images, batched_inputs)

    def _results(
        self, prediction: StagePrediction, images: ImageList, batched_inputs: List[Dict]
    ) -> List[Dict]:
        padded_size = tuple(images.tensor.shape[-2:])
        mask_logits = self.to_mask_stride(prediction.mask_logits.float())
        class_logits = prediction.class_logits.float()
        results = []
        for i, (x, image_size) in enumerate(zip(batched_inputs, images.image_sizes)):
            output_size = (x.get("height", image_size[0]), x.get("width", image_size[1]))
            sizes = ImageSizes(padded_size, tuple(image_size), output_size)
            results.append(self.postprocessor(class_logits[i], mask_logits[i], sizes))
        return results

    def to_mask_stride(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, N, H, W) at the neck's stride -> (B, N, h, w) at the mask stride."""
        factor = self.neck.stride // self.mask_stride
        return logits if factor == 1 else enlarge(logits, factor)

    def preprocess_image(self, batched_inputs: List[Dict]) -> ImageList:
        """Normalise, move to the device and pad to one size (zeros, after normalisation)."""
        images = normalize_images(batched_inputs, self.pixel_mean, self.pixel_std)
        divisor = max(self.backbone.size_divisibility, self.neck.size_divisibility)
        return ImageList.from_tensors(images, divisor)
