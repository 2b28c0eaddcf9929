"""Test-time augmentation: an image in several sizes and mirrored, and one result of them all.

Detectron2's keys (``TEST.AUG``), for the models that its own ``GeneralizedRCNNWithTTA`` does not
take. Shape shorthand: N kernels (instance, then stuff), K classes, h x w the grid on which masks
are averaged.
"""

from typing import Dict, List, NamedTuple, Sequence, Tuple, Type

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    GeneralizedRCNNWithTTA,
    SemanticSegmentor,
)
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data.transforms import CheckedResizeShortestEdge, OpenCVResizeShortestEdge
from ..errors import UsageError
from .autocast import inference_autocast
from .enlarging import EnlargedLogits, EnlargedMasks, ImageSizes
from .images import check_output_sizes
from .masks import on_grid
from .meta_arch import KNet

__all__ = [
    "AugmentedViews",
    "KNetWithTTA",
    "MergedKernels",
    "SemanticSegmentorWithTTA",
    "View",
    "check_test_time_augmentation",
    "with_test_time_augmentation",
]

MATCH_IOU = 0.5  # two masks of the same object have more


class View(NamedTuple):
    """An image as the model sees it once."""

    inputs: Dict  # of the model, its ``image`` resized and perhaps mirrored
    mirrored: bool


class AugmentedViews:
    """An image as it is and with its short side of other lengths; with ``flip`` each mirrored too.

    Resized as the config has images resized, where Detectron2's ``DatasetMapperTTA`` uses Pillow,
    which takes no image of five channels.
    """

    def __init__(
        self,
        min_sizes: Sequence[int],
        max_size: int,
        flip: bool,
        resize: Type[ResizeShortestEdge] = OpenCVResizeShortestEdge,
    ):
        """
        Args:
            min_sizes: lengths of the short side, in pixels.
            max_size: of the long side, at most.
            flip: mirror each.
            resize: how.
        """
        self._resizes = [resize(length, max_size) for length in min_sizes]
        self._flip = flip

    @classmethod
    def from_config(cls, cfg) -> "AugmentedViews":
        """Those of ``TEST.AUG``."""
        aug = cfg.TEST.AUG
        resize = (
            CheckedResizeShortestEdge if cfg.INPUT.RESIZE_ANTIALIAS else OpenCVResizeShortestEdge
        )
        return cls(aug.MIN_SIZES, aug.MAX_SIZE, aug.FLIP, resize)

    def __call__(self, x: Dict) -> List[View]:
        """
        Args:
            x: input of a model, ``image`` (channels, H, W) resized as for a single view.

        Returns:
            the views, none twice, first that of the image as it is; their ``height`` and ``width``
            are those of the wanted result.
        """
        image = x["image"].cpu()
        pixels = image.permute(1, 2, 0).numpy()
        by_size = {tuple(image.shape[1:]): image}
        for resize in self._resizes:
            resized = resize.get_transform(pixels).apply_image(pixels)
            by_size.setdefault(resized.shape[:2], _to_tensor(resized))
        height, width = output_size(x)
        views = []
        for resized in by_size.values():
            inputs = {**x, "image": resized, "height": height, "width": width}
            views.append(View(inputs, mirrored=False))
            if self._flip:
                views.append(View({**inputs, "image": resized.flip(2)}, mirrored=True))
        return views


def output_size(x: Dict) -> Tuple[int, int]:
    """Height and width of the wanted result: as an input says, or the image's."""
    height, width = x["image"].shape[1:]
    return x.get("height", height), x.get("width", width)


def _to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class KernelsOfView(NamedTuple):
    """What the kernels found in a view."""

    class_scores: torch.Tensor  # (N, K) probabilities
    masks: torch.Tensor  # (N, h, w) probabilities, on the grid of all views


class MergedKernels:
    """Kernels of the first view, and the mean of what they and their like in others found.

    A stuff kernel is that of its class in every view. An instance kernel finds another object in a
    mirrored image: its like in a view is the one that has its mask there (and its class), each at
    most one's. A view in which it has none counts as a class score of 0.
    """

    def __init__(self, first: KernelsOfView, num_kernels: int):
        """
        Args:
            first: of the first view.
            num_kernels: instance kernels; those behind them are stuff's.
        """
        self._first = first
        self._num_kernels = num_kernels
        self._class_scores = first.class_scores.clone()
        self._masks = first.masks.clone()
        self._num_masks = torch.ones(len(first.masks), device=first.masks.device)
        self._num_views = 1

    def add(self, view: KernelsOfView) -> None:
        """Add another view."""
        mine, theirs = self._matches(view)
        self._class_scores[mine] += view.class_scores[theirs]
        self._masks[mine] += view.masks[theirs]
        self._num_masks[mine] += 1
        self._num_views += 1

    def mean(self) -> KernelsOfView:
        """Mean scores over all views, mean masks over those in which there is one."""
        return KernelsOfView(
            self._class_scores / self._num_views, self._masks / self._num_masks[:, None, None]
        )

    def _matches(self, view: KernelsOfView) -> Tuple[torch.Tensor, torch.Tensor]:
        """Kernels of the first view and, in the same order, their likes in another."""
        ours, other = (
            KernelsOfView(*(x[: self._num_kernels] for x in each)) for each in (self._first, view)
        )
        iou = mask_iou(ours.masks, other.masks)
        likeness = (ours.class_scores @ other.class_scores.t()) * iou * (iou >= MATCH_IOU)
        likeness = likeness.nan_to_num(0.0)  # of a model that has diverged
        mine, theirs = linear_sum_assignment(likeness.cpu().numpy(), maximize=True)
        mine, theirs = (torch.from_numpy(x).to(iou.device) for x in (mine, theirs))
        like = iou[mine, theirs] >= MATCH_IOU
        stuff = torch.arange(self._num_kernels, len(view.masks), device=iou.device)
        return torch.cat((mine[like], stuff)), torch.cat((theirs[like], stuff))


def mask_iou(first: torch.Tensor, second: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """Intersection over union of each mask with each: (N, h, w) and (M, h, w) -> (N, M)."""
    first, second = ((x.flatten(1) > threshold).float() for x in (first, second))
    with torch.autocast(first.device.type, enabled=False):  # counts too large for half precision
        shared = first @ second.t()
    return shared / (first.sum(1)[:, None] + second.sum(1) - shared).clamp(min=1)


class _WithTTA(nn.Module):
    """A model called as before, whose result is that of all views; one view after the other."""

    def __init__(self, model: nn.Module, views: AugmentedViews):
        super().__init__()
        self.model = model
        self.views = views
        self.training = model.training  # who evaluates sets it back to what it was

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def forward(self, batched_inputs: List[Dict]) -> List[Dict]:
        """As the model in inference."""
        check_output_sizes(batched_inputs)
        return [self._result(self.views(x)) for x in batched_inputs]

    def _result(self, views: List[View]) -> Dict:
        raise NotImplementedError


class KNetWithTTA(_WithTTA):
    """A :class:`knet.modeling.KNet`, panoptic or instance; see :class:`MergedKernels`.

    Masks are averaged on a grid at the mask stride of the largest view, not at the result's size.
    """

    def _result(self, views: List[View]) -> Dict:
        model = self.model
        largest = max((tuple(view.inputs["image"].shape[1:]) for view in views), key=np.prod)
        grid = tuple(-(-side // model.mask_stride) for side in largest)
        merged = MergedKernels(self._kernels(views[0], grid), model.postprocessor.num_kernels)
        for view in views[1:]:
            merged.add(self._kernels(view, grid))
        sizes = ImageSizes(largest, largest, output_size(views[0].inputs))
        class_scores, masks = merged.mean()
        if model.postprocessor.enlarge_logits:
            enlarged = EnlargedLogits(masks.logit(eps=1e-6), sizes)
        else:
            enlarged = EnlargedMasks(masks, sizes)
        return model.postprocessor.results(class_scores, enlarged)

    def _kernels(self, view: View, grid: Tuple[int, int]) -> KernelsOfView:
        model = self.model
        images = model.preprocess_image([view.inputs])
        with inference_autocast(model.device, model.test_dtype):
            prediction = model.predict(model.backbone(images.tensor))[0][-1]
        masks = model.to_mask_stride(prediction.mask_logits.float()).sigmoid()
        size = images.image_sizes[0]
        masks = on_grid(masks, images.tensor.shape[-2:], size, grid, mirrored=view.mirrored)
        return KernelsOfView(prediction.class_logits[0].float().sigmoid(), masks[0])


class SemanticSegmentorWithTTA(_WithTTA):
    """A semantic model of Detectron2 or of this project: the mean of the views' probabilities."""

    def _result(self, views: List[View]) -> Dict:
        total = None
        for view in views:
            scores = self.model([view.inputs])[0]["sem_seg"].softmax(0)  # (K, H, W)
            if view.mirrored:
                scores = scores.flip(2)
            total = scores if total is None else total.add_(scores)
        return {"sem_seg": total.div_(len(views))}


def with_test_time_augmentation(cfg, model: nn.Module) -> nn.Module:
    """The model; with ``TEST.AUG.ENABLED`` one whose results are those of several views.

    Raises:
        UsageError: there is no test-time augmentation for it, or a key that cannot be used.
    """
    if not cfg.TEST.AUG.ENABLED:
        return model
    check_test_time_augmentation(cfg)
    if isinstance(model, DistributedDataParallel):
        model = model.module
    check_can_be_augmented(type(model))
    if isinstance(model, KNet):
        return KNetWithTTA(model, AugmentedViews.from_config(cfg))
    if isinstance(model, SemanticSegmentor):
        return SemanticSegmentorWithTTA(model, AugmentedViews.from_config(cfg))
    return GeneralizedRCNNWithTTA(cfg, model)


def check_can_be_augmented(kind: Type[nn.Module]) -> None:
    """
    Raises:
        UsageError: there is no test-time augmentation for models of this kind.
    """
    if not (issubclass(kind, (KNet, SemanticSegmentor)) or kind is GeneralizedRCNN):
        raise UsageError(
            f"there is no test-time augmentation for a {kind.__name__}: set TEST.AUG.ENABLED False"
        )


def check_test_time_augmentation(cfg) -> None:
    """
    Raises:
        UsageError: a key of TEST.AUG that cannot be used, or not with MODEL.META_ARCHITECTURE.
    """
    aug = cfg.TEST.AUG
    if not aug.ENABLED:
        return
    check_can_be_augmented(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE))
    if not all(isinstance(length, int) and length > 0 for length in aug.MIN_SIZES):
        raise UsageError(
            f"TEST.AUG.MIN_SIZES is {tuple(aug.MIN_SIZES)}: lengths of the short side in pixels, "
            "1 or more"
        )
    if aug.MAX_SIZE < 1:
        raise UsageError(f"TEST.AUG.MAX_SIZE is {aug.MAX_SIZE}: at least 1 pixel is needed")
