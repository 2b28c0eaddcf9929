"""Samples that cannot be read: others in their place, a count, and an end to it."""

import logging
from typing import Any, Dict, Tuple

import numpy as np

from ..errors import DatasetError

__all__ = ["SampleReader", "Unreadable"]

logger = logging.getLogger(__name__)

_NAMED = 5  # in the error

Failures = Tuple[Tuple[int, str], ...]  # (index in the data set, what was wrong)


class SampleReader:
    """Samples of a data set; for one that cannot be read another, the same one each time.

    Detectron2's own replacement draws from a generator whose state no checkpoint holds.
    """

    def __init__(self, dataset, limit: int = 0):
        """
        Args:
            dataset: with ``len`` and samples by index; raises DatasetError.
            limit: replace at most so many in a row; 0: the error is raised.
        """
        self.dataset = dataset
        self.limit = limit

    def __call__(self, index: int) -> Tuple[Dict, Failures]:
        """The sample, and which ones it stands for.

        Raises:
            DatasetError: it cannot be read, nor could ``limit`` others in its place.
        """
        if not self.limit:
            return self.dataset[index], ()
        failures: Dict[int, str] = {}
        other = np.random.default_rng(index)  # of its own: the augmentations' draws stay theirs
        candidate = index
        while True:
            try:
                return self.dataset[candidate], tuple(failures.items())
            except DatasetError as error:
                failures[candidate] = str(error)
            left = [i for i in range(len(self.dataset)) if i not in failures]
            if len(failures) > self.limit or not left:
                raise too_many(failures, self.limit)
            candidate = left[int(other.integers(len(left)))]


class Unreadable:
    """Those of a run, each counted once however often it comes."""

    def __init__(self, limit: int):
        self.limit = limit
        self.found: Dict[int, str] = {}

    def note(self, failures: Failures) -> None:
        """Log those that are new.

        Raises:
            DatasetError: they are more than ``limit`` now.
        """
        for index, reason in failures:
            if index in self.found:
                continue
            self.found[index] = reason
            if len(self.found) > self.limit:
                raise too_many(self.found, self.limit)
            logger.warning(
                "A sample cannot be read, another is taken instead (%d of %d that "
                "DATALOADER.MAX_UNREADABLE allows): %s",
                len(self.found),
                self.limit,
                reason,
            )

    def state_dict(self) -> Dict[str, Any]:
        return {"found": dict(self.found)}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.found = dict(state.get("found", {}))


def too_many(failures: Dict[int, str], limit: int) -> DatasetError:
    """The error that names the last ones."""
    reasons = list(failures.values())
    shown = reasons[-_NAMED:]
    more = f" (and {len(reasons) - len(shown)} before)" if len(reasons) > len(shown) else ""
    return DatasetError(
        f"{len(reasons)} samples cannot be read, more than DATALOADER.MAX_UNREADABLE {limit}: "
        f"{'; '.join(shown)}{more}"
    )
