"""The endless stream of training samples that each loader worker makes its part of.

Detectron2's loader starts its samplers anew whenever it is started. This stream has the same order
and the same random draws, and can be entered at any place.
"""

from dataclasses import dataclass, field
from itertools import count, islice
from typing import Dict, Iterator, Optional

import numpy as np
import torch
from detectron2.data.build import worker_init_reset_seed
from detectron2.data.common import ToIterableDataset
from torch.utils.data import IterableDataset, get_worker_info

from .random_state import random_state, set_random_state
from .unreadable import Failures, SampleReader

__all__ = ["ORIGIN", "Origin", "Place", "SampleStream"]

ORIGIN = "origin_in_stream"  # key of a sample, taken out before the model sees it

State = Dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a sample comes from.

    Attributes:
        worker: the worker's part of the stream, 0 without workers.
        index: in the data set.
        seed: what the seeds of all workers are counted from; None without workers.
        before: the random state that it was augmented from; None unless asked for.
        after: the worker's random state when it was done; None without workers.
        unreadable: samples that it stands for, see :class:`knet.data.unreadable.SampleReader`.
    """

    worker: int
    index: int
    seed: Optional[int]
    before: Optional[State]
    after: Optional[State]
    unreadable: Failures = ()


@dataclass
class Place:
    """How far a stream has been used.

    Attributes:
        offset: samples before those that are counted here, of no worker in particular.
        deliveries: batches (samples, where batches are made of them later) from all workers.
        done: worker -> its samples.
        after: worker -> its random state after these.
        seed: see :class:`Origin`.
    """

    offset: int = 0
    deliveries: int = 0
    done: Dict[int, int] = field(default_factory=dict)
    after: Dict[int, State] = field(default_factory=dict)
    seed: Optional[int] = None

    def note(self, origin: Origin) -> None:
        """Count a sample."""
        self.done[origin.worker] = self.done.get(origin.worker, 0) + 1
        self.seed = origin.seed
        if origin.after is not None:
            self.after[origin.worker] = origin.after

    @property
    def samples(self) -> int:
        return self.offset + sum(self.done.values())


class SampleStream(IterableDataset):
    """Samples in the order of a sampler, divided among loader workers as Detectron2 does."""

    def __init__(
        self, source: ToIterableDataset, note_before: bool = False, max_unreadable: int = 0
    ):
        """
        Args:
            source: Detectron2's stream: data set, sampler, and how many samples in a row are of
                one worker.
            note_before: tell of each sample the random state before it.
            max_unreadable: see :class:`knet.data.unreadable.SampleReader`.
        """
        self.read = SampleReader(source.dataset, max_unreadable)
        self.sampler = source.sampler
        self.chunk = source.shard_chunk_size
        self.note_before = note_before
        self.start = Place()

    def __iter__(self) -> Iterator[Dict]:
        info = get_worker_info()
        workers, number = (1, 0) if info is None else (info.num_workers, info.id)
        # the loader asks its worker 0 first: it does what the next one would have done
        worker = (self.start.deliveries + number) % workers
        seed = None if info is None else info.seed - info.id
        if info is not None and self.start.seed is not None:
            seed = self.start.seed
            self._go_on_as(worker)
        indices = self._part(worker, workers)
        for index in islice(indices, self.start.done.get(worker, 0), None):
            before = random_state() if self.note_before else None
            sample, unreadable = self.read(index)
            after = None if info is None else random_state()
            sample[ORIGIN] = Origin(worker, index, seed, before, after, unreadable)
            yield sample

    def _go_on_as(self, worker: int) -> None:
        """Take over the random state of a worker that is gone."""
        if worker in self.start.after:
            set_random_state(self.start.after[worker])
        else:  # it had not made any sample
            torch.manual_seed(self.start.seed + worker)
            worker_init_reset_seed(worker)

    def _part(self, worker: int, workers: int) -> Iterator[int]:
        indices = islice(self.sampler, self.start.offset, None)
        return (i for n, i in zip(count(), indices) if n // self.chunk % workers == worker)
