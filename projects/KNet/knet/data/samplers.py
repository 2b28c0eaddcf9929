"""Detectron2's samplers that repeat images, for data of every kind."""

import itertools
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import Sampler

from ..errors import UsageError

__all__ = ["build_repeating_sampler"]

_BY_CLASS = ("RepeatFactorTrainingSampler", "WeightedCategoryTrainingSampler")
_BY_SET = ("WeightedTrainingSampler", "WeightedCategoryTrainingSampler")


def build_repeating_sampler(cfg, sets: Sequence[Tuple[str, List[Dict]]]) -> Optional[Sampler]:
    """The sampler that ``DATALOADER.SAMPLER_TRAIN`` names, if it is one that repeats images.

    Rare classes more often (``DATALOADER.REPEAT_THRESHOLD``), data sets by their weight
    (``DATASETS.TRAIN_REPEAT_FACTOR``), or both. Detectron2 makes the others itself.

    Args:
        cfg: the config.
        sets: (name of the data set, its images) of what is trained on.

    Returns:
        None where it is another sampler.

    Raises:
        UsageError: the classes of an image cannot be told without reading its label map, or the
            weights name another data set.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in _BY_CLASS + _BY_SET:
        return None
    by_set = (
        _weights(cfg, sets) if name in _BY_SET else torch.ones(sum(len(dicts) for _, dicts in sets))
    )
    if name == "RepeatFactorTrainingSampler":
        factors = _factors(cfg, list(itertools.chain(*(dicts for _, dicts in sets))))
    elif name == "WeightedCategoryTrainingSampler":
        factors = torch.cat([_factors(cfg, dicts) for _, dicts in sets]) * by_set
        factors = factors / factors.min()
    else:
        factors = by_set
    return RepeatFactorTrainingSampler(factors, seed=cfg.SEED if cfg.SEED >= 0 else None)


def _weights(cfg, sets: Sequence[Tuple[str, List[Dict]]]) -> torch.Tensor:
    try:
        weights = {name: float(weight) for name, weight in cfg.DATASETS.TRAIN_REPEAT_FACTOR}
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"DATASETS.TRAIN_REPEAT_FACTOR is {cfg.DATASETS.TRAIN_REPEAT_FACTOR}: it must be a "
            "list of (name of a data set, weight)"
        ) from error
    if any(not 0 < weight < float("inf") for weight in weights.values()):
        raise UsageError(f"DATASETS.TRAIN_REPEAT_FACTOR has the weights {weights}: all above 0")
    unknown = sorted(set(weights) - {name for name, _ in sets})
    if unknown:
        raise UsageError(
            f"DATASETS.TRAIN_REPEAT_FACTOR names '{unknown[0]}', which is not in DATASETS.TRAIN"
        )
    of_images = [weights.get(name, 1.0) for name, dicts in sets for _ in dicts]
    return torch.tensor(of_images)


def _factors(cfg, dicts: Sequence[Dict]) -> torch.Tensor:
    """Detectron2's factor of each image by its rarest class."""
    views = [{"annotations": _classes(d)} for d in dicts]
    options = {}
    if "REPEAT_SQRT" in cfg.DATALOADER:  # Detectron2 0.6 has no such key
        options["sqrt"] = cfg.DATALOADER.REPEAT_SQRT
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        views, cfg.DATALOADER.REPEAT_THRESHOLD, **options
    )


def _classes(dataset_dict: Dict) -> List[Dict]:
    """An image's annotations or segments, which have a ``category_id`` each."""
    for key in ("annotations", "segments_info"):
        if key in dataset_dict:
            return dataset_dict[key]
    raise UsageError(
        f"the classes of {dataset_dict['file_name']} are in its label map alone, which is not read "
        "before: set DATALOADER.SAMPLER_TRAIN TrainingSampler"
    )
