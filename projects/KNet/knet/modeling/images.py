"""A model's inputs: checked, then normalised tensors on the model's device.

The form is checked always, which costs nothing. Values are read only where they may be out of range
(uint8 cannot be) and where reading them waits for no device: those of an image that lies on a GPU
already are not.
"""

from numbers import Integral
from typing import Dict, List

import torch

from ..data.image_reading import SCALED
from ..errors import DatasetError, UsageError

__all__ = ["check_output_sizes", "normalize_images"]

# A mean of at most this is that of values in 0..1 (or the values are used as they are).
_UNIT_RANGE_MEAN = 1.5
# Far outside of 0..255, which resizing by splines may leave a little, and colour spaces too.
_LOWEST, _HIGHEST = -256, 511


def normalize_images(
    batched_inputs: List[Dict], pixel_mean: torch.Tensor, pixel_std: torch.Tensor
) -> List[torch.Tensor]:
    """
    Args:
        batched_inputs: dicts with ``image`` (channels, H, W), values 0..255 unless ``pixel_mean``
            is that of another range, and perhaps ``file_name``.
        pixel_mean, pixel_std: (channels, 1, 1), on the device where the images are to be.

    Returns:
        (channels, H, W) float each.

    Raises:
        UsageError: no list of dicts, or an empty one.
        DatasetError: an image is no tensor of three dimensions, has another number of channels, or
            values that are NaN, infinite, or of another range than the model's.
    """
    _check_batch(batched_inputs)
    images = []
    for x in batched_inputs:
        image = x.get("image")
        name = x.get("file_name", "(no file_name)")
        if not isinstance(image, torch.Tensor) or image.dim() != 3:
            shape = f" of shape {tuple(image.shape)}" if hasattr(image, "shape") else ""
            raise DatasetError(
                f"'image' of {name} is a {type(image).__name__}{shape}: it must be a (channels, H, "
                "W) tensor"
            )
        if len(image) != len(pixel_mean):
            raise DatasetError(
                f"the image {name} has {len(image)} channels, MODEL.PIXEL_MEAN has "
                f"{len(pixel_mean)}: set MODEL.PIXEL_MEAN, PIXEL_STD and INPUT.FORMAT to fit"
            )
        if not image.numel():
            raise DatasetError(f"the image {name} is {tuple(image.shape)}: it has no pixel")
        if image.dtype != torch.uint8:
            image = _check_values(image, name, pixel_mean, SCALED in x)
        images.append((image.to(pixel_mean.device) - pixel_mean) / pixel_std)
    return images


def check_output_sizes(batched_inputs: List[Dict]) -> None:
    """``height`` and ``width`` of the wanted results: whole numbers above 0, both or neither.

    Raises:
        UsageError: they are not.
    """
    for x in batched_inputs:
        sides = {key: x[key] for key in ("height", "width") if key in x}
        for key, value in sides.items():
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise UsageError(
                    f"'{key}' of {x.get('file_name', 'an image')} is {value!r}: it must be a whole "
                    "number of pixels above 0"
                )
        if len(sides) == 1:
            raise UsageError(
                f"{x.get('file_name', 'an image')} has '{next(iter(sides))}' alone: give 'height' "
                "and 'width' of the wanted result, or neither"
            )


def _check_batch(batched_inputs: List[Dict]) -> None:
    wanted = "a model takes a list of dicts, [{'image': tensor (channels, H, W)}, ...]"
    if not isinstance(batched_inputs, (list, tuple)):
        raise UsageError(f"{wanted}, not a {type(batched_inputs).__name__}")
    if not batched_inputs:
        raise UsageError(f"{wanted}: this list is empty")
    for x in batched_inputs:
        if not isinstance(x, dict):
            raise UsageError(f"{wanted}: this list has a {type(x).__name__}")


def _check_values(
    image: torch.Tensor, name: str, pixel_mean: torch.Tensor, is_scaled: bool
) -> torch.Tensor:
    """The image as floats; of what is no uint8 the values are read, unless a GPU has them."""
    if image.dtype == torch.bool or image.is_complex():
        raise DatasetError(
            f"'image' of {name} is {str(image.dtype).removeprefix('torch.')}: give values 0..255"
        )
    is_float = image.is_floating_point()
    image = image.float()
    if image.device.type != "cpu":
        return image
    low, high = (value.item() for value in image.aminmax())
    if not float("-inf") < low <= high < float("inf"):  # nor with NaN
        raise DatasetError(
            f"the image {name} has NaN or infinite pixels in 'image': mend the file or the "
            "mapper that made it"
        )
    lowest, highest = (_LOWEST, _HIGHEST) if is_float else (0, 255)
    if (low < lowest or high > highest) and pixel_mean.max() <= _HIGHEST:
        raise DatasetError(
            f"the image {name} has values from {low:g} to {high:g} in 'image': scale them to 0..255"
        )
    in_unit_range = low >= 0 and 0 < high <= 1 and not is_scaled
    normalized = low <= -1 and high <= 10
    if is_float and (in_unit_range or normalized) and pixel_mean.max() > _UNIT_RANGE_MEAN:
        what = "values in 0..1" if in_unit_range else "values that are normalised already"
        raise DatasetError(
            f"the image {name} has {what} ({low:g} to {high:g}) in 'image', MODEL.PIXEL_MEAN is "
            f"that of 0..255: {'multiply by 255' if in_unit_range else 'give it as it was before'}"
        )
    return image
