"""A training's numbers, config and pictures for Weights & Biases and MLflow (``LOGGING.*``)."""

import logging
import math
import os
import re
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import yaml
from detectron2.utils.events import EventWriter, get_event_storage

__all__ = ["MLflowWriter", "WandbWriter"]

logger = logging.getLogger(__name__)


class _ServiceWriter(EventWriter):
    """Passes on every scalar once, under the names of ``metrics.json``.

    The id of the service's run is kept in ``OUTPUT_DIR``, so that a training that is resumed goes
    on there. The run starts with the first numbers, when it is known whether it is. A service that
    fails is told once, and the training goes on.
    """

    name: str  # of the service; its id is in OUTPUT_DIR/<name>_run_id.txt
    _run: Any = None
    _has_failed = False

    def __init__(self, cfg, is_resumed: Callable[[], bool], window_size: int = 20):
        """
        Args:
            cfg: the config.
            is_resumed: whether the training goes on with an earlier one.
            window_size: iterations over which losses are smoothed, by their median.
        """
        self._cfg = cfg
        self._is_resumed = is_resumed
        self._window_size = window_size
        self._last_write = -1

    def write(self):
        if self._has_failed and self._run is None:
            return  # it could not be started, and another try may take minutes
        try:
            if self._run is None:
                self._run = self._start(self._read_id() if self._is_resumed() else None)
            for iteration, scalars in self._new_scalars():
                self._log(scalars, iteration)
        except Exception as error:  # of a service: of any kind
            if not self._has_failed:
                logger.warning(
                    f"{self.name} failed, and numbers are missing there ({error!r}): the training "
                    "goes on, metrics.json has them all"
                )
            self._has_failed = True

    def _new_scalars(self) -> Iterator[Tuple[int, Dict[str, float]]]:
        """Those that were put since the last time, iteration by iteration; NaN is left out."""
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        by_iteration: Dict[int, Dict[str, float]] = {}
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write and math.isfinite(value):
                by_iteration.setdefault(iteration, {})[name] = value
        self._last_write = max([self._last_write, *by_iteration])
        yield from sorted(by_iteration.items())

    def _title(self) -> str:
        """Of the run: LOGGING.RUN_NAME, else the folder's name."""
        folder = os.path.basename(os.path.abspath(self._cfg.OUTPUT_DIR))
        return self._cfg.LOGGING.RUN_NAME or folder

    @property
    def _id_file(self) -> str:
        return os.path.join(self._cfg.OUTPUT_DIR, f"{self.name}_run_id.txt")

    def _read_id(self) -> Optional[str]:
        try:
            with open(self._id_file, encoding="utf-8") as f:
                return f.read().strip() or None
        except FileNotFoundError:
            return None

    def _keep_id(self, run_id: str) -> None:
        with open(self._id_file, "w", encoding="utf-8") as f:
            f.write(run_id + "\n")

    def close(self):
        if self._run is None:
            return
        try:
            self._end()
        except Exception as error:  # the training has an end of its own to tell
            logger.warning(f"{self.name} could not be closed: {error!r}")

    def _start(self, run_id: Optional[str]) -> Any:
        """Begin a run, or go on with that of an id."""
        raise NotImplementedError

    def _log(self, scalars: Dict[str, float], iteration: int) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError


class WandbWriter(_ServiceWriter):
    """Weights & Biases; ``WANDB_MODE=offline`` and its other variables count as always."""

    name = "wandb"

    def _start(self, run_id: Optional[str]) -> Any:
        import wandb

        run = wandb.init(
            project=self._cfg.LOGGING.PROJECT,
            name=self._title(),
            id=run_id,
            resume="allow" if run_id else None,
            dir=self._cfg.OUTPUT_DIR,
            config=yaml.safe_load(self._cfg.dump()),
        )
        # a run that goes on may say again what it said: its own steps never go back
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")
        self._keep_id(run.id)
        return run

    def _log(self, scalars: Dict[str, float], iteration: int) -> None:
        self._run.log({**scalars, "iteration": iteration})

    def _end(self) -> None:
        self._run.finish()


class MLflowWriter(_ServiceWriter):
    """MLflow; ``MLFLOW_TRACKING_URI`` and its other variables say where to."""

    name = "mlflow"

    def _start(self, run_id: Optional[str]) -> Any:
        import mlflow

        mlflow.set_experiment(self._cfg.LOGGING.PROJECT)
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else self._title())
        mlflow.log_text(self._cfg.dump(), "config.yaml")
        self._keep_id(run.info.run_id)
        return run

    def _log(self, scalars: Dict[str, float], iteration: int) -> None:
        import mlflow

        # names of classes may have letters that MLflow refuses
        names = {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in scalars.items()}
        mlflow.log_metrics(names, step=iteration)

    def _end(self) -> None:
        import mlflow

        mlflow.end_run()
