"""Whole models written, read again and compared; what cannot be written says so."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from torch.nn import functional as F
from torchvision import ops

import knet
from knet.data.classes import ModelClass
from knet.engine.model_file import ModelInfo
from knet.errors import UsageError
from knet.export import (
    Comparison,
    Network,
    compare,
    describe,
    export_model,
    is_rounding,
    operators,
    read,
)
from knet.export.formats import SUFFIXES, _has_program_exporter
from knet.export.knet_runtime import OnnxPredictor
from knet.modeling.cpu import prefer_onednn
from knet.modeling.point_kernel_head import PointKernelHead

from ..conftest import REPO
from ..docs.pages import blocks
from ..tiny_model import LAYOUT, tiny_model


def loaded(**options):
    """A tiny model as ``knet.load_model`` gives it."""
    model = tiny_model(**options).eval()
    cfg = get_cfg()
    knet.add_knet_config(cfg)
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = "RGB", 80, 150
    classes = [ModelClass(i, i + 1, f"class {i}", i in LAYOUT.thing_ids) for i in LAYOUT.ids]
    model.info = ModelInfo(cfg, tuple(classes))
    return model


def dilations_in(path):
    nodes = pytest.importorskip("onnx").load(path).graph.node
    attributes = [a for node in nodes if node.op_type == "Conv" for a in node.attribute]
    return {tuple(a.ints) for a in attributes if a.name == "dilations"}


POINTS = {
    "kernel_head": PointKernelHead,
    "residual": True,
    "num_kernels": 70,
    "iou_branch": True,
    "seed": 1,  # no mask has a value of a half to rounding
}
PROGRAM = pytest.param(
    "torch-export",
    marks=pytest.mark.skipif(not _has_program_exporter(), reason="needs torch 2.6"),
)


@pytest.mark.parametrize("kind", ["onnx", PROGRAM, "torchscript"])
@pytest.mark.parametrize("options", [{}, POINTS])
def test_each_format_says_what_the_model_says(kind, options, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    model = loaded(**options)
    path = tmp_path / f"model{SUFFIXES[kind]}"
    comparisons = export_model(model, path, kind)
    assert len({(c.batch, c.height, c.width) for c in comparisons}) == 6
    assert max(c.largest for c in comparisons) < 1e-4
    assert all(c.is_equal for c in comparisons)
    with torch.no_grad():  # of other weights it is told
        model.kernel_update_heads[-1].class_proj.weight *= 1.1
    assert not is_rounding(compare(Network(model), read(path, kind)))


def test_one_kernel_of_one_batch_may_have_a_pixel_more():
    equal = Comparison(1, 96, 128, "class_logits", 1e-6, 1e-7)
    pixel = Comparison(3, 96, 128, "class_logits", 0.04, 3e-4, rows=1)
    assert is_rounding([equal, equal]) and is_rounding([equal, pixel])
    assert is_rounding([pixel, replace(pixel, output="mask_logits")])
    for other in (
        replace(pixel, rows=2),
        replace(pixel, largest=0.2),
        replace(pixel, largest=float("inf")),
        replace(pixel, output="logits"),  # a class of a semantic model
    ):
        assert not is_rounding([equal, other])
    assert not is_rounding([pixel, replace(pixel, batch=1)])


@pytest.mark.skipif(not _has_program_exporter(), reason="needs torch 2.6")
def test_onnx_of_fixed_sizes_is_traced_instead(monkeypatch, tmp_path):
    """As torch.export leaves it of a Swin Transformer with UPerNet."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("knet.export.formats._dynamic_shapes", lambda network: None)
    assert all(c.is_equal for c in export_model(loaded(), tmp_path / "model.onnx"))


def test_a_server_gets_what_the_predictor_gives(tmp_path, monkeypatch):
    """From uint8 images of several sizes to every result, through the file alone."""
    pytest.importorskip("onnxruntime")
    model = loaded()
    prefer_onednn(model)
    dilations = {name: m.dilation for name, m in model.named_modules() if hasattr(m, "dilation")}
    export_model(model, tmp_path / "model.onnx")
    assert dilations_in(tmp_path / "model.onnx") == {(1, 1)}  # the others are for PyTorch alone
    assert all(model.get_submodule(name).dilation == each for name, each in dilations.items())
    assert (tmp_path / "knet_runtime.py").is_file()
    rng = np.random.default_rng(0)
    shapes = [(90, 120), (61, 75), (90, 120), (80, 64)]
    coarse = [rng.integers(0, 256, (h // 9, w // 9, 3), np.uint8) for h, w in shapes]
    images = [np.kron(c, np.ones((9, 9, 1), np.uint8)) for c in coarse]  # (H, W, 3) BGR

    predictor = OnnxPredictor(tmp_path / "model.onnx", batch_size=2, threads=1)
    assert predictor.classes[1]["name"] == "class 1"
    assert predictor.results == ("panoptic_seg", "instances", "class_map")
    expected = knet.Predictor(model)([image[:, :, ::-1].copy() for image in images])
    for ours, theirs in zip(predictor(images), expected):
        segments, info = theirs["panoptic_seg"]
        assert np.array_equal(ours["panoptic_seg"][0], segments.numpy())
        names = [s["category_name"] for s in ours["panoptic_seg"][1]]
        assert names == [s["category_name"] for s in info]
        assert np.array_equal(ours["instances"]["classes"], theirs["instances"].pred_classes)
        assert np.array_equal(ours["instances"]["masks"], theirs["instances"].pred_masks)
        assert np.array_equal(ours["class_map"], theirs["sem_seg"].argmax(0))
    with pytest.raises(ValueError, match="image 2 of 2: it is"):
        predictor([images[0], images[1][0]])

    # docs/export.md, beside the files
    (block,) = blocks(REPO / "docs" / "export.md", "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "model.onnx").rename("street.onnx")
    cv2.imwrite("street.jpg", images[0])
    names = {}
    sys.modules.pop("knet_runtime", None)  # that of another test
    exec(block.text, names)
    assert names["result"]["panoptic_seg"][0].shape == images[0].shape[:2]
    assert Path(sys.modules.pop("knet_runtime").__file__).parent == tmp_path


def test_the_description_is_in_every_file(tmp_path):
    model = loaded()
    model.postprocessor.mask_quality, model.postprocessor.mask_quality_power = True, 4.0
    told = describe(Network(model))
    export_model(model, tmp_path / "model.ts", "torchscript")
    files = {"knet": ""}
    torch.jit.load(tmp_path / "model.ts", _extra_files=files)
    assert json.loads(files["knet"]) == told
    assert told["input"]["mean"] == [100.0] * 3 and told["input"]["divisibility"] == 32
    assert told["test"]["score_threshold"] == 0.3
    assert told["test"]["mask_quality"] is True and told["test"]["mask_quality_power"] == 4


@pytest.mark.parametrize("part", ["torch.jit.trace", "knet.export.run.compare"])
def test_what_exporters_and_runtimes_raise_is_a_sentence(part, monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(part, fail)
    with pytest.raises(UsageError, match=r"this model .*torchscript.*RuntimeError: no such oper"):
        export_model(loaded(), tmp_path / "model.ts", "torchscript")
    assert not list(tmp_path.iterdir())


def test_what_is_none_of_the_projects_is_refused():
    with pytest.raises(UsageError, match="META_ARCHITECTURE Linear cannot be exported"):
        Network(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("shape", [(7, 9), (6, 12), (23, 6)])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_pooling_is_pytorchs(shape, size):
    x = torch.randn(2, 3, *shape)
    expected = F.adaptive_avg_pool2d(x, size)
    assert torch.allclose(operators.adaptive_avg_pool2d(x, size), expected, atol=1e-6)


@pytest.mark.parametrize("stride, dilation, groups", [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution_is_torchvisions(stride, dilation, groups, modulated):
    x, weight = torch.randn(2, 4, 9, 11), torch.randn(5, 4, 3, 3)
    height, width = (-(-side // stride) for side in (9, 11))
    offset = 3 * torch.randn(2, 18 * groups, height, width)
    mask = torch.rand(2, 9 * groups, height, width) if modulated else None
    arguments = (x, offset, weight, torch.randn(5), stride, dilation, dilation, mask)
    expected = ops.deform_conv2d(*arguments)
    assert torch.allclose(operators.deform_conv2d(*arguments), expected, atol=1e-4)
