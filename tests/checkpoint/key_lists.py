"""The recorded names and shapes of every published model, as state dicts without memory."""

import json

import pytest
import torch

from tests.parity.recorded import FOLDER

NAMES = [
    *(
        f"det__knet__knet_s3_{model}"
        for model in (
            "r50_fpn_1x_coco-panoptic",
            "r50_fpn_1x_coco",
            "r50_fpn_ms-3x_coco-panoptic",
            "r50_fpn_ms-3x_coco",
            "r101_fpn_ms-3x_coco-panoptic",
            "r101_fpn_ms-3x_coco",
            "r101_dcn-c3-c5_fpn_ms-3x_coco-panoptic",
            "r101_dcn-c3-c5_fpn_ms-3x_coco",
            "swin-l_fpn_ms-3x_16x2_coco-panoptic",
        )
    ),
    *(
        f"seg__knet__knet_s3_{model}_ade20k"
        for model in (
            "fcn_r50-d8_80k_adamw",
            "pspnet_r50-d8_80k_adamw",
            "deeplabv3_r50-d8_80k_adamw",
            "upernet_r50-d8_80k_adamw",
            "upernet_swin-t_80k_adamw",
            "upernet_swin-l_80k_adamw",
            "upernet_swin-l_80k_adamw_640x640",
        )
    ),
    *(
        f"seg__baselines__{model}_512x512_80k_8x2_adamw_ade20k"
        for model in ("fcn_r50-d8", "pspnet_r50-d8", "deeplabv3_r50-d8", "upernet_r50")
    ),
    *(
        f"mmseg__knet_s3_{model}_adamw_80k_ade20k"
        for model in (
            "fcn_r50-d8_8x2_512x512",
            "pspnet_r50-d8_8x2_512x512",
            "deeplabv3_r50-d8_8x2_512x512",
            "upernet_r50-d8_8x2_512x512",
            "upernet_swin-t_8x2_512x512",
            "upernet_swin-l_8x2_512x512",
            "upernet_swin-l_8x2_640x640",
        )
    ),
]


def official(name: str, values: bool = False) -> dict:
    """The state dict of a published model.

    Args:
        values: each tensor holds a number of its own, in one float of memory, and those whose
            order a conversion changes hold as many as they have elements; else no memory at all.
    """
    path = FOLDER / "official_keys" / f"{name}.json"
    if not path.exists():
        pytest.skip("the key lists are not beside the project (../shared/parity)")
    keys = json.loads(path.read_text())["keys"]
    return {key: _tensor(i, key, entry, values) for i, (key, entry) in enumerate(keys.items())}


def _tensor(i: int, key: str, entry: dict, values: bool) -> torch.Tensor:
    shape, dtype = entry["shape"], getattr(torch, entry["dtype"])
    if not values:
        return torch.empty(shape, dtype=dtype, device="meta")
    if "downsample.norm" in key or "downsample.reduction" in key:
        return torch.arange(torch.Size(shape).numel(), dtype=dtype).view(shape) + i
    return torch.tensor(i, dtype=dtype).expand(shape)
