"""ResNet with a feature pyramid of exactly the levels that the neck uses."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_resnet_backbone

from .deform_conv import portable_deform_convs
from .pyramid import build_pyramid
from .resnet_checks import check_resnet

__all__ = ["build_knet_resnet_fpn_backbone"]


@BACKBONE_REGISTRY.register()
def build_knet_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Detectron2's ResNet and FPN (p2 to p5, no more), the pyramid initialised as published.

    Deformable convolutions (``MODEL.RESNETS.DEFORM_ON_PER_STAGE``) also train on a CPU and
    need none of Detectron2's compiled operators.

    Raises:
        UsageError: keys that do not fit together.
    """
    check_resnet(cfg, depths=(18, 34, 50, 101, 152))
    with portable_deform_convs():
        bottom_up = build_resnet_backbone(cfg, input_shape)
    return build_pyramid(cfg, bottom_up)
