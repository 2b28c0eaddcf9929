#!/usr/bin/env python
"""Time of an evaluation without the network: in memory, and by COCO's and Detectron2's own tools.

    python projects/KNet/tools/benchmark_evaluation.py --images 1000

Made-up images in COCO's classes, and made-up outputs near their truth: a panoptic map, instances
and class scores, as K-Net gives them. Each output goes both ways in turn; the time is that of
``process`` and of ``evaluate`` on the clock. What they report must be equal, else the program
fails. What stands behind ``--`` is changed in the config of the way in memory.
"""

import argparse
import contextlib
import copy
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections import defaultdict
from typing import Dict, Iterator, List, Tuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.structures import Boxes, Instances
from panopticapi.utils import id2rgb
from PIL import Image

from knet import add_knet_config
from knet.data import register_coco_panoptic
from knet.evaluation import build_evaluator
from knet.modeling.inference import masks_to_boxes

NAME = "made-up"
KINDS = ("PANOPTIC", "INSTANCE", "SEMANTIC")
NUM_STUFF, NUM_THINGS, NUM_INSTANCES = 6, 8, 100  # of each image; of each output
WAYS = ("in memory", "official")


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    args.opts = words[cut + 1 :]
    return args


# ----------------------------------------------------------------------------------------- truth


def made_up_ids(rng: np.random.Generator, size: Tuple[int, int]) -> np.ndarray:
    """(H, W) of ids from 1: areas of stuff with ragged borders, things on them."""

    def field() -> np.ndarray:
        rough = rng.normal(size=(5, 7)).astype(np.float32)
        fine = rng.normal(size=(60, 80)).astype(np.float32)
        height_width = size[::-1]
        smooth = cv2.resize(rough, height_width, interpolation=cv2.INTER_CUBIC)
        return smooth + 0.15 * cv2.resize(fine, height_width, interpolation=cv2.INTER_CUBIC)

    ids = np.argmax([field() for _ in range(NUM_STUFF)], axis=0) + 1
    rows, columns = np.indices(size)
    for i in range(NUM_THINGS):
        y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        radius = rng.uniform(0.03, 0.2) * size[0]
        distance = np.hypot(rows - y, (columns - x) * rng.uniform(0.5, 2))
        ids[distance < radius * (1 + 0.2 * field())] = NUM_STUFF + 1 + i
    return ids


def write_data(folder: str, images: int, size: Tuple[int, int]) -> None:
    """Panoptic ground truth in COCO's format, registered."""
    rng = np.random.default_rng(0)
    categories = [{k: c[k] for k in ("id", "name", "isthing")} for c in COCO_CATEGORIES]
    of_kind = [[c["id"] for c in categories if c["isthing"] == i] for i in (0, 1)]
    entries, annotations = [], []
    os.makedirs(os.path.join(folder, "pngs"))
    Image.new("RGB", size[::-1]).save(os.path.join(folder, "image.png"))
    for number in range(1, images + 1):
        ids, segments = made_up_ids(rng, size), []
        for i, area in zip(*np.unique(ids, return_counts=True)):
            segment = {"id": int(i), "area": int(area), "iscrowd": int(rng.random() < 0.03)}
            category = rng.choice(of_kind[int(i > NUM_STUFF)])
            segments.append({**segment, "category_id": int(category)})
        png = f"{number:06}.png"
        Image.fromarray(id2rgb(ids)).save(os.path.join(folder, "pngs", png))
        entry = {"id": number, "file_name": f"{number:06}.jpg"}
        entries.append({**entry, "height": size[0], "width": size[1]})
        annotations.append({"image_id": number, "file_name": png, "segments_info": segments})
        os.symlink("image.png", os.path.join(folder, entry["file_name"]))
    content = {"images": entries, "annotations": annotations, "categories": categories}
    json_file = os.path.join(folder, "panoptic.json")
    with open(json_file, "w") as f:
        json.dump(content, f)
    register_coco_panoptic(NAME, folder, os.path.join(folder, "pngs"), json_file)


# ---------------------------------------------------------------------------------------- outputs


def made_up_outputs(records: List[Dict], num_classes: int) -> Iterator[Dict]:
    """For each image what a model might say: the truth, moved, with errors."""
    rng = np.random.default_rng(1)
    height, width = records[0]["height"], records[0]["width"]
    noise = torch.rand(num_classes, height, width, generator=torch.Generator().manual_seed(0))
    for record in records:
        png = np.asarray(Image.open(record["pan_seg_file_name"]))
        ids = np.roll(png[..., 0].astype(np.int32), tuple(rng.integers(-4, 5, 2)), (0, 1))
        segments = [{**s} for s in record["segments_info"] if rng.random() < 0.9]
        for segment in segments:
            if rng.random() < 0.2:  # of another class of its kind
                others = [s for s in records[0]["segments_info"] if s["isthing"]]
                if segment["isthing"] and others:
                    segment["category_id"] = others[rng.integers(len(others))]["category_id"]
        segments = [s for s in segments if (ids == s["id"]).any()]
        ids[~np.isin(ids, [s["id"] for s in segments])] = 0
        keys = ("id", "category_id", "isthing")
        yield {
            "panoptic_seg": (torch.from_numpy(ids), [{k: s[k] for k in keys} for s in segments]),
            "instances": _instances(rng, png[..., 0], record["segments_info"]),
            "sem_seg": _scores(noise, ids, segments),
        }


def _instances(rng: np.random.Generator, ids: np.ndarray, segments: List[Dict]) -> Instances:
    things = [s for s in segments if s["isthing"]]
    instances = Instances(ids.shape)
    masks = np.empty((NUM_INSTANCES, *ids.shape), bool)
    classes = []
    for mask in masks:
        segment = segments[rng.integers(len(segments))]
        shift = tuple(rng.integers(-6, 7, 2))
        mask[:] = np.roll(ids == segment["id"], shift, (0, 1))
        if not segment["isthing"] or rng.random() < 0.3:
            segment = things[rng.integers(len(things))]
        classes.append(segment["category_id"])
    instances.pred_masks = torch.from_numpy(masks)
    instances.pred_boxes = Boxes(masks_to_boxes(instances.pred_masks))
    instances.scores = torch.from_numpy(rng.random(NUM_INSTANCES).astype(np.float32))
    instances.pred_classes = torch.tensor(classes)
    return instances


def _scores(noise: torch.Tensor, ids: np.ndarray, segments: List[Dict]) -> torch.Tensor:
    scores, class_of_id = noise.clone(), np.zeros(ids.max() + 1, np.int64)
    for segment in segments:
        class_of_id[segment["id"]] = segment["category_id"]
    scores.scatter_(0, torch.from_numpy(class_of_id[ids])[None], 2.0)
    return scores


# --------------------------------------------------------------------------------------- measuring


def config_of(opts: List[str], kind: str, folder: str) -> CfgNode:
    cfg = get_cfg()
    add_knet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "KNet"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.OUTPUT_DIR = folder
    cfg.merge_from_list([x for k in KINDS for x in (f"MODEL.KNET.TEST.{k}_ON", k == kind)])
    cfg.merge_from_list(opts)
    return cfg


def measure(args: argparse.Namespace, folder: str) -> Dict[str, Dict[str, List[float]]]:
    """{kind: {way: [seconds of process, of evaluate]}}

    Raises:
        AssertionError: the two ways report different figures.
    """
    options = dict(
        zip(WAYS, (args.opts, ["TEST.OFFICIAL_TOOLS", True, "TEST.KEEP_PANOPTIC", True]))
    )
    evaluators = {
        (kind, way): build_evaluator(
            config_of(opts, kind, os.path.join(folder, way.replace(" ", "_"), kind)), NAME
        )
        for kind in args.kinds
        for way, opts in options.items()
    }
    spent, results = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0])), defaultdict(list)
    records = DatasetCatalog.get(NAME)
    for evaluator in evaluators.values():
        evaluator.reset()
    for record, output in zip(records, made_up_outputs(records, len(COCO_CATEGORIES))):
        for (kind, way), evaluator in evaluators.items():
            own = {**output, "panoptic_seg": copy.deepcopy(output["panoptic_seg"])}
            start = time.perf_counter()
            evaluator.process([record], [own])
            spent[kind][way][0] += time.perf_counter() - start
    for (kind, way), evaluator in evaluators.items():
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            results[kind].append(repr(evaluator.evaluate()))
        spent[kind][way][1] += time.perf_counter() - start
    for kind, (ours, theirs) in results.items():
        assert ours == theirs, f"{kind}: the two ways report different figures"
    return spent


def table(spent: Dict[str, Dict[str, List[float]]], images: int) -> str:
    """Milliseconds an image, as Markdown."""
    lines = [
        "| ms an image | " + " | ".join(f"{w}: process | evaluate" for w in WAYS) + " | ratio |"
    ]
    lines.append("|---" * (2 * len(WAYS) + 2) + "|")
    rows = {**spent, "all": {w: np.sum([s[w] for s in spent.values()], axis=0) for w in WAYS}}
    for kind, by_way in rows.items():
        cells = [f"{1000 * part / images:.1f}" for way in WAYS for part in by_way[way]]
        ratio = sum(by_way[WAYS[0]]) / sum(by_way[WAYS[1]])
        lines.append(" | ".join([f"| {kind.lower()}", *cells, f"{ratio:.3f}"]) + " |")
    return "\n".join(lines)


def main(argv=None) -> int:
    args = parse_args(argv)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder, args.images, tuple(args.size))
        print(table(measure(args, folder), args.images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
