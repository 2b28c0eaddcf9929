"""Resizing as the published models were trained and tested: OpenCV's, without antialias."""

from typing import List

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform
from PIL import Image

__all__ = ["OpenCVResizeShortestEdge", "OpenCVResizeTransform", "build_augmentations"]


class OpenCVResizeTransform(T.ResizeTransform):
    """Detectron2's resize, computed by OpenCV: bilinear for images, nearest for label maps."""

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        """(H, W) or (H, W, channels) -> the same at the new size."""
        nearest = interp == Image.NEAREST
        resized = cv2.resize(
            np.ascontiguousarray(img),
            (self.new_w, self.new_h),
            interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR,
        )
        return resized.reshape((self.new_h, self.new_w, *img.shape[2:]))

    def inverse(self):
        return OpenCVResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class OpenCVResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's ``ResizeShortestEdge``, computed by OpenCV."""

    def get_transform(self, image: np.ndarray):
        resize = super().get_transform(image)
        if isinstance(resize, NoOpTransform):
            return resize
        return OpenCVResizeTransform(resize.h, resize.w, resize.new_h, resize.new_w)


def build_augmentations(cfg, is_train: bool) -> List[T.Augmentation]:
    """Detectron2's augmentations of ``cfg.INPUT``, with the resize that it asks for."""
    augmentations = utils.build_augmentation(cfg, is_train)
    if not cfg.INPUT.RESIZE_ANTIALIAS:
        augmentations = [
            OpenCVResizeShortestEdge(
                a.short_edge_length, a.max_size, "range" if a.is_range else "choice"
            )
            if type(a) is T.ResizeShortestEdge
            else a
            for a in augmentations
        ]
    if is_train and cfg.INPUT.CROP.ENABLED:
        augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return augmentations
