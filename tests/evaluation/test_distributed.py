"""Two processes that share the images report what one process does."""

import json

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.engine import launch
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm

from knet.data import register_coco_panoptic
from knet.engine.processes import leave_group
from knet.evaluation import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from tests.evaluation.conftest import (
    evaluate,
    imperfect_instances,
    label_truth,
    panoptic_truth,
    register,
    semantic_output,
)


def report(paths, folder):
    """Evaluate this process' share of the images; the main one writes ``results.json``."""
    name = "shared"
    if name not in DatasetCatalog.list():
        register_coco_panoptic(name, *paths)
    records, rng = DatasetCatalog.get(name), np.random.default_rng(0)
    outputs = [
        {
            **imperfect_instances(record, rng, [0, 2]),
            **panoptic_truth(record),
            **semantic_output(np.roll(label_truth(record, 3), 3, 0) % 3, 3),
        }
        for record in records
    ]
    kinds = (PanopticEvaluator, InstanceEvaluator, SemanticEvaluator)
    evaluator = DatasetEvaluators([E(name, folder) for E in kinds])
    share = slice(comm.get_rank(), None, comm.get_world_size())
    results = evaluate(evaluator, records[share], outputs[share])
    if comm.is_main_process():
        with open(f"{folder}/results.json", "w") as f:
            json.dump(results, f)
    else:
        assert not results
    leave_group()


def test_two_processes_report_what_one_does(pottery, tmp_path):
    pottery.add_ordinary(3)
    register(pottery)
    paths = [str(path) for path in (pottery.images, pottery.pngs, pottery.json_file)]
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launch(report, processes, dist_url="auto", args=(paths, str(folder)))
        results.append(json.loads((folder / "results.json").read_text()))
    assert 1 < results[0]["segm"]["AP"] < 99 and 1 < results[0]["sem_seg"]["mIoU"] < 99
    assert results[0]["panoptic_seg"]["PQ"] == 100
    assert str(results[0]) == str(results[1])  # NaN included
