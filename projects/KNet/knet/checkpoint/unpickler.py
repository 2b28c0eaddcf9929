"""Takes the place of the module pickle in reading weights: calls nothing but what stands here."""

import io
import pickle
import re
import sys
import types
from typing import Any, BinaryIO, Callable, Dict, Optional, Tuple, Union

import numpy as np
import torch
from torch.serialization import MAGIC_NUMBER

__all__ = ["Unpickler", "load", "plain"]

# Arrays of numbers and of text; others (objects, records) become None
_DTYPE = re.compile(r"\?|[biufc]\d{1,2}|[SU]\d{1,6}")
_BUILTINS = ("builtins", "__builtin__")


class Unpickler(pickle.Unpickler):
    """Finds the few names of :func:`_known_names`; all others stand for nothing."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._known = _known_names()

    def find_class(self, module: str, name: str) -> Any:
        return self._known.get((module, name)) or _inert(module, name)


def load(file: BinaryIO, **kwargs) -> Any:
    return Unpickler(file, **kwargs).load()


class _Inert(type):
    """Makes classes that stand for those a file names and that nobody looks up.

    A pickle makes an object by ``cls.__new__(cls, ...)`` and runs a function by calling it. The
    former yields an object that holds nothing, the latter ends here.
    """

    def __call__(cls, *args, **kwargs):
        raise pickle.UnpicklingError(
            f"it wants {cls.__module__}.{cls.__name__} to be run, which reading weights never needs"
        )

    def __setattr__(cls, name, value):
        raise pickle.UnpicklingError(f"it wants {cls.__module__}.{cls.__name__} to be changed")


def _inert(module: str, name: str) -> type:
    """A class that has the name of another and nothing else of it."""

    def ignore(self, *args, **kwargs):
        pass

    body = dict.fromkeys(("__setstate__", "__setitem__", "append", "extend", "add"), ignore)
    body["__new__"] = lambda cls, *args, **kwargs: object.__new__(cls)
    body.update(__module__=module, dump_patches=False)  # torch asks modules for the latter
    return _Inert(name, (), body)


class _Function:
    """A function without anything that a file could change: a pickle may set attributes.

    (Torch writes a file named after the ``__name__`` of what a file calls a module, if its
    ``dump_patches`` says so.)
    """

    __slots__ = ("_call",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_call", function)

    def __call__(self, *args):
        return self._call(*args)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError("it wants a function to be changed")


def _attribute(owner: Any, name: str) -> type:
    """What a class of a framework's own has: as inert as the class (mmengine logs methods)."""
    if not isinstance(owner, _Inert) or owner.__module__ in _BUILTINS:
        raise pickle.UnpicklingError(
            "it wants getattr to be run, which reading weights never needs"
        )
    return _inert(owner.__module__, f"{owner.__name__}.{name}")


class _Dict(dict):
    """A dict without the attributes that a module's state dict has."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """A numpy dtype: a letter and a size, the byte order comes later."""

    def __init__(self, name: str, *_: Any):
        self.name, self.order = name, "="

    def __setstate__(self, state: Tuple) -> None:
        self.order = state[1]

    def read(self, data: Union[bytes, str]) -> Optional[np.ndarray]:
        """(elements,), in this machine's byte order; None for what is neither number nor text."""
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin1")
        if not isinstance(data, (bytes, bytearray)) or not _DTYPE.fullmatch(self.name):
            return None
        dtype = np.dtype(self.name)
        if self.order in ("<", ">"):
            dtype = dtype.newbyteorder(self.order)
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))


class _Array:
    """A numpy array, empty until its state comes."""

    value: Optional[np.ndarray] = None

    def __setstate__(self, state: Tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data, dtype: _Dtype, shape: Tuple[int, ...], order: str) -> Optional[np.ndarray]:
    elements = dtype.read(data)
    return None if elements is None else elements.reshape(shape, order=order)


def _array_of_buffer(data, dtype, shape, order, *_: Any) -> _Array:
    array = _Array()
    array.value = _array(data, dtype, shape, order)
    return array


def _number(dtype: _Dtype, data=b""):
    """A numpy scalar, as Python's own."""
    elements = dtype.read(data)
    return None if elements is None else elements.item()


def _tensor(storage, offset: int, size, stride, *_: Any) -> torch.Tensor:
    """Hooks and subclasses, which a tensor may have, are left behind."""
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _storage(data: bytes):
    """A tensor's numbers, where a tensor was pickled by pickle itself."""
    if not data.startswith(pickle.dumps(MAGIC_NUMBER, protocol=2)):
        raise pickle.UnpicklingError("it has a tensor that is no tensor")
    # this module reads inside too
    return torch.load(
        io.BytesIO(data),
        map_location="cpu",
        weights_only=False,
        pickle_module=sys.modules[__name__],
    )


def _known_names() -> Dict[Tuple[str, str], Any]:
    """All that a file may name and have called, under the names of all versions."""
    known: Dict[Tuple[str, str], Any] = {
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("torch._tensor", "_rebuild_from_type_v2"): lambda make, _, args, __: make(*args),
        ("torch", "Size"): lambda sizes=(): tuple(sizes),
        ("torch", "device"): lambda *args: ":".join(map(str, args)),
        ("numpy", "dtype"): lambda *args: _Dtype(*args),
        ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
        ("collections", "OrderedDict"): lambda *items: _Dict(*items),
        ("collections", "defaultdict"): lambda *_: _Dict(),
    }
    for package in ("numpy.core", "numpy._core"):
        known[f"{package}.multiarray", "_reconstruct"] = lambda *_: _Array()
        known[f"{package}.multiarray", "scalar"] = _number
        known[f"{package}.numeric", "_frombuffer"] = _array_of_buffer
    for module in _BUILTINS:
        for kind in (set, frozenset, bytes, bytearray, complex, int, float, bool, str, list, dict):
            known[module, kind.__name__] = kind
        known[module, "getattr"] = _attribute
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            known["torch", name] = value
    known.update({name: lambda *_: None for name in _FORGOTTEN})
    return {
        name: _Function(value) if isinstance(value, types.FunctionType) else value
        for name, value in known.items()
    }


# Objects that a framework may log beside its weights: they come by a call, and to nothing
_FORGOTTEN = [
    *(("datetime", name) for name in ("date", "time", "datetime", "timedelta", "timezone")),
    *(("pathlib", name) for name in ("PurePosixPath", "PosixPath", "WindowsPath")),
    *(("pathlib._local", name) for name in ("PurePosixPath", "PosixPath", "WindowsPath")),  # 3.13
    *((module, "_reconstructor") for module in ("copyreg", "copy_reg")),
]


def plain(value: Any, seen: Dict[int, Any]) -> Any:
    """Containers, numbers, text, tensors and arrays as they are, everything else as None.

    Args:
        seen: what has been converted, by id, as containers may hold each other.
    """
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, list):
        result = seen[id(value)] = []
        result.extend(plain(item, seen) for item in value)
        return result
    if isinstance(value, dict):
        result = seen[id(value)] = {}
        result.update((k, plain(v, seen)) for k, v in value.items() if _is_key(k))
        return result
    if isinstance(value, tuple):
        return tuple(plain(item, seen) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value)(item for item in value if _is_key(item))
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, (str, bytes, int, float, complex, torch.Tensor, torch.dtype)):
        return value
    return None


def _is_key(key: Any) -> bool:
    return isinstance(key, (str, bytes, int, float, tuple))
