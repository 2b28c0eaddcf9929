"""K-Net trains and is evaluated with each kind of backbone that the command line can name."""

import pytest
import torch

_FPN = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.KNET.NECK.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}
_SWIN = {
    **_FPN,
    "MODEL.BACKBONE.NAME": "build_swin_fpn_backbone",
    "MODEL.FPN.IN_FEATURES": ["p0", "p1", "p2", "p3"],
    "MODEL.SWIN.EMBED_DIM": 8,
    "MODEL.SWIN.NUM_HEADS": [1, 2, 2, 4],
    "MODEL.SWIN.WINDOW_SIZE": 4,
    "MODEL.SWIN.CHECKPOINT": True,
}
_TIMM = {
    **_FPN,
    "MODEL.BACKBONE.NAME": "build_timm_fpn_backbone",
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.TIMM.NAME": "mobilenetv2_035",
}
_DEFORMABLE = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, False]}


@pytest.mark.parametrize(
    "keys, part",
    [
        (_SWIN, "patch_embed.proj.weight"),
        (_TIMM, "model.conv_stem.weight"),
        (_DEFORMABLE, "res3.0.conv2_offset.weight"),
    ],
    ids=["swin", "timm", "deformable"],
)
def test_two_iterations(keys, part, train_net, tiny_options, tmp_path):
    if keys is _TIMM:
        pytest.importorskip("timm")
    outcome = train_net(options={**tiny_options, **keys})
    assert outcome.status == 0, outcome.err
    weights = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    assert f"backbone.bottom_up.{part}" in weights
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
