#!/usr/bin/env python
"""Time of loading training images: what one worker of the loader does, by part.

    python projects/KNet/tools/benchmark_loading.py --images 60 configs/knet_panoptic.yaml

Maps images of ``DATASETS.TRAIN``, one after the other in this process, with the augmentations of
the config and the same random numbers each time. The time is that of computing. Behind the config
come keys that are changed in it.
"""

import argparse
import contextlib
import functools
import sys
import time
from collections import defaultdict
from typing import Dict
from unittest import mock

import cv2
import torch
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng

from knet.data import KNetDatasetMapper, dataset_mapper, ground_truth
from knet.data.datasets.custom import register_custom_datasets
from knet.data.training_images import load_training_sets
from knet.engine.main import load_config
from knet.errors import DatasetError, UsageError

# what is timed; none is called by another
PARTS = {
    "image read": (KNetDatasetMapper, "_read_image"),
    "ground truth read": (dataset_mapper, "read_ground_truth"),
    "image augmented": (T.AugmentationList, "__call__"),
    "panoptic masks and labels": (ground_truth, "split_rows"),
}


def measure(cfg, images: int) -> Dict[str, float]:
    """{part: seconds}, of ``images`` images together; "rest" and "all" too."""
    dicts = [d for _, of_set in load_training_sets(cfg) for d in of_set]
    mapper, spent = KNetDatasetMapper(cfg, is_train=True), defaultdict(float)
    seed_all_rng(0)
    for i in range(min(images, 10)):  # warm
        mapper(dicts[i % len(dicts)])

    def timed(part, function):
        @functools.wraps(function)
        def run(*args, **kwargs):
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.process_time() - start

        return run

    seed_all_rng(0)
    with contextlib.ExitStack() as stack:
        for part, (owner, name) in PARTS.items():
            stack.enter_context(mock.patch.object(owner, name, timed(part, getattr(owner, name))))
        start = time.process_time()
        for i in range(images):
            mapper(dicts[i % len(dicts)])
        whole = time.process_time() - start
    return {**{p: spent[p] for p in PARTS}, "rest": whole - sum(spent.values()), "all": whole}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config_file")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ...")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)  # as in a worker
    cv2.setNumThreads(0)
    try:
        if args.images < 1:
            raise UsageError(f"--images is {args.images}: give 1 or more")
        cfg = load_config(args.config_file, args.opts)
        register_custom_datasets(cfg)
        spent = measure(cfg, args.images)
    except (UsageError, DatasetError) as error:
        print(f"benchmark_loading.py: {error}", file=sys.stderr)
        return 1
    print("| part | ms an image |\n|---|---|")
    for part, seconds in spent.items():
        print(f"| {part} | {1000 * seconds / args.images:.2f} |")
    print(f"\n{args.images / spent['all']:.0f} images a second a worker")
    return 0


if __name__ == "__main__":
    sys.exit(main())
