"""ResNet with a feature pyramid of exactly the levels that the neck uses."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_resnet_backbone
from torch import nn

__all__ = ["build_knet_resnet_fpn_backbone", "init_pyramid"]


@BACKBONE_REGISTRY.register()
def build_knet_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Detectron2's ResNet and FPN (p2 to p5, no more), the pyramid initialised as published."""
    fpn = FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    init_pyramid(fpn)
    return fpn


def init_pyramid(fpn: FPN) -> None:
    """Xavier-uniform weights and zero biases (Detectron2's own start counts the inputs only)."""
    for module in (*fpn.lateral_convs, *fpn.output_convs):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
