#!/usr/bin/env python
"""Learning check: can a small K-Net learn a few real COCO images by heart?

    DETECTRON2_DATASETS=/path/to/datasets python projects/KNet/tools/check_overfit.py

Trains on a few images of a panoptic data set and evaluates on the same. A model, loss or matcher
with a fault does not reach a high PQ here; exit status 1 says that this one did not. The images are
those whose smallest segment is largest, since they are learned at a reduced size.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from detectron2.data import MetadataCatalog

from knet.data.datasets.coco_panoptic import read_panoptic_json, register_coco_panoptic
from knet.encoding import write_any_text
from knet.engine.main import load_config, prepare, run, setup_logging
from knet.errors import DatasetError, UsageError
from knet.files import refuse_overwriting

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "demo" / "knet_panoptic_overfit.yaml"


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--min-pq", type=float, default=80.0, help="PQ to reach, in percent")
    parser.add_argument("--num-gpus", type=int, default=0)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    return parser.parse_args(argv)


def register_few(source: str, count: int, folder: str) -> str:
    """Register the images of a panoptic data set whose smallest segment is largest.

    Returns:
        the name under which these ``count`` images are registered.
    """
    metadata = MetadataCatalog.get(source)
    content = read_panoptic_json(metadata.panoptic_json)
    by_detail = sorted(
        (a for a in content["annotations"] if a["segments_info"]),
        key=lambda a: -min(s["area"] for s in a["segments_info"]),
    )
    content["annotations"] = by_detail[:count]
    ids = {a["image_id"] for a in content["annotations"]}
    content["images"] = [i for i in content["images"] if i["id"] in ids]
    refuse_overwriting(folder, ["panoptic.json"], [metadata.panoptic_json], change="OUTPUT_DIR")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "panoptic.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(content, f)
    name = f"{source}_{count}"
    register_coco_panoptic(name, metadata.image_root, metadata.panoptic_root, path)
    return name


def main(argv=None) -> int:
    args = parse_args(argv)
    write_any_text()
    args.eval_only, args.resume = False, False
    try:
        cfg = load_config(args.config_file, args.opts)
        setup_logging(cfg)
        prepare(cfg, args.num_gpus)
        name = register_few(cfg.DATASETS.TRAIN[0], args.num_images, cfg.OUTPUT_DIR)
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
        pq = run(cfg, args)["panoptic_seg"]["PQ"]
    except (UsageError, DatasetError) as error:
        print(f"check_overfit.py: {error}", file=sys.stderr)
        return 2
    print(f"PQ {pq:.1f} on the {args.num_images} images trained on ({args.min_pq:.0f} wanted)")
    return 0 if pq >= args.min_pq else 1


if __name__ == "__main__":
    sys.exit(main())
