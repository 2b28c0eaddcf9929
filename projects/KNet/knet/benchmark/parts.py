"""The parts of each kind of model: which of its modules and functions are timed, under what name.

A name before a colon is a group: "results: panoptic" and "results: instance" are both results.
"""

from dataclasses import dataclass
from typing import Any, Dict, List

from detectron2.modeling.meta_arch import panoptic_fpn, rcnn
from torch import nn

from ..modeling import criterion as criterion_functions

__all__ = ["Part", "knet_parts", "parameters_of", "rcnn_parts"]


@dataclass
class Part:
    """A function of an object or of a module, and what its time is called."""

    owner: Any
    name: str
    label: str

    @property
    def is_network(self) -> bool:
        """Has it parameters, and can it be compiled by itself?"""
        return isinstance(self.owner, nn.Module) and self.name == "forward"


def _backbone_parts(model: nn.Module) -> List[Part]:
    parts = [Part(model, "preprocess_image", "input")]
    if hasattr(model.backbone, "bottom_up"):
        parts.append(Part(model.backbone, "forward", "pyramid"))
        return [*parts, Part(model.backbone.bottom_up, "forward", "backbone")]
    return [*parts, Part(model.backbone, "forward", "backbone")]


def knet_parts(model: nn.Module) -> List[Part]:
    """Of a panoptic or an instance K-Net; a part stands before those inside it."""
    heads = enumerate(model.kernel_update_heads, start=1)
    criterion, results = model.criterion, model.postprocessor
    return [
        *_backbone_parts(model),
        Part(model.neck, "forward", "neck"),
        Part(model.kernel_head, "forward", "kernel head"),
        *(Part(head, "forward", f"update stage {i}") for i, head in heads),
        Part(model, "target_builder", "targets"),
        Part(model, "losses", "losses"),
        Part(criterion, "match", "losses: matching"),
        Part(criterion, "semantic_losses", "losses: semantic"),
        Part(criterion, "class_loss", "losses: class"),
        Part(criterion_functions, "mask_loss", "losses: mask"),
        Part(criterion_functions, "dice_loss", "losses: dice"),
        Part(criterion_functions, "rank_loss", "losses: rank"),
        Part(criterion, "point_losses", "losses: point"),
        Part(criterion, "iou_loss", "losses: IoU"),
        Part(model, "results", "results"),
        Part(results, "panoptic", "results: panoptic"),
        Part(results, "instances", "results: instance"),
        Part(results, "semantic", "results: semantic"),
    ]


def rcnn_parts(model: nn.Module) -> List[Part]:
    """Of Detectron2's Mask R-CNN and Panoptic FPN; each head's losses are in its own part."""
    heads = model.roi_heads
    parts = [
        *_backbone_parts(model),
        Part(model.proposal_generator, "forward", "region proposals"),
        Part(heads, "forward", "region heads"),
        Part(heads.box_pooler, "forward", "region heads: boxes"),
        Part(heads.box_head, "forward", "region heads: boxes"),
        Part(heads.box_predictor, "forward", "region heads: boxes"),
        Part(heads.mask_pooler, "forward", "region heads: masks"),
        Part(heads.mask_head, "forward", "region heads: masks"),
    ]
    if not hasattr(model, "sem_seg_head"):
        return [*parts, Part(rcnn, "detector_postprocess", "results: instance")]
    return [
        *parts,
        Part(model.sem_seg_head, "forward", "semantic head"),
        Part(panoptic_fpn, "detector_postprocess", "results: instance"),
        Part(panoptic_fpn, "sem_seg_postprocess", "results: semantic"),
        Part(panoptic_fpn, "combine_semantic_and_instance_outputs", "results: panoptic"),
    ]


def parameters_of(parts: List[Part]) -> Dict[str, int]:
    """Label -> number of parameters that are in no part inside it."""
    owners = {}
    for part in parts:  # outer ones first
        if part.is_network:
            owners.update(dict.fromkeys(part.owner.parameters(), part.label))
    counts: Dict[str, int] = {}
    for parameter, label in owners.items():
        counts[label] = counts.get(label, 0) + parameter.numel()
    return counts
