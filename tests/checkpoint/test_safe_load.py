"""Files of weights are read whatever stands beside the weights; nothing in them is run."""

import argparse
import collections
import contextlib
import datetime
import functools
import importlib
import io
import operator
import os
import pathlib
import pickle
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from knet.checkpoint.safe_load import load_file

FORMATS = ["zip", "legacy", "pkl"]


class Calls:
    """Pickles as a call of a function, and perhaps a state for what it returns."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Log:
    """What a framework may put beside its weights."""

    def __init__(self):
        self.history = [1, np.float64(2.0)]


class History(dict):
    """A container of its own."""


def write(folder, content, form) -> str:
    if form == "pkl":
        path = folder / "weights.pkl"
        path.write_bytes(pickle.dumps(content))
    else:
        path = folder / "weights.pth"
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return str(path)


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_come_as_they_were_saved(form, tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    saved = {
        "part": shared[:, 1:],
        "whole": shared,
        "half": torch.ones(3).half(),
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "counter": torch.tensor(3),
        "empty": torch.ones(0, 4),
        "bool": torch.tensor([True, False]),
    }
    state_dict = collections.OrderedDict(saved)
    state_dict._metadata = {"": {"version": 2}}  # as a module's has
    # with an object beside them that torch's own reader of weights refuses
    path = write(tmp_path, {"state_dict": state_dict, "meta": Log()}, form)
    loaded = load_file(path)["state_dict"]
    assert list(loaded) == list(saved)
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name
    if form != "pkl":
        assert loaded["part"].untyped_storage().data_ptr() == (
            loaded["whole"].untyped_storage().data_ptr()
        )


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_come_as_they_were_saved(protocol, tmp_path):
    saved = {
        "matrix": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int8).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">f4"),
        "scalar": np.float32(1.5),
        "none": np.ones((0, 2)),
        "flags": np.array([True, False]),
        "names": np.array(["a", "bc"]),
    }
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(saved, protocol=protocol))
    loaded = load_file(str(path))
    for name, array in saved.items():
        np.testing.assert_array_equal(loaded[name], array)
    torch.as_tensor(loaded["big endian"])  # it is of this machine's order now


def test_arrays_written_by_python_2(tmp_path):
    """Detectron2's oldest files; array(3.) and its name, as Python 2 wrote them."""
    path = tmp_path / "weights.pkl"
    path.write_bytes(
        b"\x80\x02}q\x01U\x06conv_wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x06(K\x01K\x02\x85cnumpy\ndtype\nq\x07U\x02f4K\x00K\x01\x87R"
        b"q\x08(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\x80?\x00\x00\xa0\xc0tbs."
    )
    np.testing.assert_array_equal(load_file(str(path))["conv_w"], np.float32([1, -5]))


@pytest.mark.parametrize("form", FORMATS)
def test_what_stands_beside_the_weights_does_no_harm(form, tmp_path):
    meta = {
        "kept": ["text", 1, 2.5, None, True, (b"bytes", {3})],
        "config": collections.OrderedDict(a=collections.defaultdict(list, b=[1])),
        "score": np.float32(1.5),
        "time": datetime.datetime.now(),
        "path": pathlib.PurePosixPath("a/b"),
        "log": Log(),
        "history": History(a=1),
        "arguments": argparse.Namespace(a=1),
        "objects": np.array([Log()], dtype=object),
    }
    loaded = load_file(write(tmp_path, {"weight": np.ones(2), "meta": meta}, form))
    assert loaded["weight"].tolist() == [1, 1]
    assert loaded["meta"]["kept"] == meta["kept"]
    assert loaded["meta"]["config"] == {"a": {"b": [1]}}
    assert loaded["meta"]["score"] == 1.5
    for name in ("time", "path", "log", "history", "arguments", "objects"):
        assert loaded["meta"][name] is None, name


class Buffer:
    """Logs its own methods by name, as mmengine's does."""

    def mean(self):
        pass

    def __getstate__(self):
        return {"statistics": {"mean": Buffer.mean}}


@pytest.mark.parametrize("form", FORMATS)
def test_methods_of_a_framework_beside_the_weights(form, tmp_path):
    content = {"weight": torch.ones(2), "message_hub": {"loss": Buffer()}}
    loaded = load_file(write(tmp_path, content, form))
    assert loaded["message_hub"] == {"loss": None} and loaded["weight"].tolist() == [1, 1]


def test_containers_that_hold_themselves(tmp_path):
    content = {"log": Log()}
    content["self"] = content
    loaded = load_file(write(tmp_path, content, "zip"))
    assert loaded["self"] is loaded


def hostile(mark) -> dict:
    """Objects that create the file `mark`, or more, when they are read carelessly."""
    shell, python = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    nested = io.BytesIO()
    torch.save(Calls(os.system, (shell,)), nested)
    system = Calls(os.system, (shell,))
    return {
        "system": system,
        "eval": Calls(eval, (python,)),
        "exec": Calls(exec, (python,)),
        "io.open": Calls(open, (str(mark), "w")),
        "__import__": Calls(__import__, ("os",)),
        "import_module": Calls(importlib.import_module, ("os",)),
        "Popen": Calls(subprocess.Popen, (["touch", str(mark)],)),
        "partial": Calls(functools.partial, (os.system, shell)),
        "getattr": Calls(getattr, (str, "format")),
        "attrgetter": Calls(operator.attrgetter, ("system",)),
        "methodcaller": Calls(operator.methodcaller, ("system", shell)),
        "map": Calls(list, (Calls(map, (os.system, [shell])),)),
        "numpy.load": Calls(np.load, (str(mark), None, True)),
        "serialization.load": Calls(torch.load, (str(mark),)),
        "hub.load": Calls(torch.hub.load, ("someone/something", "model")),
        "no tensor": Calls(torch.storage._load_from_bytes, (nested.getvalue(),)),
        # inside what is let pass
        "tensor of system": Calls(torch._utils._rebuild_tensor_v2, (system, 0, (1,), (1,))),
        "OrderedDict with system": Calls(collections.OrderedDict, (), {"x": system}),
        "deep system": {"a": [({"b": system},)]},
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", list(hostile("")))
def test_a_file_that_wants_to_run_something_is_refused(name, form, tmp_path):
    mark = tmp_path / "mark"
    content = {"state_dict": {"weight": torch.ones(2)}, "meta": hostile(mark)[name]}
    with pytest.raises(pickle.UnpicklingError) as error:
        load_file(write(tmp_path, content, form))
    assert not mark.exists()
    function = name.split()[-1].split(".")[-1]
    assert f"{function} to be run" in str(error.value) or name == "no tensor" or name == "map"


@pytest.mark.parametrize("name", ["system", "eval", "exec", "io.open", "Popen", "partial"])
def test_the_hostile_objects_are_hostile(name, tmp_path):
    """Else the test above would show nothing."""
    mark = tmp_path / "mark"
    found = pickle.loads(pickle.dumps(hostile(mark)[name]))
    if name == "Popen":
        found.wait()
    if name == "partial":
        found()
    assert mark.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"(S'touch {mark}'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch {mark}'\no.",  # OBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.",  # STACK_GLOBAL
        b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93\x8c\x01x\x85R.",  # a dotted name
        b"cos\nsystem\n(S'a'\nS'b'\nd\x86b.",  # attributes of a function by BUILD
        b"cos\nsystem\n(Nt(dS'dump_patches'\nI1\nsb.",
        b"ctorch._utils\n_rebuild_tensor_v2\ncos\nsystem\nb.",
        b"\x80\x02\x82\x01.",  # a registered extension
        b"S'x'\nQ.",  # a persistent id
        b"(dS'a'\ncos\nsystem\n)R.",
    ],
)
def test_pickles_written_by_hand_have_no_effect(pickled, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "weights.pkl"
    path.write_bytes(pickled.replace(b"{mark}", str(mark).encode()))
    with pytest.raises(pickle.UnpicklingError):
        load_file(str(path))
    assert not mark.exists()


def test_a_module_with_its_source_is_not_brought_to_life(tmp_path):
    """The oldest files held whole modules, and loading compared, and could write, their source."""
    model = torch.nn.Linear(2, 2)
    path = write(tmp_path, {"model": model, "weight": torch.ones(1)}, "legacy")
    loaded = load_file(path)
    assert loaded["model"] is None and torch.equal(loaded["weight"], torch.ones(1))


def write_legacy(folder, pickled: bytes) -> str:
    """A file of torch's oldest format around a pickle written by hand."""
    path = folder / "weights.pth"
    torch.save({}, path, _use_new_zipfile_serialization=False)
    empty, no_storages = pickle.dumps({}, 2), pickle.dumps([], 2)
    head = path.read_bytes().removesuffix(empty + no_storages)
    path.write_bytes(head + pickled + no_storages)
    return str(path)


def module_of(class_: bytes) -> bytes:
    """A pickle of a module whose source has changed since."""
    return b"(S'module'\n" + class_ + b"S'file.py'\nS'another source'\ntQ."


def test_a_module_of_a_changed_source_is_not_brought_to_life(tmp_path):
    path = write_legacy(tmp_path, module_of(b"ctorch.nn.modules.linear\nLinear\n"))
    # from Python 3.13 on there is no source to compare with, which is warned about otherwise
    with pytest.warns((torch.serialization.SourceChangeWarning, UserWarning)):
        assert load_file(path) is None


@pytest.mark.filterwarnings("ignore::torch.serialization.SourceChangeWarning")
@pytest.mark.parametrize(
    "name", [b"ctorch._utils\n_rebuild_tensor\n", b"ctorch.nn.modules.linear\nLinear\n"]
)
def test_no_patch_of_a_changed_source_is_written(name, tmp_path):
    """Which torch does, under any path, for what has these attributes."""
    mark = tmp_path / "mark"
    attributes = f"(dS'dump_patches'\nI01\nsS'__name__'\nS'{mark}'\ns".encode()
    for state in (b"(N" + attributes + b"t", attributes):
        path = write_legacy(tmp_path, module_of(name + state + b"b"))
        with contextlib.suppress(pickle.UnpicklingError):
            load_file(path)
        assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]


def test_programs_are_refused(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(pickle.UnpicklingError, match="TorchScript"):
        load_file(path)


def test_programs_under_a_disguise_are_refused(tmp_path, monkeypatch):
    """Torch takes a name to end at a zero byte when it asks whether a file is a program."""
    plain, disguised = tmp_path / "plain.pth", tmp_path / "disguised.pth"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(plain))
    name = "plain/constants.pkl"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(disguised, "w") as target:
        for entry in source.namelist():
            target.writestr(f"{name}?x" if entry == name else entry, source.read(entry))
    content = disguised.read_bytes()
    disguised.write_bytes(content.replace(f"{name}?x".encode(), f"{name}\0x".encode()))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was started"))
    with pytest.raises(pickle.UnpicklingError, match="TorchScript"):
        load_file(str(disguised))


def test_tar_archives_are_refused(tmp_path):
    path, inside = tmp_path / "weights.pth", tmp_path / "pickle"
    inside.write_bytes(pickle.dumps(hostile(tmp_path / "mark")["system"]))
    with tarfile.open(path, "w") as archive:
        archive.add(inside, "pickle")
    with pytest.raises(pickle.UnpicklingError, match="tar archive"):
        load_file(str(path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name, sentence", [("model.onnx", "it is an exported model"), ("config.yaml", "it is a config")]
)
def test_files_that_are_no_weights(name, sentence, tmp_path):
    (tmp_path / name).write_bytes(b"\x08\x0a MODEL:")
    with pytest.raises(pickle.UnpicklingError, match=sentence):
        load_file(str(tmp_path / name))


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"not weights", b"PK\x03\x04", b"\x80\x04\x95", b"\x00", b"hello\n"]
)
def test_damaged_files(content, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match="it is damaged or no file of weights"):
        load_file(str(path))


@pytest.mark.parametrize("form", FORMATS)
def test_cut_off_files(form, tmp_path):
    path = pathlib.Path(write(tmp_path, {"weight": torch.arange(1000.0), "log": Log()}, form))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(pickle.UnpicklingError):
        load_file(str(path))


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = str(tmp_path / "weights.safetensors")
    safetensors.save_file({"weight": torch.arange(3.0)}, path)
    assert torch.equal(load_file(path)["weight"], torch.arange(3.0))
