"""A feature pyramid of exactly the levels that the neck uses, on any backbone."""

from itertools import pairwise

from detectron2.modeling import FPN, Backbone
from torch import nn

from ...errors import UsageError

__all__ = ["build_pyramid", "check_pyramid_features", "init_pyramid"]


class Pyramid(FPN):
    """Detectron2's FPN that also pads images as its bottom-up network wants it."""

    @property
    def size_divisibility(self) -> int:
        return max(super().size_divisibility, self.bottom_up.size_divisibility)


def build_pyramid(cfg, bottom_up: Backbone) -> FPN:
    """Detectron2's FPN over ``MODEL.FPN.IN_FEATURES``, initialised as published.

    Its levels are named by their stride (p2 for 4, ..., p5 for 32); there is no extra level.

    Raises:
        UsageError: IN_FEATURES are not features of ``bottom_up``, each half the size of the one
            before.
    """
    in_features = cfg.MODEL.FPN.IN_FEATURES
    shapes = bottom_up.output_shape()
    check_pyramid_features(in_features, list(shapes))
    strides = [shapes[name].stride for name in in_features]
    if any(2 * fine != coarse for fine, coarse in pairwise(strides)):
        raise UsageError(
            f"MODEL.FPN.IN_FEATURES is {list(in_features)}, features of the strides {strides}: "
            "name features each of twice the stride of the one before"
        )
    fpn = Pyramid(
        bottom_up=bottom_up,
        in_features=in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    init_pyramid(fpn)
    return fpn


def check_pyramid_features(in_features, available) -> None:
    """Raises UsageError unless ``MODEL.FPN.IN_FEATURES`` names some of the available features."""
    if not in_features or not set(in_features) <= set(available):
        raise UsageError(
            f"MODEL.FPN.IN_FEATURES is {list(in_features)}: name features of the backbone, which "
            f"has {', '.join(available)}"
        )


def init_pyramid(fpn: FPN) -> None:
    """Xavier-uniform weights and zero biases (Detectron2's own start counts the inputs only)."""
    for module in (*fpn.lateral_convs, *fpn.output_convs):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
