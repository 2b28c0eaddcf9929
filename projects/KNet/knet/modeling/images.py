"""Input images -> normalised tensors on the model's device."""

from typing import Dict, List

import torch

from ..errors import DatasetError

__all__ = ["normalize_images"]


def normalize_images(
    batched_inputs: List[Dict], pixel_mean: torch.Tensor, pixel_std: torch.Tensor
) -> List[torch.Tensor]:
    """
    Args:
        batched_inputs: dicts with ``image`` (channels, H, W), and perhaps ``file_name``.
        pixel_mean, pixel_std: (channels, 1, 1), on the device where the images are to be.

    Returns:
        (channels, H, W) float each.

    Raises:
        DatasetError: an image is no tensor of three dimensions, has NaN or infinite pixels, or
            another number of channels.
    """
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
        # checked before the move to the device, so that no device has to be waited for
        if image.is_floating_point() and not torch.isfinite(image).all():
            raise DatasetError(
                f"the image {name} has NaN or infinite pixels in 'image': mend the file or the "
                "mapper that made it"
            )
        images.append((image.to(pixel_mean.device) - pixel_mean) / pixel_std)
    return images
