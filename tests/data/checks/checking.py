"""Checks of small data sets that a test spoils."""

import zlib
from typing import Dict, List

from PIL import Image

from knet.data.checks import KINDS, Report, check_data
from knet.engine.main import load_config
from tests.conftest import REPO, PanopticFolder, pairs
from tests.data.datasets.folders import InstanceFolder, SemanticFolder, noise

TASKS = {PanopticFolder: "panoptic", InstanceFolder: "instance", SemanticFolder: "semantic"}


def config_of(train, test=None, **keys):
    """A config that trains on one folder and, if given, evaluates another."""
    path = REPO / "configs" / "demo" / f"knet_{TASKS[type(train)]}_shapes.yaml"
    options = {
        "DATASETS.CUSTOM": [each.entry() for each in (train, test) if each is not None],
        "DATASETS.TRAIN": (train.name,),
        "DATASETS.TEST": (test.name,) if test is not None else (),
        "TEST.EXPECTED_RESULTS": [],
        "MODEL.DEVICE": "cpu",
        **keys,
    }
    return load_config(str(path), pairs(options))


def check(train, test=None, workers: int = 1, **keys) -> Report:
    return check_data(config_of(train, test, **keys), workers)


def found(report: Report) -> Dict[str, List[str]]:
    """{kind: its sentences}."""
    return {kind: [f.sentence for f in faults] for kind, faults in report.by_kind().items()}


def errors(report: Report) -> set:
    return {fault.kind for fault in report.faults if KINDS[fault.kind].severity == "error"}


def ordinary(kind, root, name: str, count: int = 2):
    """A clean folder of a kind; those of different names share no picture."""
    folder = kind(root, name)
    for index in range(count):
        folder.add_ordinary() if kind is InstanceFolder else folder.add_ordinary(1)
        if kind is SemanticFolder:  # which names all of them alike
            for path in (folder.images / "000.jpg", folder.labels / "000.png"):
                path.rename(path.with_stem(f"{name}{index}"))
    for index, path in enumerate(sorted(folder.images.iterdir())):
        Image.fromarray(noise((40, 64), zlib.crc32(f"{name}{index}".encode()))).save(path)
    return folder if kind is SemanticFolder else folder.write()
