"""The part of a model that is exported: images in, class scores and masks out, as tensors alone."""

from typing import Dict, List, Tuple

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import UsageError
from ..modeling.meta_arch import KNet
from ..modeling.point_kernel_head import PointKernelHead
from ..modeling.semantic.meta_arch import SemanticKNet

__all__ = ["Network", "example_inputs"]

_LEAST_SIDE = 64
# outputs with a row a kernel
OF_KERNELS = ("class_logits", "mask_logits")


class Network(nn.Module):
    """A loaded model between the resized images and the results step.

    It holds the model and copies nothing of it. Normalising is inside, and so is the padding's
    zero: what lies beyond an image's size counts as the model's own padding, whatever its values.
    """

    def __init__(self, model: nn.Module):
        """
        Args:
            model: of :func:`knet.load_model`.

        Raises:
            UsageError: it is none of this project's.
        """
        super().__init__()
        if not isinstance(model, (KNet, SemanticKNet)):
            raise UsageError(
                f"MODEL.META_ARCHITECTURE {type(model).__name__} cannot be exported: KNet and "
                "SemanticKNet can"
            )
        self.model = model
        self.is_semantic = isinstance(model, SemanticKNet)
        self.eval().requires_grad_(False)

    @property
    def output_names(self) -> List[str]:
        return ["logits"] if self.is_semantic else list(OF_KERNELS)

    @property
    def divisibility(self) -> int:
        """What the sides of the padded images are multiples of."""
        divisors = [self.model.backbone.size_divisibility]
        if not self.is_semantic:
            divisors.append(self.model.neck.size_divisibility)
        return max(1, *divisors)

    @property
    def min_side(self) -> int:
        """Least side of the padded images: maps of one cell are another program to an exporter.

        Kernels that start at points need as many cells as there are kernels.
        """
        least = max(2 * self.divisibility, _LEAST_SIDE)
        head = None if self.is_semantic else self.model.kernel_head
        if isinstance(head, PointKernelHead):
            cells = int((head.num_kernels - 1) ** 0.5) + 1
            least = max(least, cells * self.model.neck.stride)
        return -(-least // self.divisibility) * self.divisibility

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """
        Args:
            images: (B, H, W, channels), 0..255, of INPUT.FORMAT and resized as the model was
                tested; H and W are multiples of ``divisibility``.
            sizes: (B, 2) int64, height and width of each image, right and below of which is
                padding.

        Returns:
            ``class_logits`` (B, N, K) and ``mask_logits`` (B, N, h, w) at the mask stride; of a
            semantic model ``logits`` (B, K, h, w) at the head's stride.
        """
        model = self.model
        x = (images.permute(0, 3, 1, 2) - model.pixel_mean) / model.pixel_std
        rows = torch.arange(x.shape[2], device=x.device) < sizes[:, :1]
        columns = torch.arange(x.shape[3], device=x.device) < sizes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        features = model.backbone(torch.where(inside, x, 0.0))
        if self.is_semantic:
            return (model.sem_seg_head.predict(features)[-1].mask_logits,)
        last = model.predict(features)[0][-1]
        return last.class_logits, model.to_mask_stride(last.mask_logits)


def example_inputs(
    network: Network, batch: int, height: int, width: int, dtype: str = "uint8"
) -> Dict[str, torch.Tensor]:
    """Made-up inputs, the same each time: blobs, of which a few rows are padding.

    Args:
        batch, height, width: of the padded images; sides are rounded up to what the network takes.
        dtype: of the images.
    """
    divisor = network.divisibility
    height, width = (
        -(-max(side, network.min_side) // divisor) * divisor for side in (height, width)
    )
    generator = torch.Generator().manual_seed(0)
    channels = len(network.model.pixel_mean)
    coarse = torch.rand((batch, channels, 6, 8), generator=generator)
    blobs = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255
    images = blobs.permute(0, 2, 3, 1).round().contiguous().to(getattr(torch, dtype))
    padding = torch.arange(batch)[:, None] * torch.tensor([2, 3]) if divisor > 1 else 0
    sizes = torch.tensor([height, width]).expand(batch, 2) - padding
    return {"images": images, "sizes": sizes.contiguous()}
