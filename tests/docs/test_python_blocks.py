"""Every Python block of every page is run, here or by the test of its page."""

from PIL import Image

import knet
from tests.conftest import REPO
from tests.docs.pages import all_blocks, blocks

HERE = {"MODEL_ZOO.md", "docs/pictures.md", "projects/KNet/README.md"}
# of other pages: the test that runs them
ELSEWHERE = {
    "README.md": "docs/test_start.py",
    "docs/collections.md": "docs/test_collections.py",
    "docs/export.md": "export/test_export.py",
    "docs/extend.md": "docs/test_extend.py",
    "docs/method.md": "docs/test_method.py",  # excerpts of modules are compared with them
    "docs/predict.md": "docs/test_predict.py",
    "docs/start.md": "docs/test_start.py",
}


def run(page: str) -> dict:
    """The blocks of a page, one after the other; what they have named."""
    names = {}
    for block in blocks(REPO / page, "python"):
        exec(compile(block.text, page, "exec"), names)
    return names


def test_each_page_with_python_has_a_test():
    assert {block.page for block in all_blocks("python")} == HERE | set(ELSEWHERE)
    for page, test in ELSEWHERE.items():
        source = (REPO / "tests" / test).read_text()
        name = page.removeprefix("docs/")
        assert name in source and "exec(" in source, f"{test} does not run {page}"


def test_the_stage_of_the_method():
    stage = run("projects/KNet/README.md")["stage"]
    assert stage.mask_logits.shape == (1, 153, 64, 64)
    assert stage.class_logits.shape == (1, 153, 133)


def test_the_sheet_of_three_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ("panoptic", "instance", "semantic"):
        (tmp_path / task).mkdir()
        Image.new("RGB", (60, 40), "red").save(tmp_path / task / "100003.png")
    run("docs/pictures.md")
    with Image.open("three_tasks.jpg") as sheet:
        assert sheet.width >= 60 and sheet.height >= 3 * 40


def test_the_models_of_the_zoo(monkeypatch):
    """Without the published weights, which are hundreds of MB: the call and the config's name."""
    monkeypatch.setattr(knet, "Predictor", lambda weights: weights)
    monkeypatch.setattr(knet, "load_model", lambda name, weights: knet.get_config(name))
    names = run("MODEL_ZOO.md")
    assert names["predictor"].endswith(".pth")
    assert names["model"].MODEL.BACKBONE.NAME == "build_swin_backbone"
