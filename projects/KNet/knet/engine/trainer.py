"""The trainer: Detectron2's DefaultTrainer with K-Net's data, optimizer and evaluators."""

from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer

from ..data.dataset_mapper import KNetDatasetMapper
from ..data.training_images import load_training_dicts
from ..evaluation import build_evaluator
from .optimizer import build_optimizer

__all__ = ["KNetTrainer"]


class KNetTrainer(DefaultTrainer):
    """Train and evaluate K-Net from a config."""

    def train(self):
        """Train; returns the last evaluation's results (None where none was made)."""
        super().train()
        return getattr(self, "_last_eval_results", None)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(
            cfg, mapper=KNetDatasetMapper(cfg, is_train=True), dataset=load_training_dicts(cfg)
        )

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        # one image a batch: padding to a larger size changes results a little
        mapper = KNetDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return build_evaluator(cfg, dataset_name)
