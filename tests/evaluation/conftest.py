"""What the evaluators' tests share: ground truth in the form of a model's output."""

import copy
from typing import Dict, List, Sequence

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from panopticapi.utils import rgb2id
from PIL import Image

from knet.data import register_coco_panoptic
from knet.modeling.inference import masks_to_boxes


def register(folder) -> str:
    """Write a `PanopticFolder` and register it; returns its name."""
    folder.write()
    register_coco_panoptic(folder.name, str(folder.images), str(folder.pngs), str(folder.json_file))
    return folder.name


def evaluate(evaluator: DatasetEvaluator, records: Sequence[Dict], outputs: Sequence[Dict]) -> Dict:
    """The results of outputs that stay as they are (Detectron2 changes what it gets)."""
    evaluator.reset()
    for record, output in zip(records, outputs):
        evaluator.process([record], [copy.deepcopy(output)])
    return evaluator.evaluate()


def panoptic_truth(record: Dict) -> Dict:
    """The ground truth of a record as ``panoptic_seg``."""
    ids = rgb2id(np.asarray(Image.open(record["pan_seg_file_name"])))
    keys = ("id", "category_id", "isthing")
    segments = [{k: s[k] for k in keys} for s in record["segments_info"]]
    return {"panoptic_seg": (torch.from_numpy(ids), segments)}


def make_instances(masks: List[np.ndarray], classes: List[int], scores: List[float], size):
    """``instances`` as K-Net gives them."""
    instances = Instances(size)
    stacked = np.stack(masks) if masks else np.zeros((0, *size), bool)
    instances.pred_masks = torch.from_numpy(stacked.astype(bool))
    instances.pred_boxes = Boxes(masks_to_boxes(instances.pred_masks))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.long)
    return {"instances": instances}


def instance_truth(record: Dict) -> Dict:
    """The things of a panoptic record that are no crowd as ``instances``, with the score 1."""
    ids, _ = panoptic_truth(record)["panoptic_seg"]
    things = [s for s in record["segments_info"] if s["isthing"] and not s.get("iscrowd")]
    masks = [(ids == s["id"]).numpy() for s in things]
    return make_instances(
        masks, [s["category_id"] for s in things], [1.0] * len(things), tuple(ids.shape)
    )


def label_truth(record: Dict, num_ids: int) -> np.ndarray:
    """(H, W) contiguous class of each pixel of a panoptic record, ``num_ids`` for none."""
    ids, _ = panoptic_truth(record)["panoptic_seg"]
    labels = np.full(ids.shape, num_ids)
    for segment in record["segments_info"]:
        if not segment.get("iscrowd"):
            labels[(ids == segment["id"]).numpy()] = segment["category_id"]
    return labels


def semantic_output(labels: np.ndarray, num_ids: int) -> Dict:
    """``sem_seg`` that predicts these labels (0 where a label is none)."""
    labels = torch.from_numpy(np.where(labels < num_ids, labels, 0).astype(np.int64))
    scores = torch.zeros(num_ids, *labels.shape, dtype=torch.uint8)
    return {"sem_seg": scores.scatter_(0, labels[None], 1)}


def imperfect_instances(record: Dict, rng, classes: Sequence[int]) -> Dict:
    """The true objects, moved, lost, doubled, of another class; with random scores."""
    instances = instance_truth(record)["instances"]
    masks, labels = [], []
    for mask, label in zip(instances.pred_masks.numpy(), instances.pred_classes.tolist()):
        for _ in range(rng.integers(0, 3)):
            shift = tuple(int(s) for s in rng.integers(-3, 4, 2))
            masks.append(np.roll(mask, shift, (0, 1)))
            labels.append(label if rng.random() < 0.7 else int(rng.choice(classes)))
    return make_instances(masks, labels, rng.random(len(masks)).tolist(), instances.image_size)


@pytest.fixture
def gappy(pottery) -> str:
    """The name of a panoptic data set whose contiguous ids have gaps: cup 5, plate 0, wall 2."""
    name = register(pottery)
    renumbered = {0: 5, 2: 0, 1: 2}
    source = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)

    def load() -> List[Dict]:
        dicts = copy.deepcopy(source)
        for segment in (s for d in dicts for s in d["segments_info"]):
            segment["category_id"] = renumbered[segment["category_id"]]
        return dicts

    names = ["plate", "(no class)", "wall", "(no class)", "(no class)", "cup"]
    things, stuff = (
        {k: renumbered[i] for k, i in metadata.get(f"{kind}_dataset_id_to_contiguous_id").items()}
        for kind in ("thing", "stuff")
    )
    DatasetCatalog.register("gappy", load)
    MetadataCatalog.get("gappy").set(
        panoptic_json=metadata.panoptic_json,
        panoptic_root=metadata.panoptic_root,
        evaluator_type="coco_panoptic_seg",
        thing_classes=names,
        stuff_classes=names,
        thing_dataset_id_to_contiguous_id=things,
        stuff_dataset_id_to_contiguous_id=stuff,
    )
    return "gappy"
