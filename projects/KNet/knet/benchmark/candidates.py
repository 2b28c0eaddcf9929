"""The models that are measured, with random weights, and what each is given instead of training."""

from dataclasses import dataclass, field
from typing import Callable, Dict, List

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from ..errors import UsageError
from ..modeling.recompute import recompute_as_configured
from .jobs import DTYPES, MACHINE, Job
from .made_up import boxes_apart, found_by_knet, proposals, training_input
from .parts import Part, knet_parts, rcnn_parts
from .patches import Patches

__all__ = ["CONVOLUTION", "PRODUCT", "Candidate", "build_candidate", "training_inputs"]

# What the machine itself is measured by
CONVOLUTION, PRODUCT = "convolution", "matrix product"
NUM_PROPOSALS = 1000
NUM_POSITIVES = 128  # a quarter of the 512 proposals that Detectron2's heads learn from


@dataclass
class Candidate:
    """A model ready to run.

    Attributes:
        model: what learns.
        batch: its input.
        forward: batch -> results, or losses by name.
        parts: what is timed by itself.
        notes: what was made up, one sentence each.
        make_up: puts made-up outputs in place of those of random weights.
    """

    model: nn.Module
    batch: object
    forward: Callable[[object], object]
    parts: List[Part]
    notes: List[str] = field(default_factory=list)
    make_up: Callable[[Patches], None] = lambda patches: None


def build_candidate(job: Job) -> Candidate:
    """
    Raises:
        UsageError: it cannot be built, or what it needs is not installed.
    """
    torch.manual_seed(0)
    if job.candidate == MACHINE:
        return _machine(job)
    if job.candidate == "mask2former":
        from .mask2former import build_mask2former  # needs transformers

        return build_mask2former(job)
    if job.candidate in job.settings.config_files:
        return _knet(job)
    return _rcnn(job)


def training_inputs(job: Job, num_things: int, num_stuff: int) -> List[Dict]:
    """Images with their truth, in Detectron2's form."""
    return [training_input(job.size, job.objects, num_things, num_stuff) for _ in range(job.batch)]


def _inputs(job: Job, num_things: int, num_stuff: int) -> List[Dict]:
    inputs = training_inputs(job, num_things, num_stuff)
    if job.learns:
        return inputs
    height, width = job.settings.output or job.size
    return [{"image": x["image"], "height": height, "width": width} for x in inputs]


def _knet(job: Job) -> Candidate:
    cfg = job.config()
    model = build_model(cfg).train(job.learns)
    recompute_as_configured(model, cfg)
    knet = cfg.MODEL.KNET
    num_things, num_stuff = knet.NUM_THING_CLASSES, knet.NUM_STUFF_CLASSES
    candidate = Candidate(model, _inputs(job, num_things, num_stuff), model, knet_parts(model))
    if not job.learns:
        scene = job.settings.scene
        found = found_by_knet(scene, job.objects, knet.NUM_KERNELS, num_things)
        candidate.notes.append(_SCENE_NOTES[scene].format(objects=job.objects))
        last = model.kernel_update_heads[-1]
        candidate.make_up = lambda patches: patches.put(
            last, "forward", lambda forward: lambda *x: found(forward(*x))
        )
    return candidate


_SCENE_NOTES = {
    "objects": "results of {objects} made-up objects on bands of stuff, put in place of the last "
    "stage's once these are computed",
    "noise": "results of noise (the worst case), put in place of the last stage's",
    "weights": "results of what random weights find",
}


def _rcnn(job: Job) -> Candidate:
    """Detectron2's Mask R-CNN or Panoptic FPN on K-Net's backbone."""
    knet = job.config()
    panoptic = job.candidate == "panoptic_fpn"
    counts = knet.MODEL.KNET
    num_things, num_stuff = counts.NUM_THING_CLASSES, counts.NUM_STUFF_CLASSES
    if panoptic and num_stuff == 0:
        raise UsageError("Panoptic FPN needs stuff classes, of which the first config has none")
    model = build_model(_rcnn_config(knet, panoptic)).train(job.learns)
    inputs = _inputs(job, num_things, num_stuff)
    for x in inputs if job.learns else ():  # class 0 is that of all things
        x["sem_seg"] = x["sem_seg"] - num_things + 1
    candidate = Candidate(model, inputs, model, rcnn_parts(model))
    made = [_proposals(job, x).to(model.device) for x in inputs]
    classes = torch.randint(num_things, (job.objects,))

    def make_up(patches: Patches) -> None:
        propose = model.proposal_generator
        patches.put(propose, "forward", lambda forward: lambda *x: (made, forward(*x)[1]))
        if not job.learns:
            patches.put(model.roi_heads.box_predictor, "forward", _detect(classes))

    candidate.make_up = make_up
    what = f"{NUM_POSITIVES} positives" if job.learns else f"{job.objects} sure detections"
    candidate.notes.append(
        f"{NUM_PROPOSALS} made-up proposals and {what}, put in place of those of random weights "
        "once these are computed"
    )
    return candidate


def _proposals(job: Job, x: Dict) -> Instances:
    """Of one image: in training half of them near its objects, else some that do not overlap."""
    if not job.learns:
        return proposals(job.size, NUM_PROPOSALS, boxes_apart(job.objects, job.size))
    boxes = x["instances"].gt_boxes.tensor.repeat(NUM_PROPOSALS // job.objects // 2, 1)
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return proposals(job.size, NUM_PROPOSALS, boxes + 0.05 * side * torch.randn_like(boxes))


def _detect(classes: torch.Tensor) -> Callable[[Callable], Callable]:
    """Makes the box head sure of the first proposals of each image, and of no other.

    Args:
        classes: of these proposals.
    """

    def wrap(forward: Callable) -> Callable:
        def found(x):
            scores, deltas = forward(x)
            scores = torch.zeros_like(scores)
            scores[:, -1] = 20.0  # background
            for first in range(0, len(scores), NUM_PROPOSALS):
                scores[first + torch.arange(len(classes)), classes] = 40.0
            return scores, torch.zeros_like(deltas)

        return found

    return wrap


def _rcnn_config(knet: CfgNode, panoptic: bool) -> CfgNode:
    """Detectron2's keys of these models at 256 channels; fewer where the pyramid has fewer."""
    cfg = get_cfg()
    model, theirs = cfg.MODEL, knet.MODEL
    if theirs.BACKBONE.NAME != "build_knet_resnet_fpn_backbone":
        raise UsageError(
            f"MODEL.BACKBONE.NAME {theirs.BACKBONE.NAME}: Panoptic FPN and Mask R-CNN are compared "
            "on build_knet_resnet_fpn_backbone; leave these two out with --alternatives"
        )
    model.META_ARCHITECTURE = "PanopticFPN" if panoptic else "GeneralizedRCNN"
    model.DEVICE, model.MASK_ON = theirs.DEVICE, True
    model.PIXEL_MEAN, model.PIXEL_STD = theirs.PIXEL_MEAN, theirs.PIXEL_STD
    model.BACKBONE.FREEZE_AT = theirs.BACKBONE.FREEZE_AT
    model.RESNETS.update(theirs.RESNETS)
    if theirs.BACKBONE.NORM_EVAL and theirs.RESNETS.NORM == "BN":
        model.RESNETS.NORM = "FrozenBN"  # Detectron2's way to keep the statistics
    model.FPN.update(theirs.FPN)
    channels = theirs.FPN.OUT_CHANNELS
    levels = [name.replace("res", "p") for name in theirs.FPN.IN_FEATURES]
    rpn = model.RPN
    model.BACKBONE.NAME, rpn.IN_FEATURES = theirs.BACKBONE.NAME, levels
    if levels[-1] == "p5":  # Detectron2's own pyramid has a p6 on it
        model.BACKBONE.NAME, rpn.IN_FEATURES = "build_resnet_fpn_backbone", [*levels, "p6"]
    model.ANCHOR_GENERATOR.SIZES = [[8 * 2 ** int(name[1:])] for name in rpn.IN_FEATURES]
    rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST = 2000, NUM_PROPOSALS
    rpn.POST_NMS_TOPK_TRAIN = rpn.POST_NMS_TOPK_TEST = NUM_PROPOSALS
    heads, boxes, masks = model.ROI_HEADS, model.ROI_BOX_HEAD, model.ROI_MASK_HEAD
    heads.NAME, heads.IN_FEATURES = "StandardROIHeads", levels
    heads.NUM_CLASSES = theirs.KNET.NUM_THING_CLASSES
    boxes.NAME, boxes.NUM_FC, boxes.FC_DIM = "FastRCNNConvFCHead", 2, 4 * channels
    boxes.POOLER_RESOLUTION, masks.POOLER_RESOLUTION = 7, 14
    masks.NAME, masks.NUM_CONV, masks.CONV_DIM = "MaskRCNNConvUpsampleHead", 4, channels
    semantic = model.SEM_SEG_HEAD
    semantic.IN_FEATURES, semantic.CONVS_DIM = levels, channels // 2
    semantic.NUM_CLASSES = theirs.KNET.NUM_STUFF_CLASSES + 1
    if channels < 64:
        semantic.NORM = ""  # Detectron2's has 32 groups
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return cfg


class _Machine(nn.Module):
    """A convolution and a matrix product of a typical size, to say what the machine can do."""

    def __init__(self, job: Job):
        super().__init__()
        height, width = (max(32, side // 8) for side in job.size)
        on_gpu = job.settings.device == "cuda"
        side = 8192 if on_gpu else 1024
        self.convolution = nn.Conv2d(256, 256, 3, padding=1, bias=False)
        self.register_buffer("image", torch.rand(16 if on_gpu else 1, 256, height, width))
        self.register_buffer("matrix", torch.rand(2, side, side))
        self.to(job.settings.device, getattr(torch, DTYPES[job.settings.dtype]))

    def convolve(self) -> torch.Tensor:
        return self.convolution(self.image)

    def multiply(self) -> torch.Tensor:
        return self.matrix[0] @ self.matrix[1]

    def forward(self, _):
        return self.convolve(), self.multiply()


def _machine(job: Job) -> Candidate:
    model = _Machine(job).eval()
    parts = [Part(model, "convolve", CONVOLUTION), Part(model, "multiply", PRODUCT)]
    count, _, height, width = model.image.shape
    side = model.matrix.shape[-1]
    note = (
        f"a 3x3 convolution of 256 channels on {count} x {height} x {width}, and a product of two "
        f"matrices of {side} x {side}"
    )
    return Candidate(model, None, model, parts, [note])
