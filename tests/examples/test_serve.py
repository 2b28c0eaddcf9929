"""The service of examples/serve over real HTTP, on an exported model."""

import asyncio
import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from panopticapi.utils import rgb2id
from PIL import Image

import knet
from knet.export import export_model, knet_runtime
from tests.conftest import PUBLISHED_FORM, REPO, TINY
from tests.tools.demo import make_model_file, write_picture

for package in (
    "fastapi",
    "multipart",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "prometheus_client",
    "uvicorn",
):
    pytest.importorskip(package, reason=f"{package} is not installed")

SERVE = REPO / "projects" / "KNet" / "examples" / "serve"
START = 60  # seconds
CLIENTS = 50
MAX_BYTES, MAX_PIXELS = 100_000, 400_000


@pytest.fixture(scope="module")
def weights(shapes, tmp_path_factory) -> str:
    demo_form = {key: value for key, value in TINY.items() if key not in PUBLISHED_FORM}
    options = {**demo_form, "DATASETS.TRAIN": (shapes.train,), "DATASETS.TEST": (shapes.val,)}
    return make_model_file(options, tmp_path_factory.mktemp("model") / "model.pth")


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_model(knet.load_model(weights, device="cpu"), path)
    return path


@pytest.fixture(scope="module")
def start(exported, tmp_path_factory):
    """Starts a service with these settings: a context with its address and process."""
    without = tmp_path_factory.mktemp("without")
    for name in ("torch", "detectron2", "knet"):
        (without / f"{name}.py").write_text("raise ImportError('the server has none')")

    @contextlib.contextmanager
    def run(**settings):
        with socket.create_server(("127.0.0.1", 0)) as free:
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        own = {"model": str(exported), "listen": listen, "threads": 1, **settings}
        environment = {**os.environ, "PYTHONPATH": str(without)}
        environment.update({f"KNET_{name.upper()}": str(value) for name, value in own.items()})
        command = [sys.executable, "-m", "service"]
        server = subprocess.Popen(
            command, cwd=SERVE, env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            wait_until_ready(f"http://{listen}", server)
            yield f"http://{listen}", server
        finally:
            server.kill()
            server.communicate()

    return run


@pytest.fixture(scope="module")
def address(start):
    """Of a service with the usual settings, small limits."""
    with start(max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS) as (address, _):
        yield address


def wait_until_ready(address: str, server: subprocess.Popen) -> None:
    for _ in range(20 * START):
        assert server.poll() is None, server.communicate()[0]
        with contextlib.suppress(requests.ConnectionError):
            assert requests.get(f"{address}/readyz", timeout=5).json() == {"status": "ready"}
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing at {address} after {START} s")


def ask(address: str, content: bytes, kind: str = "image/png", **query) -> requests.Response:
    headers = {"Content-Type": kind} if kind else {}
    return requests.post(
        f"{address}/v1/segment", data=content, headers=headers, params=query, timeout=START
    )


def ask_at_once(address: str, contents) -> list:
    with ThreadPoolExecutor(len(contents)) as pool:
        return list(pool.map(lambda content: ask(address, content), contents))


def metric(address: str, name: str) -> float:
    lines = requests.get(f"{address}/metrics", timeout=5).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split()[0] == name)


def ids_of(png: bytes) -> np.ndarray:
    return rgb2id(np.array(Image.open(io.BytesIO(png))))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list:
    """Of three sizes, as bytes of PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = ((50, 70), (70, 50), (64, 96))
    for i in range(CLIENTS):
        write_picture(folder / f"{i}.png", seed=i, size=sizes[i % 3])
    return [(folder / f"{i}.png").read_bytes() for i in range(CLIENTS)]


def test_fifty_clients_at_once_get_what_the_model_gives(address, pictures, weights):
    before = metric(address, "knet_batch_pictures_count")
    answers = ask_at_once(address, pictures)
    runs = metric(address, "knet_batch_pictures_count") - before
    predictor = knet.Predictor(weights, device="cpu")
    for content, answer in zip(pictures, answers):
        assert answer.status_code == 200, answer.text
        ids, segments = predictor(content)["panoptic_seg"]
        told = answer.json()
        assert (told["kind"], told["height"], told["width"]) == ("panoptic", *ids.shape)
        assert np.array_equal(ids_of(base64.b64decode(told["png"])), ids.numpy())
        found = [(s["id"], s["category"], s["category_id"], s["area"]) for s in told["segments"]]
        wanted = [(s["id"], s["category_name"], s["dataset_id"], s["area"]) for s in segments]
        assert found == wanted
        scores = [segment["score"] for segment in told["segments"]]
        assert np.allclose(scores, [segment["score"] for segment in segments], atol=1e-4)
    assert runs < CLIENTS / 2, "under load pictures go together"


def test_a_form_and_a_png(address, pictures):
    form = requests.post(
        f"{address}/v1/segment?format=png", files={"image": pictures[0]}, timeout=START
    )
    assert form.headers["Content-Type"] == "image/png"
    told = ask(address, pictures[0]).json()
    ids = ids_of(form.content)
    assert np.array_equal(ids, ids_of(base64.b64decode(told["png"])))
    for segment in told["segments"]:
        rows, columns = np.nonzero(ids == segment["id"])
        x, y, width, height = segment["bbox"]
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)


def test_an_instance_result_has_coco_masks(start, pictures, weights):
    from pycocotools import mask as mask_util

    instances = knet.Predictor(weights, device="cpu")(pictures[0])["instances"]
    with start(result="instance") as (address, _):
        told = ask(address, pictures[0]).json()["segments"]
        refused = ask(address, pictures[0], format="png")
    rles = (mask_util.frPyObjects(s["segmentation"], *s["segmentation"]["size"]) for s in told)
    masks = np.array([mask_util.decode(rle) for rle in rles], dtype=bool)
    assert np.array_equal(masks, instances.pred_masks.numpy())
    assert refused.status_code == 422 and refused.json()["error"]["code"] == "no_png"


def test_a_model_that_makes_instances_alone_gives_them(start, exported):
    """Untold, as the config of an instance model says: a panoptic result can be made of it too."""
    import onnx

    model = onnx.load(exported)
    settings = {**json.loads(model.metadata_props[0].value), "results": ["instances"]}
    onnx.helper.set_model_props(model, {"knet": json.dumps(settings)})
    onnx.save(model, exported.with_name("instances.onnx"))
    with start(model=exported.with_name("instances.onnx")) as (address, _):
        assert requests.get(f"{address}/v1/model", timeout=5).json()["kind"] == "instance"


def png(width: int, height: int, mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


BAD = {
    "text": (b"not a picture", "image/png", 400, "not_an_image"),
    "nothing": (b"", "image/png", 400, "empty"),
    "cut off": (png(200, 200, "RGB")[:-60], "image/png", 400, "broken_image"),
    "a bomb": (png(20_000, 20_000, "1"), "image/png", 413, "too_many_pixels"),
    "too many pixels": (png(1000, 500), "image/png", 413, "too_many_pixels"),
    "too many bytes": (bytes(MAX_BYTES + 1), "image/png", 413, "too_many_bytes"),
    "far too many bytes": (bytes(20 * MAX_BYTES), "image/png", 413, "too_many_bytes"),
    "16 bit": (png(20, 20, "I;16"), "image/png", 400, "deep"),
    "too narrow": (png(2000, 1), "image/png", 422, "unsuitable"),
    "json": (b"{}", "application/json", 415, "content_type"),
    "no type": (png(20, 20), None, 415, "content_type"),
    "a broken form": (b"--x\r\nno", "multipart/form-data; boundary=x", 400, "no_image"),
    "a form of nothing": (b"", "multipart/form-data", 400, "broken_form"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_answered_is_told(address, case):
    content, kind, status, code = BAD[case]
    answer = ask(address, content, kind)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"].endswith(".") and "Traceback" not in error["message"]


def test_a_client_that_goes_away_is_no_failure(address, pictures):
    def count(status: int) -> float:
        return metric(address, f'knet_requests_total{{path="/v1/segment",status="{status}"}}')

    refused = count(400)
    host, _, port = address.removeprefix("http://").partition(":")
    head = "POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: 9000\r\n\r\n".encode() + pictures[0][:100])
    deadline = time.monotonic() + START
    while count(400) == refused:
        assert time.monotonic() < deadline and count(500) == 0
        time.sleep(0.05)
    assert metric(address, "knet_accepted_requests") == 0


def test_of_a_batch_that_fails_the_others_get_their_answers(monkeypatch):
    monkeypatch.syspath_prepend(str(SERVE))
    from service.batching import Batcher

    calls = []

    def predict(inputs, sizes):
        calls.append(len(inputs))
        if any(picture[0] == 3 for picture in inputs):
            raise RuntimeError("it is the third")
        return [int(picture[0]) for picture in inputs]

    async def ask_for_five():
        batcher = Batcher(predict, max_batch=8, max_wait=0.05)
        work = asyncio.create_task(batcher.run())
        asked = [batcher(np.array([i]), (1, 1)) for i in range(5)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        work.cancel()
        return answers

    answers = asyncio.run(ask_for_five())
    assert [answers[i] for i in (0, 1, 2, 4)] == [0, 1, 2, 4]
    assert str(answers[3]) == "it is the third"
    assert calls == [5, 1, 1, 1, 1, 1]


def test_a_wrong_parameter_and_a_wrong_address(address, pictures):
    assert ask(address, pictures[0], format="gif").json()["error"]["code"] == "wrong_parameter"
    assert requests.get(f"{address}/nowhere", timeout=5).json()["error"]["code"] == "not_found"
    assert requests.get(f"{address}/v1/segment", timeout=5).status_code == 405


def test_the_api_is_described(address):
    described = requests.get(f"{address}/openapi.json", timeout=5).json()
    body = described["paths"]["/v1/segment"]["post"]["requestBody"]["content"]
    assert set(body) == {"image/*", "application/octet-stream", "multipart/form-data"}
    assert requests.get(f"{address}/v1/model", timeout=5).json()["kind"] == "panoptic"


def test_too_many_are_told_to_come_again(start, pictures):
    with start(max_requests=4, max_wait=1.5, max_batch=64) as (address, _):
        answers = ask_at_once(address, pictures[::3][:10])
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 4 + [503] * 6
        for answer in answers:
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) >= 1
                assert answer.json()["error"]["code"] == "busy"
        assert ask(address, pictures[0]).status_code == 200


def test_what_takes_too_long_is_given_up(start, pictures):
    with start(timeout=0.3, max_wait=5) as (address, _):
        answer = ask(address, pictures[0])
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        assert metric(address, "knet_waiting_pictures") == 0


def test_stopped_in_the_middle_it_answers_what_it_has_accepted(start, pictures):
    with start(max_wait=2, max_batch=64) as (address, server), ThreadPoolExecutor(9) as pool:
        accepted = [pool.submit(ask, address, content) for content in pictures[:9]]
        while metric(address, "knet_accepted_requests") < 9:
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(requests.ConnectionError):
            ask(address, pictures[0])
        assert not any(future.done() for future in accepted), "it was too quick to be interrupted"
        assert [future.result().status_code for future in accepted] == [200] * 9
        log, _ = server.communicate(timeout=START)
        lines = [json.loads(line) for line in log.splitlines()]
        asked = [line for line in lines if line.get("path") == "/v1/segment"]
        assert [line["status"] for line in asked] == [200] * 9
        assert all(line["bytes"] > 0 and line["seconds"] > 0 for line in asked)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"MAX_BATCH": "0"}, "KNET_MAX_BATCH is 0: give a number above 0"),
        ({"THREADS": "-1"}, "KNET_THREADS is -1: give 0 or more"),
        ({"MODEL": "{}/other.onnx"}, "other.onnx: there is no such file"),
        ({"MODEL": "{}/beside"}, "beside cannot be read (Is a directory)"),
        ({"MODEL": "{}/model.onnx"}, "no knet_runtime.py beside it, which the export puts there"),
        ({"MODEL": "{}/beside/model.onnx"}, "is no model that onnxruntime can load"),
    ],
)
def test_a_wrong_setting_is_told(settings, sentence, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(knet_runtime.__file__, beside)
    for folder in (tmp_path, beside):
        (folder / "model.onnx").write_text("no model")
    given = {f"KNET_{name}": value.format(tmp_path) for name, value in settings.items()}
    command, environment = [sys.executable, "-m", "service"], {**os.environ, **given}
    done = subprocess.run(command, cwd=SERVE, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert sentence in json.loads(line)["message"] and not done.stderr
