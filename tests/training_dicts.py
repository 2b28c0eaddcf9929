"""All images that a training learns from, in one list."""

import itertools
from typing import Dict, List

from knet.data.training_images import load_training_sets

__all__ = ["load_training_dicts"]


def load_training_dicts(cfg) -> List[Dict]:
    return list(itertools.chain.from_iterable(dicts for _, dicts in load_training_sets(cfg)))
