"""Any model of timm (PyTorch Image Models) that makes feature maps, as a Detectron2 backbone."""

import difflib
from typing import Dict, List, Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import UsageError
from ..frozen_norm import keep_statistics
from .pyramid import build_pyramid, check_pyramid_features

__all__ = ["TimmBackbone", "build_timm_backbone", "build_timm_fpn_backbone"]

_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
# Sides of two images that a new model is tried with: every stride divides the first, none the
# second.
_EVEN_SIZE, _ODD_SIZE = (128, 160), (139, 171)


class TimmBackbone(Backbone):
    """A timm model up to the last feature wanted; features of stride 4 to 32 are res2 to res5.

    Parameters are named ``model.`` + timm's own name. A model that rounds sizes down, or cannot
    take every size, has images padded to multiples of 32 (``size_divisibility``).
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        pretrained: bool = False,
        out_features: Sequence[str] = tuple(_STRIDES),
        freeze_at: int = 0,
        output_stride: int = 0,
        norm_eval: bool = False,
    ):
        """
        Args:
            name: of the model in timm, with or without the tag of pretrained weights.
            in_channels: of the image.
            pretrained: let timm download its weights.
            out_features: some of res2 to res5.
            freeze_at: 0 for nothing; 2 to 5: all that res2 (to res5) is computed from.
            output_stride: 8 or 16 dilates the model instead of striding further, if timm can;
                its last feature is then res3 or res4. 0: the model's own.
            norm_eval: keep BatchNorm's statistics in training, whatever model this is part of.

        Raises:
            UsageError: timm is missing, or the model does not do.
        """
        super().__init__()
        self.name = name
        self.norm_eval = norm_eval
        self.model = _create(name, in_channels, pretrained, output_stride)
        self._out_features = sorted(out_features)
        self._out_feature_strides = {f: _STRIDES[f] for f in self._out_features}
        indices = self._feature_indices()
        self._out_feature_channels = {
            feature: self.model.feature_info[index]["num_chs"]
            for feature, index in zip(self._out_features, indices)
        }
        self._indices = self.model.prune_intermediate_layers(indices, prune_norm=True)
        self._try_out(in_channels, freeze_at)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec):
        return {
            "name": cfg.MODEL.TIMM.NAME,
            "in_channels": input_shape.channels,
            "pretrained": cfg.MODEL.TIMM.PRETRAINED,
            "out_features": cfg.MODEL.TIMM.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "output_stride": cfg.MODEL.TIMM.OUTPUT_STRIDE,
            "norm_eval": cfg.MODEL.BACKBONE.NORM_EVAL,
        }

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, images: torch.Tensor) -> Dict[str, torch.Tensor]:
        """(B, channels, H, W) -> name of a feature: (B, its channels, H / stride, W / stride)."""
        features = self.model.forward_intermediates(
            images, indices=self._indices, output_fmt="NCHW", intermediates_only=True
        )
        return dict(zip(self._out_features, features))

    def train(self, mode: bool = True):
        """Frozen BatchNorm stays in eval mode; all of it does if its statistics are kept."""
        super().train(mode)
        if self.norm_eval:
            keep_statistics(self)
            return self
        for module in self.model.modules():
            if isinstance(module, _BatchNorm) and module.weight is not None:
                module.train(mode and module.weight.requires_grad)
        return self

    def _feature_indices(self) -> List[int]:
        """Place of each output among timm's intermediate features."""
        info = getattr(self.model, "feature_info", None)
        if not info or not hasattr(self.model, "forward_intermediates"):
            raise UsageError(f"MODEL.TIMM.NAME {self.name} has no feature maps: name another model")
        place = {info[i]["reduction"]: i for i in range(len(info))}
        missing = [f for f in self._out_features if _STRIDES[f] not in place]
        if missing:
            raise UsageError(
                f"MODEL.TIMM.NAME {self.name} has features of stride "
                f"{', '.join(map(str, sorted(place)))} only, but {missing[0]} has stride "
                f"{_STRIDES[missing[0]]}: name another model or leave {missing[0]} out"
            )
        return [place[_STRIDES[f]] for f in self._out_features]

    def _try_out(self, in_channels: int, freeze_at: int) -> None:
        """Run the model once: do its features have the announced shapes, what do they depend on?"""
        self.eval()
        image = torch.zeros(1, in_channels, *_EVEN_SIZE)
        try:
            features = self(image)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"MODEL.TIMM.NAME {self.name} does not take images of any size: name another model "
                f"({_first_line(error)})"
            ) from error
        if not self._has_announced_shapes(image, features):
            raise UsageError(
                f"MODEL.TIMM.NAME {self.name} makes features whose sizes are not those of the "
                "image divided by the strides: name another model"
            )
        self._freeze(features, freeze_at)
        try:
            with torch.no_grad():
                image = torch.zeros(1, in_channels, *_ODD_SIZE)
                any_size = self._has_announced_shapes(image, self(image))
        except (AssertionError, RuntimeError, ValueError):
            any_size = False
        self._size_divisibility = 0 if any_size else max(_STRIDES.values())
        self.train()

    def _has_announced_shapes(self, image, features) -> bool:
        batch, _, *size = image.shape
        return all(
            features[name].shape == (batch, spec.channels, *(-(-s // spec.stride) for s in size))
            for name, spec in self.output_shape().items()
        )

    def _freeze(self, features: Dict[str, torch.Tensor], freeze_at: int) -> None:
        """Only what is behind res{freeze_at} and in front of an output learns."""
        stage = f"res{freeze_at}"
        if freeze_at and stage not in features:
            raise UsageError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}: a timm model can freeze nothing (0) or "
                f"all in front of {', '.join(f'{name} ({name[3:]})' for name in features)}"
            )
        learning = _needed_by(features.values(), self.model)
        if freeze_at:
            learning -= _needed_by([features[stage]], self.model)
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter in learning)


def _needed_by(outputs, model: nn.Module) -> set:
    """The parameters that some of the outputs depend on."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = sum(output.sum() for output in outputs)
    gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return {p for p, gradient in zip(parameters, gradients) if gradient is not None}


def _create(name: str, in_channels: int, pretrained: bool, output_stride: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UsageError(
            "MODEL.BACKBONE.NAME asks for a timm model, but timm is not installed: run "
            "pip install timm"
        ) from error
    if not timm.is_model(name):
        of_hub = name.rpartition("/")[2].partition(".")[0]  # as the model hub writes names
        near = difflib.get_close_matches(of_hub, timm.list_models(), n=5)
        raise UsageError(
            f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not know: name one "
            f"of timm.list_models(){', such as ' + ', '.join(near) if near else ''}"
        )
    settings = {"output_stride": output_stride} if output_stride else {}
    try:
        return _create_for_any_size(
            timm, name, pretrained=pretrained, in_chans=in_channels, **settings
        )
    except Exception as error:  # timm downloads in several ways, each with errors of its own
        raise UsageError(
            f"timm cannot make MODEL.TIMM.NAME {name}"
            f"{' with its weights (MODEL.TIMM.PRETRAINED)' if pretrained else ''}"
            f"{f' at MODEL.TIMM.OUTPUT_STRIDE {output_stride}' if output_stride else ''}: "
            f"{_first_line(error)}"
        ) from error


def _create_for_any_size(timm, name: str, **settings) -> nn.Module:
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:
        try:
            return timm.create_model(name, strict_img_size=False, **settings)
        except TypeError:
            pass  # a model without this choice: trying it out will show what it takes
    return timm.create_model(name, **settings)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape: ShapeSpec) -> TimmBackbone:
    """The timm model of ``MODEL.TIMM``.

    Raises:
        UsageError: see :class:`TimmBackbone`.
    """
    wanted = cfg.MODEL.TIMM.OUT_FEATURES
    if not wanted or not set(wanted) <= set(_STRIDES):
        raise UsageError(
            f"MODEL.TIMM.OUT_FEATURES is {list(wanted)}: name some of {', '.join(_STRIDES)}"
        )
    return TimmBackbone(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """The timm model of ``MODEL.TIMM`` with a feature pyramid (p2 to p5).

    Its features are ``MODEL.FPN.IN_FEATURES``; ``MODEL.TIMM.OUT_FEATURES`` plays no part.

    Raises:
        UsageError: see :class:`TimmBackbone`.
    """
    wanted = cfg.MODEL.FPN.IN_FEATURES
    check_pyramid_features(wanted, tuple(_STRIDES))
    return build_pyramid(cfg, TimmBackbone(cfg, input_shape, out_features=wanted))
