"""All shards as COCO's files, one image at a time."""

import os
from pathlib import Path
from typing import Dict, Iterable, Iterator

import numpy as np
import pyarrow.parquet as pq
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as mask_utils

from ..errors import UsageError
from ..files import output_names, replacing
from ..results.coco import images_and_categories
from ..results.json_files import write_list, write_object
from .folder import CollectionFolder

__all__ = ["join_shards"]

_SEGMENT_KEYS = ("id", "category_id", "isthing", "area", "bbox", "score")
_FAST_PNG = {"compress_level": 1}  # twice the default's speed for some more bytes


def join_shards(folder: str) -> Path:
    """Write what the shards hold as COCO's files; each image is in the memory alone.

    - panoptic: ``panoptic.json`` and ``panoptic/<image>.png``;
    - instance: ``instances.json``, the list of results, and ``images.json``, which image is which;
    - semantic: ``labels/<image>.png``, each pixel's class by the data set's ids, grey of 8 or 16
      bit, 255 or 65535 where there is none.

    Args:
        folder: of a collection all of whose shards are done.

    Returns:
        the folder ``coco`` in it.

    Raises:
        UsageError: shards are missing.
    """
    collection = CollectionFolder(folder)
    missing = len(collection.unfinished())
    if missing:
        raise UsageError(
            f"{missing} of {collection.num_shards} shards in {folder} are not done: predict on "
            "them first"
        )
    target = collection.path / "coco"
    joined = _Joined(collection, target)
    if "panoptic" in collection.kinds:
        lists = {**joined.header(), "annotations": joined.panoptic()}
        with replacing(target / "panoptic.json") as path:
            write_object(path, lists)
    if "instance" in collection.kinds:
        with replacing(target / "images.json") as path:
            write_object(path, joined.header())
        with replacing(target / "instances.json") as path:
            write_list(path, joined.instances())
    if "semantic" in collection.kinds:
        joined.write_labels()
    return target


class _Joined:
    """Images, annotations and PNGs, shard after shard."""

    def __init__(self, collection: CollectionFolder, target: Path):
        self.collection = collection
        self.target = target
        paths = collection.all_images()["image"].to_pylist()
        self.png_names = dict(zip(paths, output_names(paths, ".png")))
        self.root = os.path.commonpath([os.path.dirname(path) for path in paths])

    def header(self) -> Dict[str, Iterable[Dict]]:
        """The lists of a COCO json that say what ids are."""
        images = (
            (
                row["image_id"],
                os.path.relpath(row["image"], self.root).replace(os.sep, "/"),
                row["height"],
                row["width"],
            )
            for row in self._rows()
        )
        return images_and_categories(images, self.collection.classes)

    def panoptic(self) -> Iterator[Dict]:
        """Annotations, as COCO has them; writes each one's PNG."""
        for row in self._rows("panoptic"):
            ids = np.zeros((row["height"], row["width"]), np.int32)
            infos = []
            for segment in row["panoptic"]:
                ids[_mask(row, segment)] = segment["id"]
                infos.append({**{key: segment[key] for key in _SEGMENT_KEYS}, "iscrowd": 0})
            name = self.png_names[row["image"]]
            self._write_png(f"panoptic/{name}", id2rgb(ids))
            yield {"image_id": row["image_id"], "file_name": name, "segments_info": infos}

    def instances(self) -> Iterator[Dict]:
        """Results, as COCO's server takes them."""
        for row in self._rows("instance"):
            for instance in row["instance"]:
                yield {
                    "image_id": row["image_id"],
                    "category_id": instance["category_id"],
                    "segmentation": {
                        "size": [row["height"], row["width"]],
                        "counts": instance["counts"],
                    },
                    "bbox": instance["bbox"],
                    "score": instance["score"],
                }

    def write_labels(self) -> None:
        """The label maps."""
        largest = max(c.dataset_id for c in self.collection.classes)
        dtype = np.uint8 if largest <= 254 else np.uint16
        for row in self._rows("semantic"):
            labels = np.full((row["height"], row["width"]), np.iinfo(dtype).max, dtype)
            for region in row["semantic"]:
                labels[_mask(row, region)] = region["category_id"]
            self._write_png(f"labels/{self.png_names[row['image']]}", labels)

    def _rows(self, *kinds: str) -> Iterator[Dict]:
        columns = ["image_id", "image", "height", "width", *kinds]
        for shard in range(self.collection.num_shards):
            file = pq.ParquetFile(self.collection.shard_file(shard))
            for batch in file.iter_batches(batch_size=1, columns=columns):
                yield from batch.to_pylist()

    def _write_png(self, name: str, pixels: np.ndarray) -> None:
        path = self.target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **_FAST_PNG)


def _mask(row: Dict, region: Dict) -> np.ndarray:
    """(H, W) bool."""
    rle = {"size": [row["height"], row["width"]], "counts": region["counts"]}
    return mask_utils.decode(rle).astype(bool)
