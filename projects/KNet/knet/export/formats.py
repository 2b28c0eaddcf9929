"""The files that a network can be written to, and read again to be tried.

Every format has dynamic height, width and batch, and the model's description inside.
"""

import json
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import torch

from ..errors import UsageError
from .knet_runtime import METADATA
from .network import Network, example_inputs
from .operators import exportable_operators

__all__ = ["FORMATS", "SUFFIXES", "read", "write"]

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".ts"}
FORMATS = tuple(SUFFIXES)

Run = Callable[[Dict[str, torch.Tensor]], List[torch.Tensor]]

_MOST_PIXELS, _MOST_IMAGES = 2**15, 2**10  # of a side, of a batch
# The newest operator set of torch's exporter without torch.export, which serves torch before 2.6
_OPSET_OF_TRACE = 17


def write(network: Network, path: Path, kind: str, settings: Dict[str, Any]) -> None:
    """
    Args:
        kind: one of :data:`FORMATS`.
        settings: of :func:`knet.export.description.describe`.

    Raises:
        UsageError: the format cannot have this model, or a package is missing.
    """
    # odd sides, so that whatever a model pads is in the program
    inputs = example_inputs(network, 2, 135, 203, settings["input"]["dtype"])
    text = json.dumps(settings)
    with torch.no_grad(), exportable_operators(), _quietly():
        try:
            if kind == "onnx":
                _write_onnx(network, path, inputs, text)
            elif kind == "torch-export":
                if not _has_program_exporter():
                    raise UsageError(
                        f"--format torch-export needs torch 2.6 or newer, this is "
                        f"{torch.__version__}: choose another, onnx or torchscript"
                    )
                program = torch.export.export(
                    network,
                    tuple(inputs.values()),
                    dynamic_shapes=_dynamic_shapes(network),
                    strict=False,
                )
                torch.export.save(program, path, extra_files={METADATA: text})
            else:
                traced = torch.jit.trace(network, tuple(inputs.values()), check_trace=False)
                torch.jit.save(traced, path, _extra_files={METADATA: text})
        except (UsageError, OSError):
            raise
        except Exception as error:  # exporters raise all kinds
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
            raise UsageError(
                f"this model cannot be written as {kind}: torch {torch.__version__} says "
                f"{reason}; choose another --format"
            ) from error


def read(path: Path, kind: str) -> Run:
    """The file as a function of the network's inputs, on one core as on many."""
    if kind == "onnx":
        return _read_onnx(path)
    with _quietly():
        module = (
            torch.export.load(path).module() if kind == "torch-export" else torch.jit.load(path)
        )
    return lambda inputs: list(module(*inputs.values()))


def _write_onnx(
    network: Network, path: Path, inputs: Dict[str, torch.Tensor], settings: str
) -> None:
    onnx = _import_onnx()
    names = {"input_names": list(inputs), "output_names": network.output_names}
    if _has_program_exporter():
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            path,
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(network),
            external_data=False,
            verbose=False,
            **names,
        )
    else:
        axes = {"images": {0: "batch", 1: "height", 2: "width"}, "sizes": {0: "batch"}}
        for name in network.output_names:
            has_map = name != "class_logits"
            axes[name] = {0: "batch", **({2: "rows", 3: "columns"} if has_map else {})}
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            path,
            dynamic_axes=axes,
            opset_version=_OPSET_OF_TRACE,
            **names,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: settings})
    onnx.save(model, path)


def _has_program_exporter() -> bool:
    return tuple(int(x) for x in torch.__version__.split(".")[:2]) >= (2, 6)


def _import_onnx():
    try:
        import onnx
        import onnxruntime  # noqa: F401  the file is tried at once

        if _has_program_exporter():
            import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--format onnx needs the package {error.name}: run pip install onnx onnxruntime "
            "onnxscript"
        ) from error
    return onnx


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Dict[str, torch.Tensor]) -> List[torch.Tensor]:
        arrays = {name: x.numpy() for name, x in inputs.items()}
        return [torch.from_numpy(x) for x in session.run(None, arrays)]

    return run


def _dynamic_shapes(network: Network) -> Dict[str, Dict[int, Any]]:
    """For torch.export: sides are multiples of what the network divides them by."""
    divisor = network.divisibility
    least, most = network.min_side // divisor, _MOST_PIXELS // divisor

    def side(name: str):
        steps = torch.export.Dim(name, min=least, max=most)
        return steps if divisor == 1 else divisor * steps

    batch = torch.export.Dim("batch", min=1, max=_MOST_IMAGES)
    return {"images": {0: batch, 1: side("height"), 2: side("width")}, "sizes": {0: batch}}


@contextmanager
def _quietly() -> Iterator[None]:
    """Exporters tell their own authors much; what a user must know is told by the check."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
