"""Every figure of an evaluation in memory is that of the official tools, to the last digit."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from knet.data import register_coco_instances, register_coco_panoptic, register_semantic_folders
from knet.data.ground_truth import read_label_map
from knet.evaluation import InstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from knet.evaluation.coco_truth import objects_of
from tests.evaluation.conftest import (
    evaluate,
    imperfect_instances,
    label_truth,
    make_instances,
    panoptic_truth,
)

IMAGES, IMAGES_OF_COCO = 5, 2  # COCO's have scores of 133 classes
PANOPTIC = (PanopticEvaluator, InstanceEvaluator, SemanticEvaluator)


def moved(array, rng):
    return np.roll(array, tuple(rng.integers(-5, 6, 2)), (0, 1))


def panoptic_output(record, classes, rng):
    """The truth, moved, with a class wrong and a segment lost here and there."""
    ids, segments = panoptic_truth(record)["panoptic_seg"]
    ids = moved(ids.numpy(), rng)
    for segment in segments:
        if rng.random() < 0.2:
            alike = [s for s in segments if s["isthing"] == segment["isthing"]]
            segment["category_id"] = rng.choice(alike)["category_id"]
    segments = [s for s in segments if rng.random() < 0.9 and (ids == s["id"]).any()]
    ids[~np.isin(ids, [s["id"] for s in segments])] = 0
    things = {s["category_id"] for s in record["segments_info"] if s["isthing"]}
    return {
        "panoptic_seg": (torch.from_numpy(ids), segments),
        **imperfect_instances(record, rng, sorted(things)),
        **scores_near(label_truth(record, len(classes)), len(classes), rng),
    }


def instance_output(record, classes, rng):
    found = [(s["category_id"], moved(mask, rng)) for s, mask in objects_of(record)]
    size = (record["height"], record["width"])
    scores = rng.random(len(found)).round(1).tolist()  # some the same
    return make_instances([mask for _, mask in found], [c for c, _ in found], scores, size)


def semantic_output(record, classes, rng):
    return scores_near(read_label_map(record["sem_seg_file_name"]), len(classes), rng)


def scores_near(labels, num_classes, rng):
    """Scores of which the label's is among the highest."""
    height, width = labels.shape
    noise = rng.integers(0, 20, (num_classes, 32, 32)).astype(np.float32)
    scores = np.tile(noise, (1, height // 32 + 1, width // 32 + 1))[:, :height, :width]
    labels = np.where(labels < num_classes, labels, 0).astype(np.int64)
    np.put_along_axis(scores, moved(labels, rng)[None], 18, axis=0)
    return {"sem_seg": torch.from_numpy(scores)}


def register(kind, folder):
    """Register real data; returns their name, their evaluators, and what makes an output."""
    if kind in ("coco", "facade"):
        split = {"coco": "val2017", "facade": "val"}[kind]
        json_file = folder / f"annotations/panoptic_{split}.json"
        pngs = str(folder / f"panoptic_{split}")
        register_coco_panoptic(kind, str(folder / split), pngs, str(json_file))
        return PANOPTIC, panoptic_output
    if kind in ("coco instances", "nuclei"):
        split = "val" if kind == "nuclei" else "val2017"
        json_file = folder / f"annotations/instances_{split}.json"
        register_coco_instances(kind, str(folder / split), str(json_file))
        return (InstanceEvaluator,), instance_output
    labels = str(folder / "labels" / "val")
    names = [str(i) for i in range(11)]
    register_semantic_folders(kind, str(folder / "images" / "val"), labels, names)
    return (SemanticEvaluator,), semantic_output


@pytest.mark.parametrize("kind", ["coco", "facade", "coco instances", "nuclei", "camvid"])
def test_real_data(real_data, tmp_path, kind):
    evaluators, output_of = register(kind, real_data / kind.split()[0])
    compare(kind, evaluators, output_of, tmp_path)


def test_shapes(shapes, tmp_path):
    compare(shapes.val, PANOPTIC, panoptic_output, tmp_path)


def compare(name, evaluators, output_of, folder):
    metadata = MetadataCatalog.get(name).as_dict()
    records = DatasetCatalog.get(name)[: IMAGES_OF_COCO if name == "coco" else IMAGES]
    metadata.update(MetadataCatalog.get(name).as_dict())  # a loader may enter classes
    few, rng = f"{name} (few)", np.random.default_rng(0)
    DatasetCatalog.register(few, lambda: records)
    MetadataCatalog.get(few).set(**{k: v for k, v in metadata.items() if k != "name"})
    ids = {
        i
        for kind in ("thing", "stuff")
        for i in metadata.get(f"{kind}_dataset_id_to_contiguous_id", {}).values()
    }
    classes = sorted(ids) or list(range(len(metadata["stuff_classes"])))
    outputs = [output_of(record, classes, rng) for record in records]
    for evaluator in evaluators:
        ours, theirs = (
            evaluate(
                evaluator(
                    few, str(folder / f"{evaluator.__name__} {official}"), official_tool=official
                ),
                records,
                outputs,
            )
            for official in (False, True)
        )
        assert repr(ours) == repr(theirs)
        main = [task[key] for task in ours.values() for key in ("PQ", "AP", "mIoU") if key in task]
        assert main and all(0 < figure < 100 for figure in main)
