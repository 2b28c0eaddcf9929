"""A training loader whose position, in the data and in its random draws, can be kept and restored.

Without a restored position it gives what Detectron2's loader gives, draw for draw.
"""

import weakref
from dataclasses import replace
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional

import numpy as np
import torch
from detectron2.data import build_batch_data_loader, build_detection_train_loader
from detectron2.data.common import AspectRatioGroupedDataset
from torch.utils.data import Sampler

from .random_state import random_state, set_random_state
from .sample_stream import ORIGIN, Origin, Place, SampleStream
from .unreadable import Unreadable
from .worker_signals import leave_signals_to_trainer, starting_workers

__all__ = ["ResumableLoader", "build_resumable_loader"]

# what a sampler has drawn when it was made, by the names of its attributes; the rest is given to it
_DRAWN = ("seed", "indexes")
_OF_PROCESS = ("_rank", "_world_size")


def build_resumable_loader(
    cfg, *, dataset: List[Dict], mapper, sampler: Optional[Sampler] = None
) -> "ResumableLoader":
    """Detectron2's training loader of a config, made resumable.

    Args:
        cfg: the config.
        dataset: images in Detectron2's format.
        mapper: makes a sample of an image.
        sampler: of the images; None: the one that Detectron2 makes of ``DATALOADER.SAMPLER_TRAIN``.
    """
    theirs = build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, sampler=sampler)
    grouping = isinstance(theirs, AspectRatioGroupedDataset)
    source = theirs.dataset.dataset if grouping else theirs.dataset
    max_unreadable = cfg.DATALOADER.MAX_UNREADABLE
    stream = SampleStream(source, note_before=grouping, max_unreadable=max_unreadable)
    loader = build_batch_data_loader(
        stream,
        None,
        cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=grouping,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    leave_signals_to_trainer(loader.dataset if grouping else loader)
    return ResumableLoader(stream, loader, cfg.DATALOADER.NUM_WORKERS)


class ResumableLoader:
    """Batches of a stream, and how far they have been used."""

    def __init__(self, stream: SampleStream, loader, num_workers: int):
        """
        Args:
            stream: what ``loader`` loads.
            loader: batches of it, or Detectron2's groups by aspect ratio of its samples.
            num_workers: of ``loader``.
        """
        self._stream = stream
        self._loader = loader
        self._num_workers = num_workers
        self._samples = None  # that batches are made of later
        if isinstance(loader, AspectRatioGroupedDataset):
            self._samples = loader.dataset
            loader.dataset = _Iterable(self._deliveries)
        self._place = Place()
        self._unreadable = Unreadable(stream.read.limit)
        self._waiting: List[Origin] = []  # delivered, and in no batch yet
        self._random: Dict[str, np.ndarray] = {}  # of this process, to go on from
        self._repeated: List[Dict] = []  # samples that waited: their index and random state
        self._loaded: Optional[Dict[str, Any]] = None  # where to go on, until that is done
        self._running: Callable[[], Optional[Generator]] = lambda: None  # the last iterator

    def __iter__(self) -> Iterator[List[Dict]]:
        batches = self._batches()
        # a strong reference would be a circle, and keep the workers of what nobody uses any more
        self._running = weakref.ref(batches)
        return batches

    def close(self) -> None:
        """End the workers; the position is as it was."""
        running = self._running()
        if running is not None:
            running.close()

    def _batches(self) -> Iterator[List[Dict]]:
        start = self._stream.start
        self._place = replace(start, done=dict(start.done), after=dict(start.after))
        self._waiting, self._loaded = [], None
        for batch in self._deliveries() if self._samples is None else self._loader:
            origins = [sample.pop(ORIGIN) for sample in batch]
            self._waiting = [o for o in self._waiting if not any(o is other for other in origins)]
            yield batch

    def _deliveries(self) -> Iterator[Any]:
        """What comes from the workers; before it the samples that had come and were not used."""
        with starting_workers():
            # draws a seed
            iterator = iter(self._loader if self._samples is None else self._samples)
        repeated = [self._repeat(**sample) for sample in self._repeated]
        if self._random:
            set_random_state(self._random)
        for sample in repeated:
            self._waiting.append(sample[ORIGIN])
            yield sample
        for delivery in iterator:
            for sample in [delivery] if self._samples is not None else delivery:
                self._place.note(sample[ORIGIN])
                self._unreadable.note(sample[ORIGIN].unreadable)
                if self._samples is not None:
                    self._waiting.append(sample[ORIGIN])
            self._place.deliveries += 1
            yield delivery

    def _repeat(self, index: int, random: Dict[str, torch.Tensor]) -> Dict:
        before = _arrays(random)
        set_random_state(before)
        sample, _ = self._stream.read(index)
        sample[ORIGIN] = Origin(0, index, None, before, None)
        return sample

    def state_dict(self) -> Dict[str, Any]:
        """Where the loader and the random states of this process and of its workers are now.

        Plain containers, numbers and tensors.
        """
        if self._loaded is not None:
            return self._loaded
        place = self._place
        return {
            "sampler": _attributes(self._stream.sampler),
            "num_workers": self._num_workers,
            "batch_size": self._stream.chunk,
            "grouped": self._samples is not None,
            "offset": place.offset,
            "deliveries": place.deliveries,
            "done": dict(place.done),
            "after": {worker: _tensors(state) for worker, state in place.after.items()},
            "seed": place.seed,
            "unreadable": self._unreadable.state_dict(),
            "waiting": [{"index": o.index, "random": _tensors(o.before)} for o in self._waiting],
            "random": _tensors(random_state()),
        }

    def load_state_dict(self, state: Dict[str, Any]) -> str:
        """Go on from there when next iterated over.

        Returns:
            why what follows is not what would have followed; "" if it is.
        """
        self._random = _arrays(state["random"])
        difference = _restore(self._stream.sampler, state["sampler"])
        if difference:
            return difference
        self._unreadable.load_state_dict(state.get("unreadable", {}))
        place = Place(
            state["offset"],
            state["deliveries"],
            dict(state["done"]),
            {worker: _arrays(random) for worker, random in state["after"].items()},
            state["seed"],
        )
        ours = (self._num_workers, self._stream.chunk, self._samples is not None)
        theirs = (state["num_workers"], state["batch_size"], state["grouped"])
        if ours == theirs:
            self._stream.start, self._repeated = place, list(state["waiting"])
            self._loaded = state
            return ""
        self._stream.start = Place(offset=place.samples)
        return (
            "DATALOADER.NUM_WORKERS, DATALOADER.ASPECT_RATIO_GROUPING or the images of a process "
            "and step are others than before, so that images are augmented by other random draws"
            + (", and images that waited for a group are left out" if state["grouped"] else "")
        )

    def start_at(self, sampler: Dict[str, Any], samples: int) -> str:
        """Go on after so many samples of this process, with other random draws.

        Args:
            sampler: see ``"sampler"`` of :meth:`state_dict`.
            samples: how many.

        Returns:
            why not even that can be done; "" if it can.
        """
        difference = _restore(self._stream.sampler, sampler)
        if not difference:
            self._stream.start = Place(offset=samples)
        return difference


def samples_of(state: Dict[str, Any]) -> int:
    """How many samples were taken, by a :meth:`ResumableLoader.state_dict`."""
    return state["offset"] + sum(state["done"].values())


class _Iterable:
    """Calls a function for each iterator."""

    def __init__(self, function):
        self._function = function

    def __iter__(self):
        return self._function()


def _tensors(state: Dict[str, np.ndarray]) -> Dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def _arrays(state: Dict[str, torch.Tensor]) -> Dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.items()}


def _attributes(sampler: Sampler) -> Dict[str, Any]:
    """The kind of sampler and all that its order depends on."""
    found = {
        name: value
        for name, value in vars(sampler).items()
        if name not in _OF_PROCESS and isinstance(value, (bool, int, float, torch.Tensor))
    }
    return {"kind": type(sampler).__name__, **found}


def _restore(sampler: Sampler, theirs: Dict[str, Any]) -> str:
    """Give a sampler the order of an earlier one; why it cannot have it, or ""."""
    ours = _attributes(sampler)
    drawn = [name for name in ours if any(word in name for word in _DRAWN)]
    given = [name for name in {**ours, **theirs} if name not in drawn]
    if not all(_equal(ours.get(name), theirs.get(name)) for name in given):
        return (
            "the data sets, or DATALOADER.SAMPLER_TRAIN and its keys, are others than before, so "
            "that the data start from their beginning"
        )
    for name in drawn:
        setattr(sampler, name, theirs[name])
    return ""


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and a == b
