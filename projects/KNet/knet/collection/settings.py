"""What the results of a collection depend on beside its images: the model, and what is kept."""

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Dict, Optional, Tuple

from detectron2.utils.file_io import PathManager

from ..data.classes import plain_classes
from ..errors import UsageError
from ..files import sha256_of
from ..predictor import Predictor
from ..results.kinds import KINDS, choose_results

__all__ = ["ModelSource", "Settings"]


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: what :func:`knet.load_model` takes.

    Attributes:
        weights: a file that every machine sees.
        config: name or file, where the weights do not tell it.
        opts: changes of the config: key, value, key, value, ...
    """

    weights: str
    config: Optional[str] = None
    opts: Tuple = ()

    def absolute(self) -> "ModelSource":
        """The same for a process that works in another folder."""
        weights, config = (
            os.path.abspath(each) if each and os.path.isfile(each) else each
            for each in (self.weights, self.config)
        )
        return replace(self, weights=weights, config=config)


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        source: of the model.
        kinds: of results that are kept; (): the first that the model makes.
        score_threshold: instances below it (0..1) are left out.
        batch_size: images of one size that go through the model together.
    """

    source: ModelSource
    kinds: Tuple[str, ...] = ()
    score_threshold: float = 0.0
    batch_size: int = 1

    def check(self) -> None:
        """
        Raises:
            UsageError: a value that cannot be.
        """
        for kind in self.kinds:
            if kind not in KINDS:
                raise UsageError(f"the kind '{kind}' is not known: choose of {', '.join(KINDS)}")
        if not 0 <= self.score_threshold <= 1:
            raise UsageError(
                f"the score threshold is {self.score_threshold}: give a number from 0 to 1"
            )

    def predictor(self, device: str) -> Tuple[Predictor, Tuple[str, ...]]:
        """One that makes the kinds that are kept and no others; and these kinds.

        Raises:
            UsageError: no such model, or it does not make these kinds.
        """
        predictor = Predictor(
            self.source.weights,
            config=self.source.config,
            device=device,
            opts=self.source.opts,
            batch_size=self.batch_size,
        )
        first = choose_results(predictor.model, *self.kinds[:1], also=self.kinds[1:])
        return predictor, tuple(kind for kind in KINDS if kind in (first, *self.kinds))

    def identity(self) -> Dict:
        """What makes results differ, by the name that a user knows; for json.

        The model is loaded for it, so that what is wrong is found before workers start.

        Raises:
            UsageError: see :meth:`predictor`.
        """
        predictor, kinds = self.predictor("cpu")
        return {
            "weights": sha256_of(PathManager.get_local_path(self.source.weights)),
            "config": hashlib.sha256(predictor.cfg.dump().encode()).hexdigest(),
            "classes": plain_classes(predictor.classes),
            "kinds": list(kinds),
            "score_threshold": self.score_threshold,
        }
