"""docs/check_data.md: its command runs, its report is what that prints, its table is the code's."""

import re
import shlex

import yaml

from knet.data.checks import KINDS, check_data
from tests.conftest import DEMO_CONFIG, REPO
from tests.data.checks.checking import config_of, ordinary
from tests.data.checks.spoiling import every, image_of, truncate
from tests.data.datasets.folders import InstanceFolder, box
from tests.tools.test_outputs_of_programs import program

PAGE = REPO / "docs" / "check_data.md"


def blocks():
    return re.findall(r"^```\n(.*?)\n```$", PAGE.read_text(), re.M | re.S)


def spoiled(root):
    """The data set of the page."""
    folder = ordinary(InstanceFolder, root, "dishes", count=12)
    every(folder, bbox=[0, 0, 0, 0])
    truncate(image_of(folder, 2))
    image_of(folder, 4).unlink()
    annotations = folder.content["annotations"]
    annotations[0]["segmentation"] = []
    annotations[3]["segmentation"] = box(10, 1e9, 10, 15)
    folder.content["categories"].append({"id": 12, "name": "fork"})
    return folder.write()


def report_of(folder) -> str:
    report = check_data(config_of(folder))
    return f"{report.table()}\n{report.summary()}"


def test_the_report(tmp_path):
    assert report_of(spoiled(tmp_path)) == blocks()[1]


def test_the_command(tmp_path, monkeypatch, capsys):
    folder = spoiled(tmp_path)
    content = {
        "_BASE_": DEMO_CONFIG.replace("panoptic", "instance"),
        "DATASETS": {"CUSTOM": [folder.entry()], "TRAIN": ["dishes"], "TEST": []},
    }
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(content))
    python, path, *words = shlex.split(blocks()[0])
    assert (python, path) == ("python", "projects/KNet/tools/check_dataset.py")
    assert (REPO / path).is_file()
    assert program("check_dataset").main([*words, "--workers", "1"]) == 1
    assert blocks()[1] in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "output" / "check").iterdir()} >= {
        "report.json",
        "report.html",
    }


def test_the_table_of_faults():
    rows = re.findall(r"^\| (.*?) \| (error|warning|note) \| (.*?) \|$", PAGE.read_text(), re.M)
    assert sorted(rows) == sorted((k.title, k.severity, k.remedy) for k in KINDS.values())
