"""Augmentations as the published models were trained and tested.

Resizing is OpenCV's, without antialias. In training a crop comes after it, then the flip, then the
photometric distortion.
"""

import copy
from typing import List, Tuple

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import NoOpTransform
from PIL import Image

from ..errors import DatasetError, UsageError

__all__ = [
    "CheckedResizeShortestEdge",
    "OpenCVResizeShortestEdge",
    "OpenCVResizeTransform",
    "RandomlyScaledResize",
    "build_augmentations",
]


# OpenCV's "nearest" takes the pixel at a cell's corner, not the one at its middle: what it resizes
# lies half a pixel (of the new size) to the right of the bilinear resize, and below it
MASK_INTERPOLATIONS = {"nearest": cv2.INTER_NEAREST, "nearest-exact": cv2.INTER_NEAREST_EXACT}
_EXACT_SIDE = 2**15  # from which on OpenCV's "nearest-exact" reads beside the image


class OpenCVResizeTransform(T.ResizeTransform):
    """Detectron2's resize, computed by OpenCV: bilinear for images, nearest for label maps."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, mask_interpolation: str = "nearest"):
        """
        Args:
            h, w, new_h, new_w: sizes before and after.
            mask_interpolation: of label maps, as torch names it: "nearest" or "nearest-exact".
        """
        super().__init__(h, w, new_h, new_w)
        self.mask_interpolation = mask_interpolation

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        """(H, W) or (H, W, channels) -> the same at the new size."""
        of_masks = MASK_INTERPOLATIONS[self.mask_interpolation]
        kind = of_masks if interp == Image.NEAREST else cv2.INTER_LINEAR
        if kind == cv2.INTER_NEAREST_EXACT and max(img.shape[:2]) >= _EXACT_SIDE:
            rows, columns = _middles(img.shape[0], self.new_h), _middles(img.shape[1], self.new_w)
            return img[rows[:, None], columns]
        resized = cv2.resize(
            np.ascontiguousarray(img), (self.new_w, self.new_h), interpolation=kind
        )
        return resized.reshape((self.new_h, self.new_w, *img.shape[2:]))

    def inverse(self):
        sizes = self.new_h, self.new_w, self.h, self.w
        return OpenCVResizeTransform(*sizes, self.mask_interpolation)


def _middles(length: int, new: int) -> np.ndarray:
    """The pixel of ``length`` at the middle of each of the ``new`` ones."""
    return (2 * np.arange(new) + 1) * length // (2 * new)


class CheckedResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's ``ResizeShortestEdge``, which leaves no image without pixels."""

    def get_transform(self, image: np.ndarray):
        """
        Raises:
            DatasetError: an image so narrow that nothing would be left of its short side.
        """
        resize = super().get_transform(image)
        if not isinstance(resize, NoOpTransform) and 0 in (resize.new_h, resize.new_w):
            raise DatasetError(
                f"of {resize.w} x {resize.h} has no pixel left on its short side when its long one "
                f"is resized to INPUT.MAX_SIZE_* {self.max_size}: cut it into pieces"
            )
        return resize


class OpenCVResizeShortestEdge(CheckedResizeShortestEdge):
    """The same, computed by OpenCV."""

    mask_interpolation = "nearest"

    def get_transform(self, image: np.ndarray):
        resize = super().get_transform(image)
        if isinstance(resize, NoOpTransform):
            return resize
        sizes = resize.h, resize.w, resize.new_h, resize.new_w
        return OpenCVResizeTransform(*sizes, self.mask_interpolation)


class RandomlyScaledResize(T.Augmentation):
    """A resize whose sizes are multiplied by a new random number at each image."""

    def __init__(self, resize: T.ResizeShortestEdge, scale_range: Tuple[float, float]):
        """
        Args:
            resize: its ``short_edge_length`` and ``max_size`` are multiplied, then rounded down;
                a length of 0 stays 0, which is no resize.
            scale_range: least and largest factor; uniform between them.
        """
        super().__init__()
        self._init({"resize": resize, "scale_range": tuple(scale_range)})

    def get_transform(self, image: np.ndarray):
        factor = np.random.uniform(*self.scale_range)
        resize = copy.copy(self.resize)
        sides = self.resize.short_edge_length
        resize.short_edge_length = tuple(max(min(1, s), int(s * factor)) for s in sides)
        resize.max_size = max(1, int(self.resize.max_size * factor))
        return resize.get_transform(image)


def build_augmentations(cfg, is_train: bool) -> List[T.Augmentation]:
    """Detectron2's augmentations of ``cfg.INPUT``, with the resize that it asks for.

    In training: resize (its sizes times a number of ``SCALE_RANGE``), crop, flip, photometric
    distortion (``COLOR_AUG_SSD``), the published order for ADE20K; unlike Detectron2's own mapper,
    a crop always comes after the resize. With ``CROP.SINGLE_CATEGORY_MAX_AREA`` below 1 the crop
    is drawn anew, 10 times at most, until it has two classes and none fills more than that share;
    such a crop needs the label map as ``sem_seg`` of the ``AugInput``. An image smaller than an
    absolute crop stays as it is: the model pads.

    Raises:
        UsageError: a key of ``cfg.INPUT`` that cannot be used.
    """
    try:
        augmentations = utils.build_augmentation(cfg, is_train)
    except (AssertionError, ValueError) as error:
        raise UsageError(
            "INPUT.MIN_SIZE_TRAIN, MIN_SIZE_TRAIN_SAMPLING, RANDOM_FLIP and their like make no "
            f"augmentation: {error}"
        ) from error
    if is_train and not cfg.INPUT.MIN_SIZE_TRAIN:
        raise UsageError("INPUT.MIN_SIZE_TRAIN is (): name a length of the short side, or (0,)")
    augmentations = [
        _build_resize(cfg, a) if type(a) is T.ResizeShortestEdge else a for a in augmentations
    ]
    if not is_train:
        return augmentations
    resize, *others = augmentations
    if cfg.INPUT.SCALE_RANGE:
        resize = RandomlyScaledResize(resize, _scale_range(cfg))
    crop = [_build_crop(cfg)] if cfg.INPUT.CROP.ENABLED else []
    color = [_build_color(cfg)] if cfg.INPUT.COLOR_AUG_SSD else []
    return [resize, *crop, *others, *color]


def _build_resize(cfg, like: T.ResizeShortestEdge) -> T.ResizeShortestEdge:
    """Detectron2's resize -> one of the same sizes as ``cfg.INPUT`` wants it computed."""
    sizes = like.short_edge_length, like.max_size, "range" if like.is_range else "choice"
    if cfg.INPUT.RESIZE_ANTIALIAS:
        return CheckedResizeShortestEdge(*sizes)
    resize = OpenCVResizeShortestEdge(*sizes)
    resize.mask_interpolation = cfg.INPUT.MASK_INTERPOLATION
    if resize.mask_interpolation not in MASK_INTERPOLATIONS:
        raise UsageError(
            f"INPUT.MASK_INTERPOLATION is '{resize.mask_interpolation}': it must be one of "
            f"{', '.join(MASK_INTERPOLATIONS)}"
        )
    return resize


def _scale_range(cfg) -> Tuple[float, float]:
    scales = tuple(cfg.INPUT.SCALE_RANGE)
    if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
        raise UsageError(
            f"INPUT.SCALE_RANGE is {scales}: it must be () or the least and the largest factor, "
            "such as (0.5, 2.0)"
        )
    return scales


def _build_crop(cfg) -> T.Augmentation:
    crop = cfg.INPUT.CROP
    relative = crop.TYPE.startswith("relative")
    if (
        crop.TYPE not in ("relative", "relative_range", "absolute", "absolute_range")
        or len(crop.SIZE) != 2
        or min(crop.SIZE) <= 0
        or (relative and max(crop.SIZE) > 1)
        or (crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1])
        or (not relative and any(side != int(side) for side in crop.SIZE))
    ):
        raise UsageError(
            f"INPUT.CROP.TYPE '{crop.TYPE}' with INPUT.CROP.SIZE {tuple(crop.SIZE)} is no crop: "
            "use 'absolute' with height and width in pixels, 'absolute_range' with the least and "
            "the largest side, or 'relative' or 'relative_range' with two parts of 1"
        )
    size = tuple(crop.SIZE) if relative else tuple(int(side) for side in crop.SIZE)
    if crop.SINGLE_CATEGORY_MAX_AREA >= 1:
        return T.RandomCrop(crop.TYPE, size)
    return T.RandomCrop_CategoryAreaConstraint(
        crop.TYPE, size, crop.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    )


def _build_color(cfg) -> ColorAugSSDTransform:
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise UsageError(
            f"INPUT.COLOR_AUG_SSD needs colour images, INPUT.FORMAT is '{cfg.INPUT.FORMAT}': set "
            "it to RGB or BGR, or INPUT.COLOR_AUG_SSD False"
        )
    return ColorAugSSDTransform(cfg.INPUT.FORMAT)
