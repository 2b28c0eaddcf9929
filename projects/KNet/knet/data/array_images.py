"""Arrays and tensors that hold a picture -> Pillow images of 8 bits a channel."""

from typing import Union

import numpy as np
import torch
from PIL import Image

from ..errors import DatasetError

__all__ = ["array_to_image"]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels


def array_to_image(array: Union[np.ndarray, torch.Tensor], max_pixels: int) -> Image.Image:
    """
    Args:
        array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; a tensor (C, H, W) of as many
            channels. Values are 0..255, floats are rounded; of uint16, 0..65535, divided by 257.
        max_pixels: H x W at most.

    Raises:
        DatasetError: another shape, size, type or range of values.
    """
    what = _describe(array)
    if isinstance(array, torch.Tensor):
        if array.dim() != 3 or len(array) not in MODES:
            hint = "(C, H, W) with 1, 3 or 4 channels"
            if array.dim() == 3 and array.shape[2] in MODES:
                hint += ": give tensor.permute(2, 0, 1)"
            raise DatasetError(f"{what} is no picture: a tensor must be {hint}")
        if array.is_floating_point():  # NumPy has no bfloat16
            array = array.float()
        array = array.detach().cpu().permute(1, 2, 0).numpy()
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in MODES:
        hint = "(H, W), or (H, W, C) with 1, 3 or 4 channels"
        if array.ndim == 3 and array.shape[0] in MODES:
            hint += ": give array.transpose(1, 2, 0)"
        raise DatasetError(f"{what} is no picture: an array must be {hint}")
    height, width, channels = array.shape
    if not height or not width:
        raise DatasetError(f"{what} has no pixels")
    if height * width > max_pixels:
        raise DatasetError(
            f"{what} has more than {max_pixels} pixels (max_pixels): make it smaller or cut it "
            "into tiles"
        )
    values = np.ascontiguousarray(_to_8_bit(array, what))
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


def scale_16_bit(values: np.ndarray) -> np.ndarray:
    """uint16 over its full range -> uint8: divided by 257, rounded."""
    # in uint16 itself, where values + 128 would overflow
    return (values // 257 + (values % 257 > 128)).astype(np.uint8)


def _to_8_bit(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return scale_16_bit(array)
    if array.dtype.kind not in "iuf":
        raise DatasetError(f"{what} is no picture: give uint8 values in 0..255")
    low, high = array.min(), array.max()
    if not 0 <= low <= high <= 255:  # nor with NaN
        raise DatasetError(f"{what} has values from {low:g} to {high:g}: scale them to 0..255")
    if array.dtype.kind == "f":
        if 0 < high <= 1:
            raise DatasetError(f"{what} has values in 0..1: multiply by 255")
        array = array.round()
    return array.astype(np.uint8)


def _describe(array: Union[np.ndarray, torch.Tensor]) -> str:
    kind = "tensor" if isinstance(array, torch.Tensor) else "array"
    dtype = str(array.dtype).removeprefix("torch.")
    return f"the {dtype} {kind} of shape {tuple(array.shape)}"
