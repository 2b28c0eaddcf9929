"""Mask2Former of the library transformers, if that is installed: on a ResNet-50, random weights."""

from typing import Any, Callable, Dict

import torch

from ..errors import UsageError
from .candidates import Candidate, training_inputs
from .jobs import Job
from .made_up import blobs
from .parts import Part
from .patches import Patches

try:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        ResNetConfig,
    )
except ImportError:
    Mask2FormerConfig = None

__all__ = ["build_mask2former"]


class _Results:
    """The three kinds of results, by the library's own functions."""

    def __init__(self, job: Job, num_things: int, num_stuff: int):
        self._processor = Mask2FormerImageProcessor()
        self._sizes = [job.settings.output or job.size] * job.batch
        self._stuff = set(range(num_things, num_things + num_stuff))

    def panoptic(self, outputs):
        return self._processor.post_process_panoptic_segmentation(
            outputs, label_ids_to_fuse=self._stuff, target_sizes=self._sizes
        )

    def instance(self, outputs):
        return self._processor.post_process_instance_segmentation(
            outputs, target_sizes=self._sizes, return_binary_maps=True
        )

    def semantic(self, outputs):
        return self._processor.post_process_semantic_segmentation(outputs, target_sizes=self._sizes)


def build_mask2former(job: Job) -> Candidate:
    """
    Raises:
        UsageError: transformers is not installed.
    """
    if Mask2FormerConfig is None:
        raise UsageError("transformers is not installed: its Mask2Former is left out")
    knet = job.config().MODEL.KNET
    num_things, num_stuff = knet.NUM_THING_CLASSES, knet.NUM_STUFF_CLASSES
    config = Mask2FormerConfig(
        backbone_config=ResNetConfig(out_features=[f"stage{i}" for i in range(1, 5)]),
        num_labels=num_things + num_stuff,
        num_queries=knet.NUM_KERNELS,
    )
    model = Mask2FormerForUniversalSegmentation(config).to(job.settings.device).train(job.learns)
    results = _Results(job, num_things, num_stuff)
    levels = model.model.pixel_level_module
    parts = [
        Part(levels.encoder, "forward", "backbone"),
        Part(levels.decoder, "forward", "pixel decoder"),
        Part(model.model.transformer_module, "forward", "transformer"),
        Part(model, "get_loss_dict", "losses"),
        Part(results, "panoptic", "results: panoptic"),
        Part(results, "instance", "results: instance"),
        Part(results, "semantic", "results: semantic"),
    ]

    def forward(batch: Dict[str, Any]) -> Any:
        outputs = model(**batch)
        if job.learns:
            return {"loss": outputs.loss}
        return results.panoptic(outputs), results.instance(outputs), results.semantic(outputs)

    candidate = Candidate(model, _batch(job, num_things, num_stuff), forward, parts)
    candidate.notes.append("without the normalisation of images, on transformers' own ResNet-50")
    if not job.learns:
        candidate.make_up = lambda patches: _make_up(patches, model, job, num_things)
        candidate.notes.append(
            f"{job.objects} made-up objects, put in place of those of random weights once these "
            "are computed"
        )
    return candidate


def _batch(job: Job, num_things: int, num_stuff: int) -> Dict[str, Any]:
    inputs = training_inputs(job, num_things, num_stuff)
    device = job.settings.device
    batch = {"pixel_values": torch.stack([x["image"] / 255 for x in inputs]).to(device)}
    if job.learns:
        batch["mask_labels"] = [x["instances"].gt_masks.tensor.float().to(device) for x in inputs]
        batch["class_labels"] = [x["instances"].gt_classes.to(device) for x in inputs]
    return batch


def _make_up(patches: Patches, model: torch.nn.Module, job: Job, num_things: int) -> None:
    made = []

    def make(outputs) -> None:
        _, num_queries, num_logits = outputs.class_queries_logits.shape
        sure = torch.arange(min(job.objects, num_queries))
        classes = torch.zeros(num_queries, num_logits)
        classes[:, -1] = 10.0  # nothing
        classes[sure, torch.randint(num_things, (len(sure),))] = 20.0
        made.extend((classes, blobs(num_queries, outputs.masks_queries_logits.shape[-2:])))

    def find(forward: Callable) -> Callable:
        def found(*args, **kwargs):
            outputs = forward(*args, **kwargs)
            if not made:
                make(outputs)
            for name, value in zip(("class_queries_logits", "masks_queries_logits"), made):
                wanted = outputs[name]
                outputs[name] = value.to(wanted).expand_as(wanted)
            return outputs

        return found

    patches.put(model, "forward", find)
