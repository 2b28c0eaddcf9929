"""An exported K-Net without torch and Detectron2: images in, NumPy results out.

This file stands alone: it needs NumPy, and onnxruntime to run a model. Copy it beside the model
(the export does so) or import it as ``knet.export.knet_runtime``.

    predictor = OnnxPredictor("model.onnx")
    result = predictor([cv2.imread("street.jpg")])[0]
    segments, info = result["panoptic_seg"]

Shape shorthand: B images, N kernels (instance, then stuff), K classes (things, then stuff), h x w
the maps that the network makes, H x W the size of an image and its result.
"""

import functools
import json
import os
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

__all__ = ["RESULTS", "EnlargedMaps", "OnnxPredictor", "Results", "pad_images", "resize_image"]

RESULTS = ("panoptic_seg", "instances", "class_map", "sem_seg")
METADATA = "knet"  # where a model file keeps its description, as JSON

_SIDE = 32  # of a block, in pixels
_SLACK = 1e-5  # rounding may put a value so far outside of what it is made of


class OnnxPredictor:
    """Predicts on images of any size with an exported model; of several threads at a time.

    Attributes:
        settings: what the model file tells: ``task``, ``classes``, ``input``, ``test``, ...
        classes: dicts of ``id`` (of results), ``dataset_id``, ``name``, ``isthing``, ``color``.
        results: the results that are made.
    """

    def __init__(
        self,
        path: Union[str, os.PathLike],
        *,
        results: Optional[Sequence[str]] = None,
        batch_size: int = 8,
        threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        image_format: str = "BGR",
        **test: Any,
    ):
        """
        Args:
            path: the ``.onnx`` file.
            results: some of :data:`RESULTS`; by default all that the model was made for, and of
                ``sem_seg`` the smaller ``class_map``.
            batch_size: so many images at most go through the model together: those of one size
                after resizing, since padding would change results.
            threads: of one call, 0: as many as there are cores.
            providers: onnxruntime's, by falling preference.
            image_format: of the images, "BGR" as OpenCV reads them, or "RGB".
            test: other values than the model's ``settings["test"]``, e.g. ``score_threshold=0.5``.

        Raises:
            ValueError: no file of this kind, or results that the model cannot make.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if not os.path.isfile(path):
            raise ValueError(f"{path}: no such file")
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=list(providers)
            )
        except Exception as error:  # onnxruntime raises many kinds
            raise ValueError(f"{path} is no model that onnxruntime can load: {error}") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA not in metadata:
            raise ValueError(f"{path} is no model of K-Net's export: it does not tell its classes")
        self.settings: Dict = json.loads(metadata[METADATA])
        self.classes: List[Dict] = self.settings["classes"]
        if image_format not in ("BGR", "RGB"):
            raise ValueError(f"image_format is {image_format!r}: give 'BGR' or 'RGB'")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give 1 or more")
        self.image_format, self.batch_size = image_format, batch_size
        self._make = Results(self.settings, results, **test)
        self.results: Tuple[str, ...] = self._make.names

    def __call__(self, images: Sequence[np.ndarray]) -> List[Dict]:
        """
        Args:
            images: (H, W, 3) uint8 each, of any sizes.

        Returns:
            one dict an image, at its own size, of those results that are made:

            - ``panoptic_seg``: (H, W) int32 segment ids, 0 for void, and a list of dicts ``id``,
              ``isthing``, ``category_id``, ``category_name``, ``dataset_id``, ``score``, ``area``,
              ``kernel``;
            - ``instances``: dict of ``masks`` (n, H, W) bool, ``boxes`` (n, 4) float32 x0 y0 x1 y1,
              ``scores`` (n,), ``classes`` (n,), ``names`` (n,) and ``kernels`` (n,), by falling
              score;
            - ``class_map``: (H, W) int32, the class id of each pixel;
            - ``sem_seg``: (ids, H, W) float32, of each class id its scores (a semantic model's
              logits).

        Raises:
            ValueError: an image is no such array; the sentence begins with ``image i of n``.
        """
        inputs = []
        for i, image in enumerate(images, 1):
            try:
                inputs.append(self.prepare(image))
            except ValueError as error:
                raise ValueError(f"image {i} of {len(images)}: {error}") from error
        by_size: Dict[Tuple[int, ...], List[int]] = {}
        for i, each in enumerate(inputs):
            by_size.setdefault(each.shape, []).append(i)
        results: List[Dict] = [{}] * len(inputs)
        for members in by_size.values():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                made = self.predict(
                    [inputs[i] for i in batch], [images[i].shape[:2] for i in batch]
                )
                for i, result in zip(batch, made):
                    results[i] = result
        return results

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """An image -> in the model's channels and resized as the model was tested.

        Raises:
            ValueError: it is no (H, W, 3) uint8 array.
        """
        return prepare_image(image, self.settings["input"], self.image_format)

    def predict(self, inputs: Sequence[np.ndarray], sizes: Sequence[Tuple[int, int]]) -> List[Dict]:
        """One run of the network and the results.

        Args:
            inputs: of :meth:`prepare`; of several sizes, the smaller ones are padded.
            sizes: (H, W) of each result.
        """
        images, image_sizes = pad_images(inputs, self.settings["input"])
        names = self.settings["outputs"]
        outputs = self._session.run(names, {"images": images, "sizes": image_sizes})
        padded = images.shape[1:3]
        return [
            self._make(dict(zip(names, each)), padded, tuple(image_size), size)
            for *each, image_size, size in zip(*outputs, image_sizes.tolist(), sizes)
        ]


# -------------------------------------------------------------------------------------- images


def prepare_image(image: np.ndarray, settings: Dict, image_format: str = "BGR") -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, channels) in the model's format, resized as it was tested.

    Args:
        settings: ``input`` of the model's.

    Raises:
        ValueError: it is no such image.
    """
    shape = getattr(image, "shape", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or image.dtype != np.uint8:
        kind = f"{shape} {image.dtype}" if shape is not None else type(image).__name__
        raise ValueError(f"it is {kind}: give an (H, W, 3) uint8 array")
    if 0 in shape:
        raise ValueError(f"it is {shape}: it has no pixel")
    wanted = settings["format"]
    if wanted == "L":  # Pillow's, of ITU-R 601-2
        rgb = image if image_format == "RGB" else image[:, :, ::-1]
        luma = rgb.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        image = ((luma + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    elif wanted in ("RGB", "BGR") and wanted != image_format:
        image = image[:, :, ::-1]
    elif wanted not in ("RGB", "BGR"):
        raise ValueError(f"the model takes images of INPUT.FORMAT {wanted}: use predict()")
    height, width = _test_size(*image.shape[:2], settings["min_size"], settings["max_size"])
    return resize_image(image, height, width, settings["antialias"])


def _test_size(height: int, width: int, min_size: int, max_size: int) -> Tuple[int, int]:
    """Detectron2's ResizeShortestEdge."""
    if min_size == 0:
        return height, width
    scale = min_size / min(height, width)
    new = [scale * height, scale * width]
    new[0 if height <= width else 1] = min_size
    if max(new) > max_size:
        factor = max_size / max(new)
        new = [side * factor for side in new]
    height, width = (int(side + 0.5) for side in new)
    if 0 in (height, width):
        raise ValueError("it is too narrow: nothing of its short side is left after resizing")
    return height, width


def resize_image(image: np.ndarray, height: int, width: int, antialias: bool = False) -> np.ndarray:
    """(H, W, channels) uint8 -> (height, width, channels), as OpenCV does it (antialias: Pillow).

    Pillow itself is needed for the second.
    """
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    if antialias:
        from PIL import Image

        one = image.shape[2] == 1
        picture = Image.fromarray(np.ascontiguousarray(image[:, :, 0] if one else image))
        resized = np.asarray(picture.resize((width, height), Image.BILINEAR))
        return resized[:, :, None] if one else resized
    # OpenCV's integers: weights of 11 bits; of their products the lower ones are dropped
    (top, bottom, b0, b1), (left, right, a0, a1) = (
        _fixed_point(*sides) for sides in zip(image.shape, (height, width))
    )
    rows = np.union1d(top, bottom)
    image = image[rows].astype(np.int32)
    wide = image[:, left] * a0[:, None] + image[:, right] * a1[:, None]
    wide >>= 4
    top, bottom = np.searchsorted(rows, top), np.searchsorted(rows, bottom)
    b0, b1 = b0[:, None, None], b1[:, None, None]
    total = ((wide[top] * b0) >> 16) + ((wide[bottom] * b1) >> 16)
    return ((total + 2) >> 2).clip(0, 255).astype(np.uint8)


def _fixed_point(source: int, target: int) -> Tuple[np.ndarray, ...]:
    """Both source places of each target place and their weights x 2048."""
    scale = 1 / (target / source)  # rounded as OpenCV's
    place = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    part = place - first.astype(np.float32)
    weights = [np.rint(w * np.float32(2048)).astype(np.int32) for w in (1 - part, part)]
    return (*(np.clip(i, 0, source - 1) for i in (first, first + 1)), *weights)


def pad_images(inputs: Sequence[np.ndarray], settings: Dict) -> Tuple[np.ndarray, np.ndarray]:
    """Images -> the network's inputs ``images`` (B, H, W, channels) and ``sizes`` (B, 2) int64.

    Sides are padded to multiples of the model's ``divisibility`` and to its ``min_side``; the
    network knows by the sizes (height, width) what is image, whatever the padding holds.

    Args:
        inputs: (h, w, channels) each.
        settings: ``input`` of the model's.
    """
    sizes = np.array([each.shape[:2] for each in inputs], np.int64)
    divisor = settings["divisibility"]
    height, width = (
        -(-max(int(side), settings["min_side"]) // divisor) * divisor for side in sizes.max(0)
    )
    shape = (len(inputs), height, width, inputs[0].shape[2])
    if shape[1:] == inputs[0].shape and len(inputs) == 1:
        return np.ascontiguousarray(inputs[0][None], settings["dtype"]), sizes
    images = np.zeros(shape, settings["dtype"])
    for i, each in enumerate(inputs):
        images[i, : each.shape[0], : each.shape[1]] = each
    return images, sizes


# ------------------------------------------------------------------------------------- results


class Results:
    """The network's outputs of one image -> results at its size, equal to the model's own."""

    def __init__(self, settings: Dict, results: Optional[Sequence[str]] = None, **test: Any):
        """
        Args:
            settings: of the model.
            results, test: see :class:`OnnxPredictor`.

        Raises:
            ValueError: results or a value that the model does not have, or that has no effect.
        """
        self._class_of = {each["id"]: each for each in settings["classes"]}
        self._is_semantic = settings["task"] == "semantic"
        known = ("class_map", "sem_seg") if self._is_semantic else RESULTS
        if results is None:
            results = ["class_map" if name == "sem_seg" else name for name in settings["results"]]
        if not results or not set(results) <= set(known):
            raise ValueError(
                f"results are {list(results)}: a {settings['task']} model makes some of "
                f"{', '.join(known)}"
            )
        self.names: Tuple[str, ...] = tuple(name for name in RESULTS if name in results)
        self._test: Dict = dict(settings["test"])
        if "mask_quality" in self._test:  # models exported before do not tell the power
            self._test.setdefault("mask_quality_power", 1.0)
        if not set(test) <= set(self._test):
            unknown = sorted(set(test) - set(self._test))
            raise ValueError(f"{', '.join(unknown)}: known are {', '.join(self._test)}")
        self._test.update(test)
        if "mask_quality_power" in test and not self._test["mask_quality"]:
            raise ValueError(
                "mask_quality_power has no effect where mask_quality is False: give "
                "mask_quality=True too"
            )
        self._num_things = len(settings["thing_ids"])
        self._ids = np.array(settings["thing_ids"] + settings["stuff_ids"], np.int64)
        self._num_kernels: int = settings["num_kernels"]

    def __call__(
        self,
        outputs: Dict[str, np.ndarray],
        padded: Sequence[int],
        image: Sequence[int],
        size: Sequence[int],
    ) -> Dict:
        """
        Args:
            outputs: of one image: ``class_logits`` (N, K) and ``mask_logits`` (N, h, w), of a
                semantic model ``logits`` (K, h, w).
            padded, image, size: (height, width) of the padded input, of the input before padding,
                and of the result.

        Returns:
            see :meth:`OnnxPredictor.__call__`.
        """
        if self._is_semantic:
            maps = EnlargedMaps(outputs["logits"].astype(np.float32), padded, image, size)
            scores, labels = np.ones(len(maps), np.float32), np.arange(len(maps))
        else:
            class_scores = _sigmoid(outputs["class_logits"])
            logits = outputs["mask_logits"].astype(np.float32)
            if self._test.get("enlarge_logits"):  # models exported before do not tell
                maps = EnlargedLogits(logits, padded, image, size)
            else:
                maps = EnlargedMaps(_sigmoid(logits), padded, image, size)
            scores, labels = self._kernel_labels(class_scores)
        results: Dict = {}
        for name in self.names:
            if name == "panoptic_seg":
                results[name] = self._panoptic(maps, scores, labels)
            elif name == "instances":
                results[name] = self._instances(maps, class_scores)
            else:
                make = self._class_map if name == "class_map" else self._sem_seg
                results[name] = make(maps.scaled(scores), self._ids[labels])
        return results

    def _kernel_labels(self, class_scores: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Score and model class of each kernel (N,): the best thing class, or stuff's own."""
        things = class_scores[: self._num_kernels, : self._num_things]
        stuff = class_scores[self._num_kernels :, self._num_things :].diagonal()
        labels = np.arange(len(stuff)) + self._num_things
        return np.concatenate((things.max(1), stuff)), np.concatenate((things.argmax(1), labels))

    def _panoptic(
        self, masks: "EnlargedMaps", scores: np.ndarray, labels: np.ndarray
    ) -> Tuple[np.ndarray, List[Dict]]:
        is_thing = labels < self._num_things
        weak = is_thing & (scores < np.float32(self._test["score_threshold"]))
        winner, own = _give_pixels(
            masks,
            scores,
            is_thing,
            weak,
            np.float32(self._test["mask_threshold"]),
            self._test["things_first"],
        )
        won = np.bincount(winner.ravel(), minlength=len(scores))
        keep = (won > 0) & (own > 0) & ~weak
        keep &= won / np.maximum(own, 1) >= self._test["overlap_threshold"]
        order = np.argsort(-scores, kind="stable")
        kept = order[keep[order]]
        segment_ids = np.zeros(len(scores), np.int32)
        segment_ids[kept] = np.arange(1, len(kept) + 1)
        info = []
        for kernel in kept.tolist():
            its_class = self._class_of[int(self._ids[labels[kernel]])]
            info.append(
                {
                    "id": int(segment_ids[kernel]),
                    "isthing": bool(is_thing[kernel]),
                    "category_id": its_class["id"],
                    "category_name": its_class["name"],
                    "dataset_id": its_class["dataset_id"],
                    "score": float(scores[kernel]),
                    "area": int(won[kernel]),
                    "kernel": kernel,
                }
            )
        return segment_ids[winner], info

    def _instances(self, masks: "EnlargedMaps", class_scores: np.ndarray) -> Dict:
        """The best (kernel, class) pairs of the instance kernels; a mask may come twice."""
        threshold = np.float32(self._test["mask_threshold"])
        if self._test["mask_quality"]:
            quality = _mask_quality(masks, threshold) ** float(self._test["mask_quality_power"])
            class_scores = class_scores * quality[:, None]
        flat = class_scores[: self._num_kernels, : self._num_things].ravel()
        index = np.argsort(-flat, kind="stable")[: self._test["max_instances"]]
        kernels, labels = np.divmod(index, self._num_things)
        used, which = np.unique(kernels, return_inverse=True)
        binary = _binary_masks(masks[used], threshold)[which]
        classes = self._ids[labels]
        return {
            "masks": binary,
            "boxes": _boxes(binary),
            "scores": flat[index],
            "classes": classes,
            "names": np.array([self._class_of[i]["name"] for i in classes.tolist()], dtype=str),
            "kernels": kernels,
        }

    @staticmethod
    def _class_map(maps: "EnlargedMaps", ids: np.ndarray) -> np.ndarray:
        result = np.zeros(maps.size, np.int32)
        may_win = maps.highest >= maps.lowest.max(0) - _SLACK * np.abs(maps.lowest.max(0)).clip(1)
        order = np.argsort(ids, kind="stable")  # the lower id of two equal values
        maps, may_win, ids = maps[order], may_win[order], ids[order]
        for place, members in maps.places(may_win):
            if len(members) == 1:
                result[maps.area(place)] = ids[members[0]]
            else:
                result[maps.area(place)] = ids[members[maps.values(place, members).argmax(0)]]
        return result

    @staticmethod
    def _sem_seg(maps: "EnlargedMaps", ids: np.ndarray) -> np.ndarray:
        unlike_any = -np.inf if len(np.unique(ids)) == len(ids) == ids.max() + 1 else 0
        result = np.full((ids.max() + 1, *maps.size), unlike_any, np.float32)
        for place, members in maps.places(np.ones_like(maps.lowest, bool)):
            for i, value in zip(ids, maps.values(place, members)):
                its = result[(i, *maps.area(place))]
                np.maximum(its, value, out=its)
        return result


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits.astype(np.float32)))


def _give_pixels(
    masks: "EnlargedMaps",
    scores: np.ndarray,
    is_thing: np.ndarray,
    weak: np.ndarray,
    threshold: np.float32,
    things_first: bool,
) -> Tuple[np.ndarray, np.ndarray]:
    """The kernel of each pixel (H, W), and the area of each kernel that is not weak (N,)."""
    ahead, out = (is_thing & ~weak & things_first), weak & things_first

    def rank(values: np.ndarray, inside: np.ndarray, kernels: np.ndarray) -> np.ndarray:
        """Score x mask, 0..1, and 1 more for what things that go ahead have in their masks."""
        value = values * scores[kernels, None, None]
        if things_first:
            value = value + (ahead[kernels, None, None] & inside)
            value[out[kernels]] = -1
        return value

    full, crossing = masks.inside(threshold), masks.crossing(threshold)
    every = np.arange(len(scores))
    least = rank(masks.lowest, full, every).max(0)
    may_win = rank(masks.highest, full | crossing, every) >= least - np.float32(_SLACK)
    wanted = may_win | (crossing & ~weak[:, None, None])
    taken = (full & ahead[:, None, None]).any(0)  # whole blocks, by things that go ahead
    if things_first:  # what stuff has beside things
        wanted |= full & ~is_thing[:, None, None] & (crossing & ahead[:, None, None]).any(0)

    own = np.zeros(len(scores), np.int64)
    winner = np.zeros(masks.size, np.int64)
    for place, kernels in masks.places(wanted):
        if len(kernels) == 1 and not crossing[(kernels[0], *place)]:  # nothing to compute
            winner[masks.area(place)] = kernels[0]
            continue
        values = masks.values(place, kernels)
        inside = values >= threshold
        winner[masks.area(place)] = kernels[rank(values, inside, kernels).argmax(0)]
        if things_first:
            here = (ahead[kernels, None, None] & inside).any(0) | taken[place]
            inside &= is_thing[kernels, None, None] | ~here
        own[kernels] += inside.sum((1, 2))
        full[(kernels, *place)] = False  # counted
    full &= is_thing[:, None, None] | ~taken
    return winner, own + (full * masks.pixels).sum((1, 2))


def _mask_quality(masks: "EnlargedMaps", threshold: np.float32) -> np.ndarray:
    """Mean probability of each mask over the pixels above the threshold, 0 for an empty one."""
    full = masks.inside(threshold)
    total = masks.sums(full)
    count = (full * masks.pixels).sum((1, 2))
    for place, members in masks.places(masks.crossing(threshold)):
        values = masks.values(place, members)
        inside = values > threshold
        total[members] += (values * inside).sum((1, 2))
        count[members] += inside.sum((1, 2))
    return total / np.maximum(count, 1).astype(np.float32)


def _binary_masks(masks: "EnlargedMaps", threshold: np.float32) -> np.ndarray:
    """(N, H, W) bool, the pixels above the threshold."""
    result = np.zeros((len(masks), *masks.size), bool)
    full = masks.inside(threshold)
    for place, members in masks.places(full | masks.crossing(threshold)):
        above = full[(members, *place)][:, None, None]
        if not above.all():
            above = masks.values(place, members) > threshold
        result[(members, *masks.area(place))] = above
    return result


def _boxes(masks: np.ndarray) -> np.ndarray:
    """Tight boxes (N, 4) x0, y0, x1, y1, the far side exclusive; zeros for an empty mask."""
    sides = []
    for line in (masks.any(1), masks.any(2)):
        found = line.any(1)
        sides.append(
            (
                np.where(found, line.argmax(1), 0),
                np.where(found, line.shape[1] - line[:, ::-1].argmax(1), 0),
            )
        )
    (x0, x1), (y0, y1) = sides
    return np.stack((x0, y0, x1, y1), axis=1).astype(np.float32)


# ----------------------------------------------------------------------------------- enlarging


class EnlargedMaps:
    """Maps enlarged to the padded input, cut to the image, resized to the result, block by block.

    Bilinear enlarging makes nothing outside of the range of what a block is made of, so that most
    blocks of most maps need not be made.

    Attributes:
        size: (H, W).
        lowest, highest: (N, Ty, Tx), bounds of each block's values.
    """

    def __init__(
        self,
        maps: np.ndarray,
        padded: Sequence[int],
        image: Sequence[int],
        size: Sequence[int],
    ):
        """
        Args:
            maps: (N, h, w) of the padded input.
            padded, image, size: (height, width), see :class:`Results`.
        """
        self._maps = maps
        self.size = (int(size[0]), int(size[1]))
        self._y, self._x = (
            _side(*map(int, lengths)) for lengths in zip(maps.shape[1:], padded, image, size)
        )
        self.lowest, self.highest = (self._extremes(f) for f in (np.min, np.max))

    def _extremes(self, function) -> np.ndarray:
        rows = np.stack([function(self._maps[:, w], axis=1) for w in self._y.windows], axis=1)
        return np.stack([function(rows[:, :, w], axis=2) for w in self._x.windows], axis=2)

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, index: np.ndarray) -> "EnlargedMaps":
        """Some of the maps."""
        return self._like(*(x[index] for x in (self._maps, self.lowest, self.highest)))

    def scaled(self, factors: np.ndarray) -> "EnlargedMaps":
        """Times (N,) factors of 0 and more."""
        factors = factors[:, None, None]
        return self._like(*(x * factors for x in (self._maps, self.lowest, self.highest)))

    def _like(self, maps, lowest, highest) -> "EnlargedMaps":
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._maps, other.lowest, other.highest = maps, lowest, highest
        return other

    def inside(self, threshold: np.float32) -> np.ndarray:
        """(N, Ty, Tx) bool: surely all of a block is above the threshold."""
        return self.lowest > threshold + np.float32(_SLACK)

    def crossing(self, threshold: np.float32) -> np.ndarray:
        """(N, Ty, Tx) bool: a block may have pixels on both sides of the threshold."""
        return ~self.inside(threshold) & (self.highest >= threshold - np.float32(_SLACK))

    @property
    def pixels(self) -> np.ndarray:
        """(Ty, Tx) int64: the pixels of each block."""
        return np.multiply.outer(self._y.lengths, self._x.lengths)

    def sums(self, wanted: np.ndarray) -> np.ndarray:
        """(N, Ty, Tx) bool -> (N,): the sum over these blocks, of which no pixel is computed."""
        return (wanted * (self._y.totals @ (self._maps @ self._x.totals.T))).sum((1, 2))

    def places(self, wanted: np.ndarray) -> Iterator[Tuple[Tuple[int, int], np.ndarray]]:
        """Each (row, column) of blocks where a map is wanted, and those that are."""
        for row, column in zip(*np.nonzero(wanted.any(0))):
            yield (row, column), np.flatnonzero(wanted[:, row, column])

    def area(self, place: Tuple[int, int]) -> Tuple[slice, slice]:
        """The block's pixels in the result."""
        return self._y.pixels[place[0]], self._x.pixels[place[1]]

    def values(self, place: Tuple[int, int], members: np.ndarray) -> np.ndarray:
        """(members, rows, columns) of one block."""
        row, column = place
        window = self._maps[members, self._y.windows[row], self._x.windows[column]]
        return self._y.weights[row] @ (window @ self._x.weights[column].T)


class EnlargedLogits(EnlargedMaps):
    """Probabilities of which the logits are enlarged.

    Attributes:
        size, lowest, highest: those of the probabilities.
    """

    def __init__(self, logits: np.ndarray, *sizes: Sequence[int]):
        """
        Args:
            logits: (N, h, w) of the padded input.
            sizes: padded, image, size; see :class:`Results`.
        """
        super().__init__(logits, *sizes)
        self.lowest, self.highest = _sigmoid(self.lowest), _sigmoid(self.highest)
        self._factors = np.ones((len(logits), 1, 1), np.float32)

    def __getitem__(self, index: np.ndarray) -> "EnlargedLogits":
        other = super().__getitem__(index)
        other._factors = self._factors[index]
        return other

    def scaled(self, factors: np.ndarray) -> "EnlargedLogits":
        factors = factors[:, None, None]
        other = self._like(self._maps, self.lowest * factors, self.highest * factors)
        other._factors = self._factors * factors
        return other

    def sums(self, wanted: np.ndarray) -> np.ndarray:
        total = np.zeros(len(self), np.float32)
        for place, members in self.places(wanted):
            total[members] += self.values(place, members).sum((1, 2))
        return total

    def values(self, place: Tuple[int, int], members: np.ndarray) -> np.ndarray:
        return _sigmoid(super().values(place, members)) * self._factors[members]


class _Side:
    """Height or width: of which values each block is made, and how.

    Attributes:
        pixels, windows: slices of the result and of the map, one a block.
        weights: (pixels, values) of each block.
        totals: (blocks, source), the sum of a block's weights.
        lengths: (blocks,) int64.
    """

    def __init__(self, source: int, padded: int, image: int, output: int):
        weight = _enlarge(np.eye(source, dtype=np.float32), padded)[:image]
        if output != image:
            weight = _enlarge(weight, output)
        self.pixels = [slice(i, min(i + _SIDE, output)) for i in range(0, output, _SIDE)]
        used = [np.flatnonzero(weight[pixels].any(0)) for pixels in self.pixels]
        self.windows = [slice(int(i[0]), int(i[-1]) + 1) for i in used]
        self.weights = [
            np.ascontiguousarray(weight[pixels, window])
            for pixels, window in zip(self.pixels, self.windows)
        ]
        self.totals = np.stack([weight[pixels].sum(0) for pixels in self.pixels])
        self.lengths = np.array([p.stop - p.start for p in self.pixels], np.int64)


# images of a service have few sizes
_side = functools.lru_cache(maxsize=32)(_Side)


def _enlarge(x: np.ndarray, length: int) -> np.ndarray:
    """(source, n) -> (length, n), bilinear as PyTorch's (align_corners False)."""
    source = len(x)
    scale = np.float32(source) / np.float32(length)
    place = scale * (np.arange(length, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    place = np.maximum(place, 0)
    first = np.minimum(place.astype(np.int64), source - 1)
    part = (place - first.astype(np.float32)).clip(0, 1)[:, None]
    return (1 - part) * x[first] + part * x[np.minimum(first + 1, source - 1)]
