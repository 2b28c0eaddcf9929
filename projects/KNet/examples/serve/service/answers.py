"""Results of the network -> what a client gets, as json or as a PNG."""

import base64
import io
from typing import Dict, List, Sequence, Tuple

import numpy as np
from PIL import Image

KINDS = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "class_map"}
NO_CLASS = 65535


class Answers:
    """For one kind of results; class ids are those of the data set."""

    def __init__(self, kind: str, classes: Sequence[Dict], score_threshold: float):
        """
        Args:
            kind: a key of ``KINDS``.
            classes: of the model.
            score_threshold: of instances.
        """
        self.kind = kind
        self._classes = {each["id"]: each for each in classes}
        self._score_threshold = score_threshold
        self._dataset_ids = np.full(max(self._classes) + 1, NO_CLASS, np.int64)
        for each in classes:
            self._dataset_ids[each["id"]] = each["dataset_id"]

    def to_json(self, result: Dict) -> Dict:
        """``{"kind", "width", "height", "segments", "png"}``, see README.md."""
        if self.kind == "instance":
            return self._instances(result["instances"])
        if self.kind == "panoptic":
            ids, segments = result["panoptic_seg"]
            listed = self._segments(ids, segments)
        else:
            ids = result["class_map"]
            listed = self._areas(ids)
        height, width = ids.shape
        png = base64.b64encode(self.to_png(result)).decode()
        head = {"kind": self.kind, "width": width, "height": height}
        return {**head, "segments": listed, "png": png}

    def to_png(self, result: Dict) -> bytes:
        """Panoptic: segment ids in COCO's colours; semantic: the data set's class ids, 16 bit."""
        if self.kind == "panoptic":
            ids = result["panoptic_seg"][0]
            pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        else:
            pixels = self._dataset_ids[result["class_map"]].astype(np.uint16)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def _segments(self, ids: np.ndarray, segments: Sequence[Dict]) -> List[Dict]:
        boxes = _boxes(ids, [each["id"] for each in segments])
        return [
            {
                "id": each["id"],
                **self._class(each["category_id"]),
                "score": round(each["score"], 5),
                "area": each["area"],
                "bbox": box,
            }
            for each, box in zip(segments, boxes)
        ]

    def _areas(self, class_map: np.ndarray) -> List[Dict]:
        present, areas = np.unique(class_map, return_counts=True)
        boxes = _boxes(class_map, present.tolist())
        return [
            {**self._class(each), "area": area, "bbox": box}
            for each, area, box in zip(present.tolist(), areas.tolist(), boxes)
        ]

    def _instances(self, instances: Dict) -> Dict:
        masks, listed = instances["masks"], []
        for i in np.flatnonzero(instances["scores"] >= self._score_threshold).tolist():
            x0, y0, x1, y1 = (int(side) for side in instances["boxes"][i])
            listed.append(
                {
                    "id": len(listed) + 1,
                    **self._class(int(instances["classes"][i])),
                    "score": round(float(instances["scores"][i]), 5),
                    "area": int(masks[i].sum()),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": run_lengths(masks[i]),
                }
            )
        height, width = masks.shape[1:]
        return {"kind": self.kind, "width": width, "height": height, "segments": listed}

    def _class(self, class_id: int) -> Dict:
        its_class = self._classes[class_id]
        return {
            "category_id": its_class["dataset_id"],
            "category": its_class["name"],
            "isthing": bool(its_class["isthing"]),
        }


def run_lengths(mask: np.ndarray) -> Dict:
    """COCO's uncompressed RLE of a mask (H, W): runs of 0 and 1 in turn, column by column."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _boxes(ids: np.ndarray, wanted: Sequence[int]) -> List[Tuple[int, int, int, int]]:
    """COCO's boxes (x, y, width, height) of the pixels with each id."""
    boxes = []
    for each in wanted:
        rows, columns = (np.flatnonzero((ids == each).any(axis)) for axis in (1, 0))
        if len(rows) == 0:
            boxes.append((0, 0, 0, 0))
            continue
        x, y = int(columns[0]), int(rows[0])
        boxes.append((x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y))
    return boxes
