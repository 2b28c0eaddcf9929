"""A model's tensors as they are found in files: in containers, under names that wrappers lengthen.

``torch.compile`` puts ``_orig_mod.`` before names, parallel training ``module.``, Lightning that of
the attribute that holds the model; running averages (EMA) stand beside the weights or in their
place. What is taken off is what gives most tensors a place in the model, so that a module that is
really called ``module`` keeps its name.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Set, Tuple

import torch

from .official_names import to_official

__all__ = ["Found", "find_state_dict"]

StateDict = Dict[str, torch.Tensor]

# names of modules that are wrappers wherever they stand
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGED = re.compile(
    r"teacher|momentum|(^|_)(ema|swa|avg|averaged?|shadow|target|encoder_k)(_|$)", re.IGNORECASE
)
_MMCV = "ema_"
_AVERAGE_COUNTERS = ("n_averaged", "steps", "initted", "step", "num_updates", "decay")
_USUAL = ("model", "state_dict")  # where weights are looked for
_NO_WEIGHTS = ("optim", "lr_", "sched", "hyper_parameters", "loops", "callbacks")
_MAX_DEPTH = 5
_SHARE = 4  # a network has at least one in so many of the names in its file


@dataclass(frozen=True)
class Found:
    """A state dict, and what it was in.

    Attributes:
        state_dict: tensors, or numpy arrays, under the names that were left.
        containers: the keys that lead to it.
        prefix: what was taken off its names, "" for nothing.
        averaged: whether they are running averages.
        passed_over: other weights of the model in the same file.
    """

    state_dict: StateDict
    containers: Tuple[str, ...] = ()
    prefix: str = ""
    averaged: bool = False
    passed_over: Tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The containers, without those that are usual."""
        return ".".join(key for key in self.containers if key not in _USUAL)

    def __str__(self) -> str:
        """What is worth telling of it; "" where it is as usual."""
        parts = ["averaged weights"] if self.averaged else []
        if self.place:
            parts.append(f"from '{self.place}'")
        if self.prefix:
            parts.append(f"names without '{self.prefix}'")
        parts += [f"'{name}' is there too and not taken" for name in self.passed_over]
        return ", ".join(parts)


def find_state_dict(
    loaded: Any,
    model: Mapping[str, torch.Tensor],
    rate: Callable[[StateDict], Tuple[int, bool]],
) -> Found:
    """The weights in what was read from a file.

    Weights themselves are taken rather than their averages, if both fit alike.

    Args:
        loaded: of any framework, containers within containers.
        model: the model's own state dict; {} if it is not known.
        rate: of a state dict, how many of its tensors fit, and whether it is a K-Net's.

    Raises:
        ValueError: there is none.
    """
    candidates = []
    for containers, tensors in _state_dicts(loaded):
        for found in _without_wrappers(tensors, model):
            averaged = found.averaged or any(map(_AVERAGED.search, containers))
            candidates.append(Found(found.state_dict, containers, found.prefix, averaged))
    if not candidates:
        raise ValueError("it holds no state dict, neither as such nor as 'model' or 'state_dict'")
    if len(candidates) == 1:
        return candidates[0]
    rates = [rate(found.state_dict) for found in candidates]
    order = [(r, *_preference(found)) for r, found in zip(rates, candidates)]
    best = order.index(max(order))
    found = candidates[best]
    others: List[str] = []
    told: Set[int] = set()
    for other, (fitting, _) in zip(candidates, rates):
        tensors = _identities(other)  # the same may be found in several ways
        is_another = other.averaged != found.averaged or tensors.isdisjoint(_identities(found))
        if is_another and 2 * fitting > rates[best][0] and tensors.isdisjoint(told):
            others.append(other.place or f"{other.prefix}*")
            told |= tensors
    return replace(found, passed_over=tuple(others))


def _identities(found: Found) -> Set[int]:
    return set(map(id, found.state_dict.values()))


def _preference(found: Found) -> Tuple:
    """Of those that fit alike the one with the largest is taken."""
    front = next(iter(found.state_dict)).split(".")[0]
    usual = sum(key in _USUAL for key in found.containers) - len(found.containers)
    return (
        not found.averaged,
        front not in _WRAPPERS,
        usual,
        "state_dict" in found.containers,  # beside it "model" is something else
        -len(found.prefix),
        len(found.state_dict),
    )


def _state_dicts(loaded: Any, path: Tuple[str, ...] = ()) -> Iterator[Tuple[Tuple, StateDict]]:
    """(keys that lead to it, tensors by name) of every dict that has some."""
    if not isinstance(loaded, dict):
        return
    loaded = {key: value for key, value in loaded.items() if isinstance(key, str)}
    tensors = {name: value for name, value in loaded.items() if hasattr(value, "shape")}
    if tensors:
        yield path, tensors
    for key, value in loaded.items():
        if len(path) < _MAX_DEPTH and not key.lower().startswith(_NO_WEIGHTS):
            yield from _state_dicts(value, (*path, key))


# -------------------------------------------------------------------------------------- names


def _without_wrappers(tensors: StateDict, model: Mapping[str, torch.Tensor]) -> Iterator[Found]:
    """The tensors under their own names, and without each prefix that they may be under."""
    counters = [n for n in _AVERAGE_COUNTERS if n in tensors and n not in model]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in counters}
    if not tensors:
        return
    is_average = "n_averaged" in counters or "steps" in counters
    within = {name: _without_wrapper_parts(name, model) for name in tensors}
    variants = [{name: name for name in tensors}]
    if len(set(within.values())) == len(within) and any(n != w for n, w in within.items()):
        variants.append(within)
    for names in variants:
        for prefix in sorted(_prefixes(list(names.values()), model)):
            kept = {
                new[len(prefix) :]: tensors[name]
                for name, new in names.items()
                if new.startswith(prefix) and new != prefix
            }
            removed = prefix if names is variants[0] else _removed(names) + prefix
            averaged = is_average or any(map(_AVERAGED.search, removed.split(".")))
            yield Found(kept, (), removed, averaged)
    if any(name.startswith(_MMCV) for name in tensors):
        yield Found(_of_mmcv(tensors, model), (), _MMCV, True)


def _of_mmcv(tensors: StateDict, model: Mapping[str, torch.Tensor]) -> StateDict:
    """mmcv's averages: ``ema_`` and the name, with "_" for every "."."""
    names = {**to_official(dict(model))[0], **model}
    averages = {_MMCV + name.replace(".", "_"): name for name in names}
    return {
        averages.get(name, name[len(_MMCV) :]): tensor
        for name, tensor in tensors.items()
        if name.startswith(_MMCV)
    }


def _without_wrapper_parts(name: str, model: Mapping[str, torch.Tensor]) -> str:
    if name in model:
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _removed(names: Dict[str, str]) -> str:
    """The wrappers' parts of the first name that has some."""
    name = next(name for name, new in names.items() if name != new)
    return "".join(f"{part}." for part in name.split(".") if part in _WRAPPERS)


def _prefixes(names: Sequence[str], model: Mapping[str, torch.Tensor]) -> Set[str]:
    """What may stand before names: "", what makes some the model's, or what many have."""
    fitting: Counter = Counter()
    having: Counter = Counter()
    for name in names:
        parts = name.split(".")
        for i in range(1, len(parts)):
            prefix = "".join(f"{part}." for part in parts[:i])
            having[prefix] += 1
            fitting[prefix] += ".".join(parts[i:]) in model
    likely = {prefix for prefix, count in fitting.most_common(4) if count}
    many = {prefix for prefix, count in having.items() if _SHARE * count >= len(names)}
    return {"", *likely, *many}
