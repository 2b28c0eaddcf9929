"""Learning check: can a small K-Net learn a few real COCO images by heart?

    DETECTRON2_DATASETS=/path/to/datasets knet check-overfit

Trains on a few images of a panoptic data set and evaluates on the same. A model, loss or matcher
with a fault does not reach a high PQ here; exit status 1 says that this one did not. The images are
those whose smallest segment is largest, since they are learned at a reduced size.
"""

import argparse
import json
import os
import sys

from detectron2.data import MetadataCatalog

from ..data.datasets.coco_panoptic import read_panoptic_json, register_coco_panoptic
from ..encoding import write_any_text
from ..engine.main import load_config, prepare, run, setup_logging
from ..errors import DatasetError, UsageError
from ..files import refuse_overwriting

CONFIG = "demo/knet_panoptic_overfit"


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=CONFIG)
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


def main(argv=None, program: str = "check_overfit.py") -> int:
    args = parse_args(argv, program)
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
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    print(f"PQ {pq:.1f} on the {args.num_images} images trained on ({args.min_pq:.0f} wanted)")
    return 0 if pq >= args.min_pq else 1
