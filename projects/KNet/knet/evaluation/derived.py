"""A data set seen in another form, so that Detectron2's evaluators can work on it."""

import contextlib
from typing import Dict, Iterator, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

__all__ = ["derived_dataset"]


@contextlib.contextmanager
def derived_dataset(name: str, dicts: Sequence[Dict] = (), **metadata) -> Iterator[str]:
    """Register a data set for as long as the block runs.

    Detectron2's evaluators take a data set by its name, read it when they are built and keep what
    they need; nothing else has to see it.

    Args:
        name: of the data set it is made from; the derived one has a name of its own.
        dicts: its images.
        metadata: all that is known of it.
    """
    derived = f"{name} (to evaluate)"
    DatasetCatalog.register(derived, lambda: list(dicts))
    MetadataCatalog.get(derived).set(**metadata)
    try:
        yield derived
    finally:
        DatasetCatalog.remove(derived)
        MetadataCatalog.remove(derived)
