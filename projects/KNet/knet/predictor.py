"""Pictures in, results out: a model, its classes, and the resizing of its config."""

import contextlib
import itertools
import os
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from .data.classes import ModelClass
from .data.image_reading import (
    MAX_PIXELS,
    SCALED,
    ImageReader,
    ImageSource,
    Opened,
    source_name,
    to_rgb,
)
from .data.read_ahead import read_ahead
from .data.transforms import build_augmentations
from .errors import DatasetError, UsageError
from .model_zoo import load_model
from .modeling.inference import masks_to_boxes
from .modeling.test_time_augmentation import with_test_time_augmentation

__all__ = ["Prediction", "Predictor", "remove_overlap"]

# Of a list, so many batches' images are held at a time, to find those of one size.
_BATCHES_AT_A_TIME = 8


@dataclass
class Prediction:
    """What a stream gives of one source."""

    source: ImageSource
    image: Optional[np.ndarray] = None  # (H, W, 3) uint8 RGB, as the model saw it, not resized
    result: Optional[Dict] = None  # Detectron2's, see Predictor
    error: Optional[ValueError] = None  # a DatasetError or UsageError; then there is nothing else


class Predictor:
    """Predicts on pictures of any kind: files, bytes, arrays, tensors, Pillow images.

    They are read as :class:`knet.data.image_reading.ImageReader` says and resized as the model's
    config says; the result is the one of ``train_net.py --eval-only``, at the picture's own size.
    It may be called from several threads at a time.

    Attributes:
        model: in eval mode.
        cfg: its config.
        classes: :class:`knet.data.classes.ModelClass` by contiguous id.
        metadata: Detectron2's, for its Visualizer.
    """

    def __init__(
        self,
        model_or_file: Union[nn.Module, str, os.PathLike],
        *,
        config: Union[str, os.PathLike, None] = None,
        device: Union[str, torch.device, None] = None,
        opts: Sequence = (),
        batch_size: int = 1,
        max_pixels: int = MAX_PIXELS,
        overlap: bool = True,
        names: bool = False,
    ):
        """
        Args:
            model_or_file: what :func:`knet.load_model` returns, used as it is, or a file of
                weights that it loads.
            config, device, opts: for a file, see :func:`knet.load_model`.
            batch_size: of a list or a stream, so many images at most go through the model
                together: only images of one size after resizing, since padding would change
                results.
            max_pixels: larger pictures are refused before they are decoded.
            overlap: False: instance masks do not overlap, see :func:`remove_overlap`.
            names: instances get ``pred_names``, a NumPy array of texts, and ``pred_dataset_ids``
                (N,) int64. (Instances on a GPU cannot be indexed by a GPU tensor then.)

        Raises:
            UsageError: no such file, weights that are not the model's, a model without ``info``
                or in training mode.
        """
        if isinstance(model_or_file, nn.Module):
            if config is not None or device is not None or len(opts):
                raise UsageError("config, device and opts are for a file, not for a loaded model")
            self.model = model_or_file
        else:
            self.model = _load(model_or_file, config, device, opts)
        if getattr(self.model, "info", None) is None:
            raise UsageError(
                f"the {type(self.model).__name__} has no info of its config and classes: load it "
                "with knet.load_model"
            )
        for name, value in (("batch_size", batch_size), ("max_pixels", max_pixels)):
            _check_count(name, value)
        self._check_mode()
        self.cfg: CfgNode = self.model.info.cfg
        self.classes: Tuple[ModelClass, ...] = self.model.info.classes
        self.metadata = self.model.info.metadata
        self.batch_size, self.max_pixels = batch_size, max_pixels
        self.overlap, self.names = overlap, names
        self._augmented = with_test_time_augmentation(self.cfg, self.model)
        self._reader = ImageReader.from_config(self.cfg)
        self._augmentations = build_augmentations(self.cfg, is_train=False)
        self._class_of = {each.id: each for each in self.classes}

    def __call__(
        self, source: Union[ImageSource, Sequence[ImageSource]]
    ) -> Union[Dict, List[Dict]]:
        """
        Args:
            source: a path, the bytes of a file, a file object, a Pillow image, an array (H, W),
                (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, a tensor (C, H, W) of 1, 3 or 4
                channels: values 0..255, RGB whatever INPUT.FORMAT is. Or a list of them.

        Returns:
            Detectron2's dict, on the model's device, class ids contiguous; of a list a list.
            Those of these that the model makes:

            - ``panoptic_seg``: (H, W) int32 ids and ``segments_info``, each of which has also
              ``category_name`` and ``dataset_id``, the class's id in the data set's files;
            - ``instances``;
            - ``sem_seg`` (K, H, W).

        Raises:
            DatasetError: a picture cannot be read, or is too large.
            UsageError: the source is no picture, or the model is in training mode.
        """
        if not isinstance(source, (list, tuple)):
            return self._predict([self._prepare(source)[1]])[0]
        results = []
        at_a_time = _BATCHES_AT_A_TIME * self.batch_size
        for start in range(0, len(source), at_a_time):
            inputs = []
            for i, each in enumerate(source[start : start + at_a_time], start + 1):
                try:
                    inputs.append(self._prepare(each)[1])
                except (DatasetError, UsageError) as error:
                    raise type(error)(f"image {i} of {len(source)}: {error}") from error
            results += self._predict(inputs)
        return results

    def stream(self, sources: Iterable[ImageSource], workers: int = 2) -> Iterator[Prediction]:
        """Predictions in order, the pictures read and resized in threads ahead of the model.

        Args:
            sources: may be endless, such as a camera's frames: at most ``2 x workers`` are taken
                beyond those that the model has. They are taken in the threads, one at a time.
            workers: number of threads.

        Yields:
            one :class:`Prediction` a source. One that cannot be read has an ``error``. The threads
            end with the generator; close it (or let it go) to end early.
        """
        if isinstance(sources, (str, bytes, os.PathLike, Image.Image, np.ndarray, torch.Tensor)):
            raise UsageError(
                f"a stream takes an iterable of images, not a {type(sources).__name__}: for one "
                "image call the predictor"
            )
        _check_count("workers", workers)
        return self._stream(sources, workers)

    def _stream(self, sources: Iterable[ImageSource], workers: int) -> Iterator[Prediction]:
        with contextlib.closing(read_ahead(self._read, sources, workers, 2 * workers)) as items:
            while window := list(itertools.islice(items, self.batch_size)):
                inputs = [model_input for _, model_input in window if model_input is not None]
                results = iter(self._predict(inputs))
                for prediction, model_input in window:
                    if model_input is not None:
                        prediction.result = next(results)
                    yield prediction

    def _read(self, source: ImageSource) -> Tuple[Prediction, Optional[Dict]]:
        try:
            image, model_input = self._prepare(source)
        except (DatasetError, UsageError) as error:
            return Prediction(source, error=error), None
        return Prediction(source, to_rgb(image)), model_input

    def _prepare(self, source: ImageSource) -> Tuple[Opened, Dict]:
        """The picture, and the model's input as the test loader gives it."""
        image = self._reader.open(source, self.max_pixels)
        pixels = self._reader.pixels(image, source)
        height, width = pixels.shape[:2]
        try:
            for augmentation in self._augmentations:
                pixels = augmentation.get_transform(pixels).apply_image(pixels)
        except DatasetError as error:
            raise DatasetError(f"the image {source_name(source)} {error}") from error
        tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        model_input = {"image": tensor, "height": height, "width": width}
        if self._reader.value_range:
            model_input[SCALED] = True
        return image, model_input

    def _predict(self, inputs: List[Dict]) -> List[Dict]:
        """Results in order; inputs of one size go through the model together."""
        self._check_mode()
        by_size: Dict[Tuple[int, ...], List[int]] = {}
        for i, each in enumerate(inputs):
            by_size.setdefault(tuple(each["image"].shape), []).append(i)
        results: List[Dict] = [{}] * len(inputs)
        for members in by_size.values():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                with torch.inference_mode():
                    for i, result in zip(batch, self._augmented([inputs[i] for i in batch])):
                        results[i] = self._complete(result)
        return results

    def _complete(self, result: Dict) -> Dict:
        """Adds what the classes tell; takes overlap away."""
        for segment in result["panoptic_seg"][1] if "panoptic_seg" in result else ():
            its_class = self._class_of.get(segment["category_id"])
            if its_class is not None:
                segment["category_name"] = its_class.name
                segment["dataset_id"] = its_class.dataset_id
        instances = result.get("instances")
        if instances is None:
            return result
        if not self.overlap and instances.has("pred_masks"):
            instances = result["instances"] = remove_overlap(instances)
        if self.names:
            classes = [self._class_of[i] for i in instances.pred_classes.tolist()]
            instances.pred_names = np.array([each.name for each in classes], dtype=str)
            instances.pred_dataset_ids = instances.pred_classes.new_tensor(
                [each.dataset_id for each in classes]
            )
        return result

    def _check_mode(self) -> None:
        if self.model.training:
            raise UsageError(
                "the model is in training mode, where it computes losses: call model.eval() first"
            )


def remove_overlap(instances: Instances) -> Instances:
    """Give each pixel to the best-scored instance that has it.

    Args:
        instances: with ``pred_masks`` (N, H, W) bool and ``scores``.

    Returns:
        those that have a pixel left, in their order, with new ``pred_masks`` and ``pred_boxes``.
    """
    masks = instances.pred_masks.clone()
    free = torch.ones_like(masks[0]) if len(masks) else None
    for i in torch.argsort(instances.scores, descending=True, stable=True).tolist():
        masks[i] &= free
        free &= ~masks[i]
    left = masks.flatten(1).any(1)
    result = instances[left]
    result.pred_masks = masks[left]
    result.pred_boxes = Boxes(masks_to_boxes(result.pred_masks))
    return result


def _load(
    file: Union[str, os.PathLike],
    config: Union[str, os.PathLike, None],
    device: Union[str, torch.device, None],
    opts: Sequence,
) -> nn.Module:
    if not isinstance(file, (str, os.PathLike)):
        raise UsageError(
            f"an object of type {type(file).__name__} is no model: give one of knet.load_model, or "
            "a file of weights"
        )
    words = (file,) if config is None else (config, file)
    return load_model(*words, device=device, opts=list(opts))


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}: it must be a whole number from 1 on")
