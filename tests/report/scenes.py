"""Made scenes for the report's tests: rectangles as segments, and the folder of a made run."""

import json
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from knet.engine.main import load_config
from knet.evaluation import (
    InstanceEvaluator,
    PanopticEvaluator,
    SemanticEvaluator,
    inference_folder,
)
from knet.visualization.segmentation import Segmentation
from tests.conftest import DEMO_CONFIG
from tests.evaluation.conftest import (
    evaluate,
    imperfect_instances,
    label_truth,
    panoptic_truth,
    semantic_output,
)

SIZE = (40, 60)
CUP, PLATE, WALL = 0, 1, 2
THINGS = (CUP, PLATE)

# class, (top, left, bottom, right), and what else is known of the segment
Part = Tuple[int, Tuple[int, int, int, int], Dict]


def part(category: int, *box: int, **more) -> Part:
    """A rectangle."""
    return category, box, more


def scene(*parts: Part, wall: bool = True, **kwargs) -> Segmentation:
    """Rectangles, later ones over earlier; what they leave is the wall."""
    ids = np.full(SIZE, 0)
    for i, (_, (top, left, bottom, right), _) in enumerate(parts, start=1):
        ids[top:bottom, left:right] = i
    masks = [ids == i for i in range(1, len(parts) + 1)]
    segments = [{"category_id": c, "isthing": c in THINGS, **more} for c, _, more in parts]
    if wall:
        masks.append(ids == 0)
        segments.append({"category_id": WALL, "isthing": False})
    return Segmentation.from_masks(masks, segments, SIZE)


def spoiled_panoptic(record: Dict, rng) -> Dict:
    """The true segments: moved, one cut in two, one lost, one of another class; with scores."""
    ids, segments = panoptic_truth(record)["panoptic_seg"]
    ids = np.roll(ids.numpy(), rng.integers(-4, 5, 2), (0, 1))
    things = [s for s in segments if s["isthing"]]
    classes = sorted({s["category_id"] for s in things})
    made: List[Dict] = []
    result = np.zeros_like(ids)
    for segment in segments:
        mask, category = ids == segment["id"], segment["category_id"]
        chance = rng.random() if segment["isthing"] else 1.0
        if chance < 0.15 or not mask.any():
            continue
        if chance < 0.35:
            category = int(rng.choice(classes))
        halves = [mask]
        if 0.35 < chance < 0.5:
            middle = int(np.nonzero(mask)[1].mean()) + 1
            halves = [mask & (np.arange(mask.shape[1]) < middle), mask]
        for half in halves[::-1]:
            if not (half & (result == 0)).any() and half is mask:
                continue
            result[half] = len(made) + 1
            made.append({"category_id": category, "isthing": segment["isthing"]})
    present = set(np.unique(result).tolist())
    made = [
        {"id": i, "score": float(rng.uniform(0.3, 1)), **s}
        for i, s in enumerate(made, start=1)
        if i in present
    ]
    return {"panoptic_seg": (torch.from_numpy(result.astype(np.int32)), made)}


def make_run(folder: Path, dataset: str, seed: int = 0, kinds: Sequence[str] = ()) -> Dict:
    """Write what an evaluation of a panoptic data set leaves; returns its results.

    Args:
        folder: OUTPUT_DIR.
        dataset: registered.
        seed: of the mistakes.
        kinds: of results; all unless given.
    """
    rng = np.random.default_rng(seed)
    records, inference = DatasetCatalog.get(dataset), inference_folder(str(folder), dataset)
    metadata = MetadataCatalog.get(dataset)
    num_ids = len(metadata.stuff_classes)
    things = sorted(metadata.thing_dataset_id_to_contiguous_id.values())
    labels = [label_truth(r, num_ids) for r in records]
    outputs = {
        "panoptic": [spoiled_panoptic(r, rng) for r in records],
        "instance": [imperfect_instances(r, rng, things) for r in records],
        "semantic": [semantic_output(np.roll(x, (3, 5), (0, 1)), num_ids) for x in labels],
    }
    evaluators = {
        "panoptic": PanopticEvaluator,
        "instance": InstanceEvaluator,
        "semantic": SemanticEvaluator,
    }
    results = {}
    for kind in kinds or outputs:
        results.update(evaluate(evaluators[kind](dataset, inference), records, outputs[kind]))
    cfg = load_config(DEMO_CONFIG, ["DATASETS.TEST", (dataset,), "OUTPUT_DIR", str(folder)])
    (folder / "config.yaml").write_text(cfg.dump())
    curve = [
        {"iteration": i, "total_loss": 9.0 / (i + 1), "loss_dice_0": 3.0 / (i + 1), "lr": 0.001}
        for i in range(19, 400, 20)
    ]
    curve.append({"iteration": 399, "panoptic_seg/PQ": 50.0, "val_total_loss": 2.0})
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in curve))
    return results
