"""The random states of this process, as arrays that a checkpoint can hold."""

import random
from contextlib import contextmanager
from typing import Dict, Iterator

import numpy as np
import torch
from torch.utils.data import get_worker_info

__all__ = ["keep_random_state", "random_state", "set_random_state"]


def random_state() -> Dict[str, np.ndarray]:
    """Of python, NumPy and torch; of the GPU too where this process uses one."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": np.array(words, dtype=np.int64),
        "python_gauss": np.array([] if gauss is None else [gauss], dtype=np.float64),
        "numpy": np.append(keys.astype(np.int64), (position, has_gauss)),
        "numpy_gauss": np.array([cached], dtype=np.float64),
        "torch": torch.get_rng_state().numpy(),
    }
    if get_worker_info() is None and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state().numpy()
    return state


def set_random_state(state: Dict[str, np.ndarray]) -> None:
    """Go on from what :func:`random_state` gave."""
    gauss = state["python_gauss"]
    random.setstate((3, tuple(state["python"].tolist()), float(gauss[0]) if len(gauss) else None))
    *keys, position, has_gauss = state["numpy"].tolist()
    cached = float(state["numpy_gauss"][0])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.from_numpy(state["torch"]))
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(torch.from_numpy(state["cuda"]))


@contextmanager
def keep_random_state() -> Iterator[None]:
    """What the block draws changes nothing after it."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
