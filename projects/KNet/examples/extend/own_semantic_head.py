"""A semantic head under the kernel update: features -> a map -> a 1x1 classifier."""

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY

from knet.modeling.masks import resize
from knet.modeling.semantic.base import ClassifierHead, conv_norm_relu


@SEM_SEG_HEADS_REGISTRY.register()
class SkipHead(ClassifierHead):
    """The coarsest feature, enlarged, beside the finest: two convolutions, then the classifier.

    ClassifierHead ends in dropout and the classifier, computes the loss without kernel update, and
    takes its arguments from MODEL.SEM_SEG_HEAD.
    """

    @configurable
    def __init__(self, input_shape, **kwargs):
        super().__init__(input_shape, **kwargs)
        finest, coarsest = self.in_channels[0], self.in_channels[-1]
        self.reduce = conv_norm_relu(coarsest, self.channels, 1, norm=self.norm)
        self.join = conv_norm_relu(finest + self.channels, self.channels, 3, norm=self.norm)

    @property
    def common_stride(self) -> int:
        """Of the logits, in input pixels."""
        return self.in_strides[0]

    def pixel_features(self, features) -> torch.Tensor:
        """Backbone features -> F (B, C, H, W), the map that is classified."""
        finest = features[self.in_features[0]]
        coarsest = self.reduce(features[self.in_features[-1]])
        return self.join(torch.cat((finest, resize(coarsest, finest.shape[-2:])), dim=1))
