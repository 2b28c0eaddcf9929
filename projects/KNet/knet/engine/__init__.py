"""Training: trainer, optimizer, choice of device."""

from .device import select_device
from .optimizer import build_optimizer
from .trainer import KNetTrainer

__all__ = ["KNetTrainer", "build_optimizer", "select_device"]
