"""The page of a report: the program that makes it, and the page in a real browser."""

import json
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from knet.engine import KNetTrainer
from knet.engine.model_file import save_model
from tests.browser import PHONE
from tests.evaluation.conftest import label_truth
from tests.report.scenes import make_run
from tests.tools.test_outputs_of_programs import program


@pytest.fixture
def report(capsys):
    """``report(*words)``: exit status, what it printed, what it complained of."""

    def run(*words):
        status = program("report").main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def files(shapes, tmp_path_factory):
    """The pages of one run and of two, and the results of these."""
    root = tmp_path_factory.mktemp("reports")
    results = []
    for seed, name in enumerate(("first", "second")):
        (root / name).mkdir()
        results.append(make_run(root / name, shapes.val, seed))
    tool = program("report")
    assert tool.main([str(root / "first"), "--images", "1"]) == 0
    words = [str(root / name) for name in ("first", "second")]
    assert tool.main([*words, "--images", "1", "--output", str(root / "two.html")]) == 0
    return root / "first" / "report.html", root / "two.html", results


def column(page, selector, number):
    """What a column of the table shows, row by row."""
    return page.eval_on_selector_all(
        f"{selector} tbody tr", f"rows => rows.map(r => r.cells[{number}].innerText.trim())"
    )


def test_one_file_that_needs_nothing(files):
    for file in files[:2]:
        content = file.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)=["']?(?!data:|#)\w""", content)
        assert "url(" not in content and "@import" not in content and "fetch(" not in content
        assert file.stat().st_size < 3 * 2**20


def test_figures_classes_and_sorting(files, page, shapes):
    file, _, (results, _) = files
    page.goto(file.as_uri())
    for kind, key, name in (
        ("panoptic", "panoptic_seg", "PQ"),
        ("instance", "segm", "AP"),
        ("semantic", "sem_seg", "mIoU"),
    ):
        shown = page.inner_text(f".card[data-kind={kind}] .value")
        assert shown == f"{results[key][name]:.1f}"
    table, names = "table.classes", MetadataCatalog.get(shapes.val).stuff_classes
    pq = dict(zip(column(page, table, 0), column(page, table, 1)))
    for name in names:
        value = results["panoptic_seg"][f"PQ-{name}"]
        assert pq[name] == ("-" if value != value else f"{value:.1f}")
    by_name = page.locator(f"{table} th").first
    by_name.click()
    assert column(page, table, 0) == sorted(names)
    by_name.press("Enter")
    assert column(page, table, 0) == sorted(names, reverse=True)
    assert by_name.get_attribute("aria-sort") == "descending"
    page.locator(f"{table} th", has_text="PQ").click()
    values = [float(v) for v in column(page, table, 1) if v != "-"]
    assert values == sorted(values, reverse=True) and len(set(values)) > 2
    assert "-" not in column(page, table, 1)[: len(values)]  # what is missing goes last
    # the failures of all kinds are those that were not found, and the further predictions
    counted = page.eval_on_selector_all(
        ".failure", "all => all.map(f => [f.dataset.kind, +f.querySelector('.count').innerText])"
    )
    own = {kind: n for kind, n in counted if kind not in ("found twice", "nothing there")}
    assert sum(own.values()) == sum(map(int, column(page, table, 6))) > 0
    assert page.locator("polyline.line").count() > 2


def test_pictures_are_enlarged_and_named(files, page):
    page.goto(files[0].as_uri())
    dialog, pictures = page.locator("dialog"), page.locator("button.picture")
    assert not dialog.is_visible()
    pictures.nth(1).click()
    assert dialog.is_visible()
    small = pictures.nth(1).locator("img").bounding_box()["width"]
    page.wait_for_function("document.querySelectorAll('dialog span').length > 0")
    assert dialog.locator("img").bounding_box()["width"] > 1.5 * small
    assert dialog.locator("p").inner_text().endswith(": truth")
    page.keyboard.press("ArrowRight")
    assert dialog.locator("p").inner_text().endswith(": prediction")
    dialog.locator(".previous").click()
    dialog.locator(".previous").click()
    assert dialog.locator("p").inner_text().endswith(": image")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_runs_switch(files, page):
    _, file, results = files
    page.goto(file.as_uri())
    shown = "table.runs"
    assert column(page, shown, 0) == ["first", "second"]
    assert column(page, shown, 1) == [f"{r['panoptic_seg']['PQ']:.1f}" for r in results]
    first, second = page.locator("#run0"), page.locator("#run1")
    assert first.is_visible() and not second.is_visible()
    page.get_by_role("tab", name="second").click()
    assert second.is_visible() and not first.is_visible()
    value = second.locator(".card[data-kind=panoptic] .value").inner_text()
    assert value == f"{results[1]['panoptic_seg']['PQ']:.1f}"
    # the arrow keys stay within the run that is shown
    second.locator("button.picture").first.click()
    page.keyboard.press("ArrowLeft")
    last = second.locator("button.picture img").last.get_attribute("alt")
    assert page.locator("dialog p").inner_text() == last


def test_a_phone_scrolls_no_sideways(files, page):
    page.set_viewport_size(PHONE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(files[1].as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width == PHONE["width"]
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        levels = [int(v) for v in re.findall(r"\d+", ground)[:3]]
        assert min(levels) > 200 if scheme == "light" else max(levels) < 60


@pytest.mark.parametrize("kind", ["instance", "semantic"])
def test_other_tasks(kind, shapes, tmp_path, report, page):
    results = make_run(tmp_path, shapes.val, kinds=[kind])
    status, _, err = report(tmp_path, "--images", 1, "--score-threshold", 0.4)
    assert status == 0, err
    page.goto((tmp_path / "report.html").as_uri())
    key, name = {"instance": ("segm", "AP"), "semantic": ("sem_seg", "mIoU")}[kind]
    assert page.inner_text(".card .value") == f"{results[key][name]:.1f}"
    assert page.locator("table.pixels").count() == (kind == "semantic")
    assert page.locator(".ece").count() == (kind == "instance")
    assert page.locator(".failure[data-kind=split]").count() == (kind == "instance")


def test_weights_are_evaluated_first(tiny_config, shapes, tmp_path, report):
    torch.manual_seed(0)
    save_model(KNetTrainer.build_model(tiny_config), tmp_path / "model.pth")
    page = tmp_path / "page.html"
    words = ["--weights", tmp_path / "model.pth", "--dataset", shapes.val, "--output", page]
    status, out, err = report(*words, "--images", 1)
    assert status == 0, err
    assert str(page) in out and "tiny_shapes_panoptic_val, 3 images" in page.read_text()
    # what it left is a run
    status, out, err = report(tmp_path / "page_evaluation", "--kind", "semantic", "--images", 0)
    assert status == 0, err
    # pixels have scores now: of each labelled one of the images
    page = (tmp_path / "page_evaluation" / "report.html").read_text()
    (inference,) = (tmp_path / "page_evaluation" / "inference").iterdir()
    bins = json.loads((inference / "pixel_calibration.json").read_text())
    num_ids = len(MetadataCatalog.get(shapes.val).stuff_classes)
    true = [label_truth(record, num_ids) for record in DatasetCatalog.get(shapes.val)]
    assert sum(count for count, *_ in bins) == sum((x < num_ids).sum() for x in true)
    right = sum(right for *_, right in bins) / sum(count for count, *_ in bins)
    accuracy = float(re.search(r"<dt>pACC</dt><dd><span data-value=\"([\d.]+)", page)[1])
    assert 100 * right == pytest.approx(accuracy, abs=1e-3) and "class='ece'" in page


def test_what_a_user_is_told(shapes, tmp_path, report):
    make_run(tmp_path, shapes.val, kinds=["panoptic"])
    for words, sentence in (
        ([], "give the folders of runs, or --weights"),
        ([tmp_path / "none"], "is no folder"),
        ([tmp_path, "--kind", "instance"], "has no instance results"),
        ([tmp_path, "--dataset", shapes.train], "has no results in inference/"),
        ([tmp_path, "--images", "-1"], "--images is -1"),
        ([tmp_path, "--score-threshold", "2"], "--score-threshold is 2"),
        (["--weights", "x.pth", "--dataset", shapes.val], "--output"),
        ([tmp_path, "--output", tmp_path / "config.yaml" / "x.html"], "is no folder"),
        ([tmp_path, "--output", tmp_path / "page"], "give a name that ends in .html"),
    ):
        status, _, err = report(*words)
        assert status == 1 and sentence in err, err
        assert err.startswith("report.py: ") and len(err.strip().splitlines()) == 1
    picture = MetadataCatalog.get(shapes.val).panoptic_json
    status, _, err = report(tmp_path, "--output", picture)
    assert status == 1 and "would be written over" in err
