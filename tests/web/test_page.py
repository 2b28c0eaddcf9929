"""The page in a real browser, served by the program, on the file of a model."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

import knet
from tests.browser import PHONE
from tests.conftest import REPO, TINY
from tests.tools.demo import make_model_file, write_picture

pytest.importorskip("gradio", reason="Gradio is not installed")

PROGRAM = REPO / "projects" / "KNet" / "tools" / "web.py"
SIZE = (50, 70)  # height, width
START = 60  # seconds


@pytest.fixture(scope="module")
def weights(shapes, tmp_path_factory) -> str:
    options = {**TINY, "DATASETS.TRAIN": (shapes.train,), "DATASETS.TEST": (shapes.val,)}
    return make_model_file(options, tmp_path_factory.mktemp("model") / "model.pth")


@pytest.fixture(scope="module")
def address(browser, weights) -> str:
    """Of the page, served until the module's tests are done."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--weights", weights, "--port", str(port), "--device", "cpu"]
    limits = ["--max-side", "100", "--max-megapixels", "3", "--max-megabytes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPO / "projects" / "KNet")}
    server = subprocess.Popen([sys.executable, str(PROGRAM), *words, *limits], env=environment)
    try:
        yield wait_for(f"http://127.0.0.1:{port}/", server)
    finally:
        server.terminate()
        server.wait(START)


def wait_for(address: str, server: subprocess.Popen) -> str:
    for _ in range(10 * START):
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(address).close()
            return address
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing at {address} after {START} s")


@pytest.fixture
def visit(page, address):
    """The page, opened."""
    page.goto(address)
    page.wait_for_selector("#segment")
    return page


@pytest.fixture
def picture(tmp_path) -> str:
    path = tmp_path / "spots.png"
    write_picture(path, seed=1, size=SIZE)
    return str(path)


def upload(page, path) -> None:
    page.set_input_files("#picture input[type=file]", str(path))


def segment(page, path) -> None:
    """Upload it and wait until all is there."""
    upload(page, str(path))
    page.wait_for_selector("#get-json")


def click_pixel(page, x: int, y: int) -> None:
    """Click a pixel of the uploaded picture in the result."""
    image = page.locator("#result img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    place = {"x": (x + 0.5) * box["width"] / SIZE[1], "y": (y + 0.5) * box["height"] / SIZE[0]}
    image.click(position=place)


def download(page, which: str, folder):
    with page.expect_download() as info:
        page.click(f"#get-{which}")
    path = folder / info.value.suggested_filename
    info.value.save_as(path)
    return path


def error_of(page) -> str:
    text = page.locator("#summary .error, [data-testid=toast-text]").inner_text()
    assert "Traceback" not in page.content()
    return text


def test_a_clicked_pixel_tells_its_segment(visit, picture, weights):
    ids, segments = knet.Predictor(weights, device="cpu")(picture)["panoptic_seg"]
    ids = ids.numpy()
    by_id = {segment["id"]: segment for segment in segments}
    assert len(np.unique(ids)) > 2, "the picture is too plain to tell anything"
    segment(visit, picture)
    assert f"{len(segments)} segments" in visit.inner_text("#summary")
    for segment_id in np.unique(ids[ids > 0]):
        inner = np.argwhere(ids == segment_id)
        y, x = inner[len(inner) // 2]
        click_pixel(visit, x, y)
        wanted = by_id[segment_id]
        visit.wait_for_function(
            "text => document.querySelector('#details').innerText.includes(text)",
            arg=f"{wanted['area']:,} pixels",
        )
        told = visit.inner_text("#details")
        assert wanted["category_name"] in told and f"{wanted['score']:.0%}" in told


def test_a_row_of_the_table_tells_its_segment(visit, picture):
    segment(visit, picture)
    name = visit.locator("#table [role=gridcell][data-col='1']").last
    area = visit.locator("#table [role=gridcell][data-col='3']").last.inner_text()
    name, _ = name.inner_text(), name.click()
    visit.wait_for_selector("#details .chip")
    told = visit.inner_text("#details")
    assert name.strip() in told and f"{int(area):,} pixels" in told


def test_panoptic_files_are_the_predictors(visit, picture, weights, tmp_path):
    segment(visit, picture)
    paths = {key: download(visit, key, tmp_path) for key in ("picture", "png", "json")}
    ids, segments = knet.Predictor(weights, device="cpu")(picture)["panoptic_seg"]
    found = rgb2id(np.array(Image.open(paths["png"])))
    assert np.array_equal(found, ids.numpy())
    content = json.loads(paths["json"].read_text())
    (annotation,) = content["annotations"]
    assert annotation["file_name"] == paths["png"].name == "spots_panoptic.png"
    areas = {each["id"]: each["area"] for each in annotation["segments_info"]}
    assert areas == {each["id"]: each["area"] for each in segments}
    assert Image.open(paths["picture"]).size == (700, 500)  # enlarged to be looked at


def test_instances_above_the_threshold_are_in_the_file(visit, picture, weights, tmp_path):
    segment(visit, picture)
    visit.click("#task label:has-text('Instance')")
    visit.wait_for_selector("#summary:has-text('object')")
    visit.wait_for_selector("#overlap", state="hidden")
    predictor = knet.Predictor(weights, device="cpu")
    instances = predictor(picture)["instances"]
    middle = sorted(instances.scores.tolist())[len(instances) // 2]
    threshold = round(middle / 0.05) * 0.05  # the slider's steps
    kept = instances[instances.scores >= threshold]
    assert 0 < len(kept) < len(instances)
    visit.fill("#score input[type=number]", f"{threshold:.2f}")
    visit.press("#score input[type=number]", "Tab")
    with_pixels = int(kept.pred_masks.flatten(1).any(1).sum())
    visit.wait_for_selector(f"#summary:has-text('{with_pixels} object')")
    visit.wait_for_selector("#get-png", state="hidden")
    path = download(visit, "json", tmp_path)
    coco = COCO(str(path))  # its own tool reads it
    masks = [mask_util.decode(each["segmentation"]) for each in coco.dataset["annotations"]]
    assert np.array_equal(np.array(masks, dtype=bool), kept.pred_masks.numpy())


def test_other_opacity_redraws(visit, picture):
    segment(visit, picture)
    before = visit.get_attribute("#result img", "src")
    visit.fill("#opacity input[type=number]", "0.9")
    visit.press("#opacity input[type=number]", "Tab")
    visit.wait_for_function(
        "before => document.querySelector('#result img').src !== before", arg=before
    )


def test_what_is_no_picture_is_told_in_a_sentence(visit, picture, tmp_path):
    segment(visit, picture)
    path = tmp_path / "letter.png"
    path.write_bytes(b"\x89PNG but not really")
    visit.click("#picture button[aria-label*='Remove'], #picture button[aria-label='Clear']")
    upload(visit, path)
    told = error_of(visit)
    assert told.startswith("Cannot read the image letter.png: it is empty, cut off, or none of")
    for what in ("#get-json", "#result img", "#table"):  # of the picture before
        visit.wait_for_selector(what, state="hidden")


def test_a_large_picture_is_shrunk_and_a_huge_one_refused(visit, tmp_path):
    write_picture(tmp_path / "wide.jpg", seed=2, size=(50, 200))
    segment(visit, tmp_path / "wide.jpg")
    assert "100 x 25 pixels (shrunk from 200 x 50)" in visit.inner_text("#summary")
    visit.reload()
    Image.new("L", (2000, 2000)).save(tmp_path / "huge.png")
    upload(visit, tmp_path / "huge.png")
    assert "huge.png" in error_of(visit)


def test_a_large_file_is_refused(visit, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    upload(visit, tmp_path / "noise.png")
    assert "size" in error_of(visit)


def test_visitors_at_once_see_their_own(visit, browser, address, tmp_path):
    others = [browser.new_context().new_page() for _ in range(2)]
    for other in others:
        other.goto(address)
        other.wait_for_selector("#segment")
    pages = [visit, *others]
    for i in range(len(pages)):
        write_picture(tmp_path / f"{i}.png", seed=i, size=(40 + i, 60))
    for i, each in enumerate(pages):  # all of them ask before one is answered
        upload(each, tmp_path / f"{i}.png")
    for i, each in enumerate(pages):
        each.wait_for_selector("#get-json")
        assert f"60 x {40 + i} pixels" in each.inner_text("#summary")
        path = download(each, "json", tmp_path)
        assert json.loads(path.read_text())["images"][0]["file_name"] == f"{i}.png"
    for other in others:
        other.context.close()


def test_a_camera_takes_a_picture(visit):
    visit.context.grant_permissions(["camera"])
    visit.click("#picture button[aria-label='Capture from camera']")
    visit.locator("#picture").get_by_text("Access Webcam").click()
    visit.wait_for_function("(document.querySelector('#picture video') || {}).videoWidth > 0")
    visit.locator("#picture button[aria-label='capture photo']").click()
    visit.wait_for_selector("#get-json")
    assert "100 x" in visit.inner_text("#summary")


def test_a_phone_shows_the_result_below_the_picture(visit, picture):
    visit.set_viewport_size(PHONE)
    segment(visit, picture)
    top, result, task = (
        visit.locator(name).bounding_box() for name in ("#picture", "#result", "#task")
    )
    assert top["y"] < result["y"] < task["y"]
    assert visit.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
