"""The trainer: Detectron2's DefaultTrainer with K-Net's data, optimizer and evaluators."""

import itertools
import logging
import os
import weakref
from typing import List

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.dataset_mapper import KNetDatasetMapper
from ..data.random_state import keep_random_state
from ..data.resumable_loader import build_resumable_loader
from ..data.samplers import build_repeating_sampler
from ..data.summary_log import tell_what_is_learned_from
from ..data.training_images import load_training_sets
from ..errors import DatasetError, UsageError
from ..evaluation import build_evaluator
from ..modeling.autocast import DTYPES
from ..modeling.recompute import recompute_as_configured
from ..modeling.test_time_augmentation import with_test_time_augmentation
from .averaged_weights import AveragedWeights, with_averaged_weights
from .bad_steps import CheckedTrainer
from .best_model import BestModel
from .changed_keys import Rates
from .checkpointer import KNetCheckpointer
from .evaluation_pictures import EvaluationPictures
from .exact_resume import ExactResume
from .image_checks import look_at_images
from .model_file import ModelInfo, save_model
from .optimizer import build_optimizer
from .processes import share_gradients
from .stop_signals import StopOnSignal, StoppableLoader, Stopped, StopSignals
from .validation_loss import validation_losses
from .writers import build_writers

__all__ = ["KNetTrainer"]

logger = logging.getLogger(__name__)

FINAL = "model_final"  # as Detectron2 names the last checkpoint


class ModelFileWriter(HookBase):
    """Writes the model file (``MODEL_FILE.*``) after the last iteration."""

    def __init__(self, model: nn.Module, cfg):
        self._model = model
        self._path = os.path.join(cfg.OUTPUT_DIR, f"model.{cfg.MODEL_FILE.FORMAT}")
        self._half = cfg.MODEL_FILE.HALF

    def before_train(self):
        if self.trainer.start_iter >= self.trainer.max_iter:  # stopped before it could be written
            self._write()

    def after_step(self):
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._write()

    def _write(self) -> None:
        with with_averaged_weights(self._model):
            save_model(self._model, self._path, half=self._half)
        logger.info("Model file (no optimizer) in %s", self._path)


class KNetTrainer(DefaultTrainer):
    """Train and evaluate K-Net from a config."""

    def __init__(self, cfg):
        # not DefaultTrainer's, which wraps a model for GPUs alone; the order is its own
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        self._trainer = CheckedTrainer(
            share_gradients(model),
            data_loader,
            optimizer,
            max_bad=cfg.SOLVER.MAX_BAD_STEPS,
            mixed=cfg.SOLVER.AMP.ENABLED,
            dtype=DTYPES[cfg.SOLVER.AMP.DTYPE],
            num_parts=cfg.SOLVER.ACCUMULATE,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume=True):
        """As in Detectron2; the learning rates are the config's, not those of the checkpoint."""
        rates = Rates(self.optimizer, self.scheduler)
        super().resume_or_load(resume)
        if self.start_iter > 0:  # resumed
            rates.restore()

    def build_hooks(self):
        # a checkpointer that tells what it cannot load, set here before any hook takes it
        self.checkpointer = KNetCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.checkpointer.keep = self.cfg.SOLVER.CHECKPOINT_KEEP
        self.checkpointer.skip_classes = self.cfg.MODEL.KNET.WEIGHTS_SKIP_CLASSES
        self.checkpointer.partly = self.cfg.MODEL.KNET.WEIGHTS_PARTLY
        all_hooks = super().build_hooks()
        saves = next(
            i for i, h in enumerate(all_hooks) if isinstance(h, (PeriodicCheckpointer, EvalHook))
        )
        resume = ExactResume(self.data_loader, self.cfg.SOLVER.CHECKPOINT_PERIOD)
        all_hooks.insert(saves, resume)
        self._stop = StopOnSignal(self.checkpointer, self.data_loader, resume)
        all_hooks.insert(saves + 1 + comm.is_main_process(), self._stop)
        evaluates = next(i for i, h in enumerate(all_hooks) if isinstance(h, EvalHook))
        all_hooks[evaluates + 1 : evaluates + 1] = self._beside_evaluation()
        if self.cfg.MODEL_EMA.ENABLED:
            average = AveragedWeights(self.checkpointer.model, self.cfg.MODEL_EMA.DECAY)
            all_hooks.insert(0, average)
        if self.cfg.MODEL_FILE.FORMAT and comm.is_main_process():
            all_hooks.append(ModelFileWriter(self.checkpointer.model, self.cfg))
        return all_hooks

    def _beside_evaluation(self):
        """Hooks that come when the evaluation does, and before the numbers are written."""
        cfg, period = self.cfg, self.cfg.TEST.EVAL_PERIOD
        if cfg.TEST.VALIDATION_LOSS:
            yield EvalHook(period, self._validation_losses)
        if cfg.MODEL_FILE.BEST_METRIC and comm.is_main_process():
            yield BestModel(self.checkpointer.model, cfg)
        if cfg.TEST.PICTURES > 0:
            yield EvalHook(period, EvaluationPictures(cfg))

    def _validation_losses(self):
        model = self.checkpointer.model  # not the wrapper of several processes
        with with_averaged_weights(model):
            return validation_losses(self.cfg, model)

    def build_writers(self):
        trainer = weakref.proxy(self)
        return build_writers(self.cfg, self.max_iter, lambda: trainer.start_iter > 0)

    def train(self):
        """Train; returns the last evaluation's results (None where none was made).

        Raises:
            UsageError: the loss became NaN or infinite.
            Stopped: a signal came, and the run can be gone on with.
        """
        self._warn_of_frozen_random_layers()
        if self.start_iter >= self.max_iter and self.checkpointer.saved != FINAL:
            # killed after its last step
            self.checkpointer.save(FINAL, iteration=self.iter)
        with StopSignals():
            super().train()
        return getattr(self, "_last_eval_results", None)

    def after_step(self):
        """As in Detectron2; where a hook finds that the run is to stop, the run is saved."""
        try:
            super().after_step()
        except Stopped as stopped:
            self._stop.save(stopped)
            raise

    def _warn_of_frozen_random_layers(self) -> None:
        model = self.cfg.MODEL
        if model.WEIGHTS or model.TIMM.PRETRAINED or self.start_iter > 0:  # > 0: resumed
            return
        frozen = []
        if model.BACKBONE.FREEZE_AT > 0:
            frozen.append(f"MODEL.BACKBONE.FREEZE_AT {model.BACKBONE.FREEZE_AT}")
        network = self.checkpointer.model  # not the wrapper of several processes
        kept = (isinstance(m, _BatchNorm) and not m.training for m in network.modules())
        if model.BACKBONE.NORM_EVAL and any(kept):
            frozen.append("MODEL.BACKBONE.NORM_EVAL True")
        if frozen:
            logger.warning(
                "Training starts from nothing (MODEL.WEIGHTS is empty), and random layers of the "
                f"backbone stay as they are ({', '.join(frozen)}): set MODEL.BACKBONE.FREEZE_AT 0 "
                "MODEL.BACKBONE.NORM_EVAL False"
            )

    @classmethod
    def build_model(cls, cfg):
        """Detectron2's; the model knows its config and classes (``info``)."""
        try:
            model = super().build_model(cfg)
            model.info = ModelInfo.from_config(cfg)
            recompute_as_configured(model, cfg)
            return model
        except (UsageError, DatasetError):
            raise
        except (AssertionError, AttributeError, KeyError, RuntimeError, ValueError) as error:
            logger.debug("Building the model:", exc_info=True)
            reason = repr(error)
            if isinstance(error, KeyError):  # a name that a table of Detectron2's lacks
                keys = [key for name in error.args for key in _norms_of(name, cfg.MODEL, "MODEL")]
                if keys:
                    reason = f"no norm has the name of {' and '.join(keys)}, {error}"
            raise UsageError(f"no model can be built from MODEL.*: {reason}") from error

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        try:
            return super().build_lr_scheduler(cfg, optimizer)
        except ValueError as error:
            raise UsageError(
                f"SOLVER.LR_SCHEDULER_NAME, STEPS, MAX_ITER and WARMUP_* make no schedule: {error}"
            ) from error

    @classmethod
    def build_train_loader(cls, cfg):
        sets = load_training_sets(cfg)
        dicts = list(itertools.chain(*(images for _, images in sets)))
        tell_what_is_learned_from(cfg, dicts)
        look_at_images(cfg, sets)
        mapper = KNetDatasetMapper(cfg, is_train=True)
        sampler = build_repeating_sampler(cfg, sets)
        try:
            return build_resumable_loader(cfg, dataset=dicts, mapper=mapper, sampler=sampler)
        except (UsageError, DatasetError):
            raise
        except ValueError as error:
            raise UsageError(f"DATALOADER.* makes no loader: {error}") from error

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """As in Detectron2, with the averaged weights of a training that averages them, and with
        test-time augmentation where ``TEST.AUG.ENABLED`` says so.

        A training draws the same numbers whether it evaluates or not.
        """
        with keep_random_state(), with_averaged_weights(model):
            return super().test(cfg, with_test_time_augmentation(cfg, model), evaluators)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        # one image a batch: padding to a larger size changes results a little
        mapper = KNetDatasetMapper(cfg, is_train=False)
        return StoppableLoader(build_detection_test_loader(cfg, dataset_name, mapper=mapper))

    @classmethod
    def build_optimizer(cls, cfg, model):
        try:
            return build_optimizer(cfg, model)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"SOLVER.* makes no optimizer: {error}") from error

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return build_evaluator(cfg, dataset_name)


def _norms_of(value: str, node: CfgNode, path: str) -> List[str]:
    """The keys NORM of a config that have a value."""
    keys = []
    for name, inner in node.items():
        if isinstance(inner, CfgNode):
            keys += _norms_of(value, inner, f"{path}.{name}")
        elif name == "NORM" and inner == value:
            keys.append(f"{path}.{name}")
    return keys
