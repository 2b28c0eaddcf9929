"""ResNet with a deep stem and dilation, the backbone of the published semantic models."""

from typing import List

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import (
    BottleneckBlock,
    CNNBlockBase,
    DeformBottleneckBlock,
    ResNet,
)
from detectron2.projects.deeplab.resnet import DeepLabStem

from ...errors import UsageError
from .deform_conv import portable_deform_convs
from .resnet_checks import check_resnet

__all__ = ["build_deep_stem_resnet_backbone"]

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# (RES4_DILATION, RES5_DILATION) of output strides 32, 16, 8
_DILATIONS = ((1, 1), (1, 2), (2, 4))


@BACKBONE_REGISTRY.register()
def build_deep_stem_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """Detectron2's ResNet behind DeepLab's stem of three 3x3 convolutions, for ``MODEL.RESNETS``.

    A stage with a dilation d has no stride, and its first block only the dilation d / 2: it still
    sees the finer grid of the stage before. (``build_resnet_deeplab_backbone`` dilates that block
    as the others, so published weights give something else there.) RES5_MULTI_GRID has no effect.

    Raises:
        UsageError: keys that do not fit together.
    """
    resnets = cfg.MODEL.RESNETS
    check_resnet(cfg, depths=tuple(_BLOCKS))
    if (resnets.RES4_DILATION, resnets.RES5_DILATION) not in _DILATIONS:
        raise UsageError(
            f"MODEL.RESNETS.RES4_DILATION {resnets.RES4_DILATION} and RES5_DILATION "
            f"{resnets.RES5_DILATION} do not fit together: set 1 and 1 (output stride 32), "
            "1 and 2 (16) or 2 and 4 (8)"
        )
    stem = DeepLabStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, resnets.NORM)
    with portable_deform_convs():
        stages = [_build_stage(resnets, index) for index in range(4)]
    return ResNet(
        stem,
        stages,
        out_features=resnets.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


def _build_stage(resnets, index: int) -> List[CNNBlockBase]:
    """The blocks of res2 (index 0) to res5 (3)."""
    num_blocks = _BLOCKS[resnets.DEPTH][index]
    dilation = (1, 1, resnets.RES4_DILATION, resnets.RES5_DILATION)[index]
    out_channels = resnets.RES2_OUT_CHANNELS * 2**index
    arguments = {"block_class": BottleneckBlock}
    if resnets.DEFORM_ON_PER_STAGE[index]:
        arguments = {
            "block_class": DeformBottleneckBlock,
            "deform_modulated": resnets.DEFORM_MODULATED,
            "deform_num_groups": resnets.DEFORM_NUM_GROUPS,
        }
    return ResNet.make_stage(
        num_blocks=num_blocks,
        stride_per_block=[1 if index == 0 or dilation > 1 else 2] + [1] * (num_blocks - 1),
        dilation_per_block=[max(dilation // 2, 1)] + [dilation] * (num_blocks - 1),
        in_channels=out_channels // 2 if index else resnets.STEM_OUT_CHANNELS,
        out_channels=out_channels,
        bottleneck_channels=resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 2**index,
        num_groups=resnets.NUM_GROUPS,
        norm=resnets.NORM,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        **arguments,
    )
