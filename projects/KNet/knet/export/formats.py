"""The files that a network can be written to, and read again to be tried.

Every format has dynamic height, width and batch, and the model's description inside.
"""

import json
import logging
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import torch

from ..errors import UsageError
from .knet_runtime import METADATA
from .network import Network, example_inputs
from .operators import exportable_operators, plain_pixel_convolutions

__all__ = ["FORMATS", "SUFFIXES", "failures_told", "read", "write"]

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
    # TorchScript is for PyTorch on the CPU, as the model is
    plain = nullcontext() if kind == "torchscript" else plain_pixel_convolutions(network)
    with (
        failures_told(f"cannot be written as {kind}"),
        torch.no_grad(),
        exportable_operators(),
        plain,
        _quietly(),
    ):
        if kind == "onnx":
            _write_onnx(network, path, inputs, text)
        elif kind == "torch-export":
            _write_program(network, path, inputs, text)
        else:
            traced = torch.jit.trace(network, tuple(inputs.values()), check_trace=False)
            torch.jit.save(traced, path, _extra_files={METADATA: text})


@contextmanager
def failures_told(what: str) -> Iterator[None]:
    """Within, whatever an exporter or a runtime raises becomes a sentence.

    Args:
        what: the model does not do, or its file.

    Raises:
        UsageError: it was raised.
    """
    try:
        yield
    except (UsageError, OSError):
        raise
    except Exception as error:  # they raise all kinds
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
        raise UsageError(
            f"this model {what} (torch {torch.__version__}: {reason}): choose another --format"
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
    if not (_has_program_exporter() and _write_onnx_program(network, path, inputs)):
        _write_onnx_trace(network, path, inputs)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA: settings})
    onnx.save(model, path)


def _write_onnx_program(network: Network, path: Path, inputs: Dict[str, torch.Tensor]) -> bool:
    """By way of ``torch.export``; False if that has found no way to leave the sizes open."""
    import onnx

    torch.onnx.export(
        network,
        tuple(inputs.values()),
        path,
        dynamo=True,
        dynamic_shapes=_dynamic_shapes(network),
        external_data=False,
        verbose=False,
        input_names=list(inputs),
        output_names=network.output_names,
    )
    sides = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[:3]
    return all(side.dim_param for side in sides)


def _write_onnx_trace(network: Network, path: Path, inputs: Dict[str, torch.Tensor]) -> None:
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
        input_names=list(inputs),
        output_names=network.output_names,
        **({"dynamo": False} if _has_program_exporter() else {}),
    )


def _write_program(
    network: Network, path: Path, inputs: Dict[str, torch.Tensor], settings: str
) -> None:
    if not _has_program_exporter():
        raise UsageError(
            f"--format torch-export needs torch 2.6 or newer, this is {torch.__version__}: choose "
            "another, onnx or torchscript"
        )
    program = torch.export.export(
        network,
        tuple(inputs.values()),
        dynamic_shapes=_dynamic_shapes(network),
        strict=False,
    )
    torch.export.save(program, path, extra_files={METADATA: settings})


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
