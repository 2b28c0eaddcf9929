"""Models for programs without this project: ONNX, torch.export, TorchScript.

``knet_runtime`` needs none of it: images in, results out, with NumPy and onnxruntime.
"""

from .check import Comparison, compare, is_rounding
from .description import describe
from .formats import FORMATS, SUFFIXES, read, write
from .network import Network
from .run import export_model

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Comparison",
    "Network",
    "compare",
    "describe",
    "export_model",
    "is_rounding",
    "read",
    "write",
]
