"""The program that checks data sets: its exit status, its table, what it leaves in its folder."""

import json
import re

import pytest
from PIL import Image

from tests.conftest import DEMO_CONFIG, PanopticFolder, pairs
from tests.data.checks.checking import TASKS, ordinary
from tests.data.checks.spoiling import image_of, repainted
from tests.data.datasets.folders import InstanceFolder, SemanticFolder
from tests.tools.test_outputs_of_programs import program


@pytest.fixture
def check_dataset(capsys):
    """``check_dataset(folder, *flags)``: exit status, what it printed, what it complained of."""

    def run(folder, *flags):
        options = {
            "DATASETS.CUSTOM": [folder.entry()],
            "DATASETS.TRAIN": (folder.name,),
            "DATASETS.TEST": (),
            "INPUT.MIN_SIZE_TRAIN": (64,),
            "MODEL.DEVICE": "cpu",
        }
        config = DEMO_CONFIG.replace("panoptic", TASKS[type(folder)])
        words = ["--config-file", config, "--workers", "1", *map(str, flags), *pairs(options)]
        status = program("check_dataset").main(words)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_clean_data_with_samples(check_dataset, tmp_path):
    for kind in (PanopticFolder, InstanceFolder, SemanticFolder):
        folder = ordinary(kind, tmp_path, f"clean_{kind.__name__}", count=3)
        output = tmp_path / kind.__name__
        status, out, _ = check_dataset(folder, "--output", output, "--samples", 2)
        assert status == 0 and "3 images" in out and "0 errors" in out
        pictures = sorted((output / "samples").iterdir())
        assert len(pictures) == 2
        with Image.open(pictures[0]) as picture:
            assert picture.width > 2 * 64
        page = (output / "report.html").read_text()
        assert page.count("samples/") == 2 and "data:image/png;base64," in page
        assert not re.search(r'(src|href)=["\']http', page)


def test_samples_of_data_that_cannot_be_read(check_dataset, tmp_path, caplog):
    """The table says why; the samples say no more than that there are none."""
    folder = InstanceFolder(tmp_path, "gone")
    status, out, _ = check_dataset(folder, "--output", tmp_path / "out", "--samples", 2)
    assert status == 1 and "json that cannot be read" in out
    assert caplog.messages[-1] == "no samples can be drawn: gone cannot be read"


def test_every_occurrence_is_in_the_json(check_dataset, tmp_path):
    folder = ordinary(SemanticFolder, tmp_path, "shelf", count=6)
    for index in range(5):
        repainted(folder, lambda labels: labels.__setitem__((9, 9), 200), index)
    image_of(folder, 5).write_bytes(b"")
    status, out, _ = check_dataset(folder, "--output", tmp_path / "out")
    assert status == 1
    assert "2 errors" not in out and "6 errors, 0 warnings" in out
    row = next(line for line in out.splitlines() if "label that is no class" in line)
    assert row.split("|")[3].strip() == "5"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (labels,) = [f for f in report["faults"] if f["kind"] == "label"]
    assert len(labels["occurrences"]) == labels["count"] == 5 and report["errors"]


def test_names_of_users_are_text_on_the_page(check_dataset, tmp_path):
    folder = ordinary(InstanceFolder, tmp_path, "a$b$<i>")
    folder.content["categories"][0]["name"] = "<script>alert(1)</script>"
    check_dataset(folder.write(), "--output", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "<i>" not in page


def test_the_data_are_not_written_over(check_dataset, tmp_path):
    folder = ordinary(InstanceFolder, tmp_path, "dishes")
    folder.json_file = folder.json_file.rename(tmp_path / "report.json")
    before = folder.json_file.read_bytes()
    status, _, err = check_dataset(folder, "--output", tmp_path)
    assert status == 2 and "choose another --output" in err
    assert folder.json_file.read_bytes() == before


def test_wrong_usage_is_another_status(check_dataset, tmp_path, capsys):
    folder = ordinary(InstanceFolder, tmp_path, "dishes")
    status, _, err = check_dataset(folder, "--samples", 3)
    assert status == 2 and err.strip().startswith("check_dataset.py: --samples")
    assert program("check_dataset").main(["--config-file", "none.yaml"]) == 2
    assert "none.yaml does not exist" in capsys.readouterr().err
