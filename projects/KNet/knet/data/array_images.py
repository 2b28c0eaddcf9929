"""Arrays and tensors that hold a picture: their form checked, their values brought to 0..255."""

from typing import Sequence, Union

import numpy as np
import torch
from PIL import Image

from ..errors import DatasetError

__all__ = ["array_to_image", "check_array", "describe_array", "scale_values"]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels


def array_to_image(array: Union[np.ndarray, torch.Tensor], max_pixels: int) -> Image.Image:
    """A Pillow image of 8 bits a channel.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; a tensor (C, H, W) of as many
            channels. Values are 0..255, floats are rounded; of uint16, 0..65535, divided by 257.
        max_pixels: H x W at most.

    Raises:
        DatasetError: another shape, size, type or range of values.
    """
    values = scale_values(check_array(array, max_pixels), describe_array(array))
    values = np.ascontiguousarray(values)
    return Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)


def check_array(
    array: Union[np.ndarray, torch.Tensor], max_pixels: int, any_channels: bool = False
) -> np.ndarray:
    """(H, W, C) with the values as they are.

    Args:
        array, max_pixels: see :func:`array_to_image`.
        any_channels: of any number of channels.

    Raises:
        DatasetError: another shape or size.
    """
    what = describe_array(array)
    number = "channels" if any_channels else "1, 3 or 4 channels (RAW of INPUT.FORMAT takes others)"
    if isinstance(array, torch.Tensor):
        if array.dim() != 3 or not (any_channels or len(array) in MODES):
            hint = f"(C, H, W) with {number}"
            if array.dim() == 3 and array.shape[2] in MODES:
                hint += ": give tensor.permute(2, 0, 1)"
            raise DatasetError(f"{what} is no picture: a tensor must be {hint}")
        if array.dtype == torch.bfloat16:  # which NumPy lacks
            array = array.float()
        array = array.detach().cpu().permute(1, 2, 0).numpy()
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not (any_channels or array.shape[2] in MODES):
        hint = f"(H, W), or (H, W, C) with {number}"
        if array.ndim == 3 and array.shape[0] in MODES:
            hint += ": give array.transpose(1, 2, 0)"
        raise DatasetError(f"{what} is no picture: an array must be {hint}")
    height, width, channels = array.shape
    if not height or not width or not channels:
        raise DatasetError(f"{what} has no pixels")
    if height * width > max_pixels:
        raise DatasetError(
            f"{what} has more than {max_pixels} pixels (max_pixels): make it smaller or cut it "
            "into tiles"
        )
    return array


def scale_16_bit(values: np.ndarray) -> np.ndarray:
    """uint16 over its full range -> uint8: divided by 257, rounded."""
    # in uint16 itself, where values + 128 would overflow
    return (values // 257 + (values % 257 > 128)).astype(np.uint8)


def scale_values(values: np.ndarray, what: str, value_range: Sequence[float] = ()) -> np.ndarray:
    """Values of any type -> 0..255.

    Args:
        values: uint8 stay as they are.
        what: the picture, for the sentence.
        value_range: the values that become 0 and 255; those between keep their fractions, those
            beyond are clipped. (): uint16 by its full range, of other types 0..255 rounded.

    Returns:
        uint8; float32 by a ``value_range``.

    Raises:
        DatasetError: no real numbers, NaN, or without ``value_range`` values outside of 0..255.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise DatasetError(f"{what} is no picture: give uint8 values in 0..255")
    if len(value_range):
        return _scale_by_range(values, what, *value_range)
    if values.dtype == np.uint16:
        return scale_16_bit(values)
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= 255:  # nor with NaN
        raise DatasetError(
            f"{what} has values from {low:g} to {high:g}: scale them to 0..255, or set "
            "INPUT.VALUE_RANGE of the model's config to the values that are black and white"
        )
    if values.dtype.kind == "f":
        if 0 < high <= 1:
            raise DatasetError(
                f"{what} has values in 0..1: multiply by 255, or set INPUT.VALUE_RANGE (0, 1)"
            )
        values = values.round()
    return values.astype(np.uint8)


def _scale_by_range(values: np.ndarray, what: str, low: float, high: float) -> np.ndarray:
    if values.dtype.kind == "f":
        lacking = int(np.isnan(values).sum())
        if lacking:
            raise DatasetError(
                f"{what} has {lacking} values that are NaN: write the value there that such "
                "pixels are to have"
            )
    # in 64 bits, where every 32-bit integer is exact
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return scaled.clip(0, 255).astype(np.float32)


def describe_array(array: Union[np.ndarray, torch.Tensor]) -> str:
    kind = "tensor" if isinstance(array, torch.Tensor) else "array"
    dtype = str(array.dtype).removeprefix("torch.")
    return f"the {dtype} {kind} of shape {tuple(array.shape)}"
