"""What an exported model tells of itself: what preprocessing and results need, as plain JSON."""

from typing import Any, Dict

from torch import nn

from ..data.classes import plain_classes
from .network import Network

__all__ = ["describe"]

_VERSION = 1


def describe(network: Network) -> Dict[str, Any]:
    """``settings`` of :class:`knet.export.knet_runtime.OnnxPredictor`.

    Args:
        network: of a model that :func:`knet.load_model` returned.
    """
    model = network.model
    cfg = model.info.cfg
    value_range = tuple(cfg.INPUT.VALUE_RANGE)
    min_size = cfg.INPUT.MIN_SIZE_TEST
    return {
        "version": _VERSION,
        **(_semantic(model) if network.is_semantic else _of_kernels(model)),
        "outputs": network.output_names,
        "classes": plain_classes(model.info.classes),
        "input": {
            "format": cfg.INPUT.FORMAT,
            "dtype": "float32" if value_range else "uint8",
            "value_range": list(value_range),
            "mean": model.pixel_mean.flatten().tolist(),
            "std": model.pixel_std.flatten().tolist(),
            "min_size": min_size if isinstance(min_size, int) else min_size[0],
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "antialias": cfg.INPUT.RESIZE_ANTIALIAS,
            "divisibility": network.divisibility,
            "min_side": network.min_side,
        },
    }


def _semantic(model: nn.Module) -> Dict[str, Any]:
    num_classes = model.sem_seg_head.num_classes
    return {
        "task": "semantic",
        "results": ["sem_seg"],
        "num_kernels": 0,
        "thing_ids": [],
        "stuff_ids": list(range(num_classes)),
        "test": {},
    }


def _of_kernels(model: nn.Module) -> Dict[str, Any]:
    step = model.postprocessor
    made = {
        "panoptic_seg": step.panoptic_on,
        "instances": step.instance_on,
        "sem_seg": step.semantic_on,
    }
    return {
        "task": "panoptic" if step.layout.num_stuff else "instance",
        "results": [name for name, is_on in made.items() if is_on],
        "num_kernels": step.num_kernels,
        "thing_ids": list(step.layout.thing_ids),
        "stuff_ids": list(step.layout.stuff_ids),
        "test": {
            "score_threshold": step.score_threshold,
            "overlap_threshold": step.overlap_threshold,
            "mask_threshold": step.mask_threshold,
            "max_instances": step.max_instances,
            "mask_quality": step.mask_quality,
            "mask_quality_power": step.mask_quality_power,
            "things_first": step.things_first,
            "enlarge_logits": step.enlarge_logits,
        },
    }
