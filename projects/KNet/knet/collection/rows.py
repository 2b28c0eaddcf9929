"""A result as a row of a table: small, since every mask is COCO's RLE.

Shape shorthand: H x W an image's size.
"""

from typing import Dict, List, Sequence

import numpy as np
import pyarrow as pa
from pycocotools import mask as mask_utils

from ..data.classes import ModelClass
from ..results.coco import instance_annotations, kernels_of, label_map

__all__ = ["FAILURE_SCHEMA", "result_row", "row_schema"]

# The "counts" of COCO's compressed RLE; its "size" is the row's [height, width]
_REGION = [
    ("category_id", pa.int64()),  # the data set's
    ("category_name", pa.string()),
    ("area", pa.int64()),  # pixels
    ("bbox", pa.list_(pa.int32())),  # x, y, width, height
    ("counts", pa.string()),
]
_SCORED = [("score", pa.float64()), ("kernel", pa.int32())]
_COLUMNS = {
    "panoptic": [("id", pa.int64()), ("isthing", pa.bool_()), *_REGION, *_SCORED],
    "instance": [*_REGION, *_SCORED],
    "semantic": _REGION,
}
_IMAGE = [("image_id", pa.int64()), ("image", pa.string())]

FAILURE_SCHEMA = pa.schema([*_IMAGE, ("reason", pa.string())])


def row_schema(kinds: Sequence[str]) -> pa.Schema:
    """Of a shard's rows: the image, its size, and a column a kind: what is in the image.

    ``panoptic`` lists segments, ``instance`` instances by falling score, ``semantic`` the classes
    that occur; pixels that no segment or class has are void.
    """
    regions = [(kind, pa.list_(pa.struct(_COLUMNS[kind]))) for kind in kinds]
    return pa.schema([*_IMAGE, ("height", pa.int32()), ("width", pa.int32()), *regions])


def result_row(
    result: Dict, classes: Sequence[ModelClass], kinds: Sequence[str], score_threshold: float
) -> Dict:
    """The columns of ``kinds`` of :func:`row_schema`.

    Args:
        result: of one image, Detectron2's.
        classes: the model's.
        kinds: "panoptic", "instance", "semantic".
        score_threshold: instances below it are left out.
    """
    row = {}
    if "panoptic" in kinds:
        row["panoptic"] = _segments(result, {c.id: c for c in classes})
    if "instance" in kinds:
        row["instance"] = _instances(result, classes, score_threshold)
    if "semantic" in kinds:
        row["semantic"] = _classes({"sem_seg": result["sem_seg"]}, classes)
    return row


def _segments(result: Dict, class_of: Dict[int, ModelClass]) -> List[Dict]:
    segments, infos = result["panoptic_seg"]
    # column by column, as RLE counts: a comparison keeps that order
    segments = np.asfortranarray(segments.cpu().numpy())
    rows = []
    for info in infos:
        mask = mask_utils.encode((segments == info["id"]).view(np.uint8))
        region = _region(class_of[info["category_id"]], mask)
        if region["area"]:  # COCO's tool refuses a segment without a pixel
            rows.append(
                {
                    "id": info["id"],
                    "isthing": info["isthing"],
                    "score": info["score"],
                    "kernel": info["kernel"],
                    **region,
                }
            )
    return rows


def _instances(result: Dict, classes: Sequence[ModelClass], score_threshold: float) -> List[Dict]:
    instances = result["instances"]
    instances = instances[instances.scores >= score_threshold]
    annotations = instance_annotations({"instances": instances}, classes, image_id=0)
    class_of = {c.dataset_id: c for c in classes if c.isthing}
    return [
        {
            **_region(class_of[annotation["category_id"]], annotation["segmentation"]),
            "score": annotation["score"],
            "kernel": kernel,
        }
        for annotation, kernel in zip(annotations, kernels_of(instances))
    ]


def _classes(result: Dict, classes: Sequence[ModelClass]) -> List[Dict]:
    labels = np.asfortranarray(label_map(result, classes))
    present = set(np.unique(labels).tolist())
    return [
        _region(c, mask_utils.encode((labels == c.dataset_id).view(np.uint8)))
        for c in sorted(classes, key=lambda c: c.dataset_id)
        if c.dataset_id in present
    ]


def _region(its_class: ModelClass, rle: Dict) -> Dict:
    counts = rle["counts"]
    return {
        "category_id": its_class.dataset_id,
        "category_name": its_class.name,
        "area": int(mask_utils.area(rle)),
        "bbox": mask_utils.toBbox(rle).astype(int).tolist(),
        "counts": counts if isinstance(counts, str) else counts.decode("ascii"),
    }
