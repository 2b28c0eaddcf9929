"""Shards to workers, by Ray Data: a local engine, or a cluster."""

import logging
import os
import time
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch

from ..errors import UsageError
from ..predictor import Predictor
from .folder import CollectionFolder
from .image_list import list_images
from .ray_engine import THIS_MACHINE, Engine, connected, fitted
from .settings import ModelSource, Settings
from .shard import predict_shard

__all__ = ["Summary", "predict_collection"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """Of a collection, earlier runs included.

    Attributes:
        images, failures, shards: how many.
        shards_now: those that were predicted in this run.
    """

    images: int
    failures: int
    shards: int
    shards_now: int


def predict_collection(
    inputs: Sequence[str],
    source: ModelSource,
    output: str,
    *,
    engine: Engine = THIS_MACHINE,
    column: str = "image",
    kinds: Sequence[str] = (),
    score_threshold: float = 0.0,
    shard_size: int = 256,
    batch_size: int = 1,
) -> Summary:
    """Predict on the images of a collection, each once; repeated, go on where the last run ended.

    Args:
        inputs, column: see :func:`knet.collection.image_list.list_images`.
        source: of the model.
        output: folder, on storage that every machine sees as this one does, as all other files.
        engine: where to run. A Ray that this process has started already is used as it is.
        kinds: "panoptic", "instance", "semantic"; (): the first that the model makes.
        score_threshold: instances below it (0..1) are left out; for AP keep all.
        shard_size: images a file; what a worker that is killed loses at most.
        batch_size: images of one size that go through the model together.

    Raises:
        UsageError: anything that the user can change; also when a worker cannot go on. The shards
            that are done stay.
    """
    settings = Settings(source.absolute(), tuple(kinds), score_threshold, batch_size)
    settings.check()
    engine.check()
    images = list_images(inputs, column, output)
    folder = CollectionFolder.create(output, settings.identity(), images, shard_size)
    with folder.alone():
        shards = folder.unfinished()
        logger.info(
            "%d images in %d shards, %d of them done",
            folder.num_images,
            folder.num_shards,
            folder.num_shards - len(shards),
        )
        if shards:
            with connected(engine.address):
                _run(folder, settings, fitted(engine), shards)
        folder.tidy()
    return Summary(folder.num_images, len(folder.failures()), folder.num_shards, len(shards))


class _Worker:
    """What Ray keeps in each of its processes: a model, ready for one shard after the other."""

    def __init__(self, output: str, settings: Settings, engine: Engine):
        self.output = output
        self.settings = settings
        self.engine = engine
        self.predictor: Optional[Predictor] = None

    def __call__(self, batch: Dict[str, np.ndarray]) -> Dict[str, List]:
        """Predict on the shard ``batch["shard"]``.

        Returns:
            lists of one entry: the shard, the number of its failures, and why it is not done, ""
            if it is. (Of an error that is raised here, Ray would tell the stack alone.)
        """
        (shard,) = batch["shard"].tolist()
        failures, error = 0, ""
        try:
            failures = self._predict(shard)
        except Exception as reason:
            logger.exception("shard %d", shard)
            error = " ".join(f"{type(reason).__name__}: {reason}".split())
        return {"shard": [shard], "failures": [failures], "error": [error]}

    def _predict(self, shard: int) -> int:
        cpus, on_gpu = self.engine.cpus_per_worker, self.engine.gpus_per_worker > 0
        if self.predictor is None:
            torch.set_num_threads(cpus)
            self.predictor, _ = self.settings.predictor("cuda" if on_gpu else "cpu")
        return predict_shard(
            self.predictor,
            CollectionFolder(self.output),
            shard,
            self.settings.score_threshold,
            read_threads=cpus if on_gpu else 1,  # a model on a CPU leaves no CPU for more
        )


def _run(folder: CollectionFolder, settings: Settings, engine: Engine, shards: List[int]) -> None:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    with DataContext.current(context):
        done = (
            ray.data.from_items([{"shard": i} for i in shards], override_num_blocks=len(shards))
            .map_batches(
                _Worker,
                batch_size=1,
                fn_constructor_args=(os.path.abspath(folder.path), settings, engine),
                compute=ActorPoolStrategy(
                    size=min(engine.workers, len(shards)),
                    max_tasks_in_flight_per_actor=1,  # a shard that waits is for whoever is free
                ),
                num_cpus=engine.cpus_per_worker,
                num_gpus=engine.gpus_per_worker,
            )
            .iter_rows()
        )
        start = time.monotonic()
        try:
            for count, row in enumerate(done, 1):
                if row["error"]:
                    raise UsageError(_cannot_go_on(row["error"]))
                left = (time.monotonic() - start) / count * (len(shards) - count)
                logger.info(
                    "shard %d is done, %d without result; %d of %d shards, %.0f s left",
                    *(row["shard"], row["failures"], count, len(shards), left),
                )
        except ray.exceptions.RayError as error:  # no process can be started, or kept
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UsageError(_cannot_go_on(lines[-1] if lines else repr(error))) from error


def _cannot_go_on(reason: str) -> str:
    return f"a worker cannot go on ({reason}): mend that and start again, what is done stays"
