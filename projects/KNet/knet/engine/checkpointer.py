"""Loading weights of any origin: what was recognised is logged, what cannot be loaded is told."""

import logging
import os
import pickle
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Set, Tuple
from urllib.parse import parse_qs

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from ..checkpoint.architecture import describe
from ..checkpoint.coverage import measure_coverage, require_iou_branch
from ..checkpoint.description import residual_of
from ..checkpoint.fit import (
    OTHER_CLASSES,
    first_convolution,
    is_computed,
    leave_out_classes,
    require_backbone,
    require_fit,
)
from ..checkpoint.recognize import find_weights, recognize
from ..checkpoint.safe_load import INFO_KEY, load_file
from ..data.classes import ModelClass, read_classes
from ..errors import UsageError
from .averaged_weights import averaged_in
from .changed_keys import compare_keys
from .run_folder import RunFolder
from .silent_keys import Loading, compare_silent_keys, compare_stages

__all__ = ["KNetCheckpointer"]

logger = logging.getLogger(__name__)

# of an optimizer, which has a group for each rate and decay that differ
_OTHER_GROUPS = (
    "set SOLVER.WEIGHT_DECAY, WEIGHT_DECAY_NORM, WEIGHT_DECAY_BIAS, NO_DECAY, BACKBONE_MULTIPLIER "
    "and BIAS_LR_FACTOR to what they were, or start a run in another OUTPUT_DIR"
)


class KNetCheckpointer(RunFolder, DetectionCheckpointer):
    """Detectron2's, for every file that K-Net may start from, and that runs no code of a file's.

    With ``complete`` every weight of the model must be in the file, in its shape. With
    ``skip_classes`` tensors that depend on the classes may have another shape, and are left out.
    Without either a whole model or a whole backbone is wanted; with ``partly`` whatever fits does.
    """

    complete = False
    skip_classes = False
    partly = False
    advice = (
        "set MODEL.WEIGHTS to a file of weights, or to '' to start from nothing (then also "
        "MODEL.BACKBONE.FREEZE_AT 0 MODEL.BACKBONE.NORM_EVAL False)"
    )
    _resuming = False
    _description: Any = None  # what the file tells of its model, see ModelInfo.to_plain

    def save(self, name: str, **kwargs: Any) -> None:
        """As in Detectron2; with what makes the file a model, see :mod:`.model_file`."""
        info = getattr(self.model, "info", None)
        if info is not None:
            kwargs[INFO_KEY] = info.to_plain()
        super().save(name, **kwargs)

    def resume_or_load(self, path: str, *, resume: bool = True):
        """As in Detectron2; a damaged checkpoint is told, and the one before it taken.

        Raises:
            UsageError: no checkpoint can be read, or the one that is taken is of another model.
        """
        there = resume and self.has_checkpoint()
        checkpoint = self.readable_checkpoint() if there else ""
        found = dict.fromkeys(comm.all_gather(os.path.basename(checkpoint)))
        if len(found) > 1:  # else they would go on from different weights
            raise UsageError(
                f"the processes find different checkpoints in OUTPUT_DIR {self.save_dir} "
                f"({', '.join(name or 'none' for name in found)}): all machines must share it"
            )
        if not checkpoint:
            return super().resume_or_load(path, resume=False)
        # a run that goes on must find all of its weights
        self.complete = self._resuming = True
        return self.load(checkpoint)

    def load(self, path: str, *args, **kwargs):
        """As in Detectron2; also the authors' checkpoints, backbones of several libraries.

        Raises:
            UsageError: a file that cannot be read, or whose weights are another model's.
        """
        self._path, self._description = path, None
        try:
            return super().load(path, *args, **kwargs)
        except UsageError:
            raise
        except (
            AssertionError,
            EOFError,
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            pickle.UnpicklingError,
        ) as error:
            advice = _OTHER_GROUPS if "parameter group" in str(error) else self.advice
            reason = "it is a folder" if os.path.isdir(path) else " ".join(str(error).split())
            raise UsageError(f"cannot load {path}: {reason.rstrip('.!')}; {advice}") from error
        finally:
            self._parsed_url_during_load = None  # which an error would leave behind

    def _load_file(self, filename: str) -> Dict[str, Any]:
        loaded = load_file(filename)
        if not isinstance(loaded, dict):
            raise ValueError("it holds no state dict")
        queries = parse_qs(self._parsed_url_during_load.query)
        heuristics = queries.pop("matching_heuristics", ["False"]) == ["True"]
        if queries:
            raise ValueError(f"the address asks for {', '.join(queries)}, which is unknown")
        if filename.endswith(".pyth"):  # pycls
            return {"model": loaded["model_state"], "matching_heuristics": True}
        if filename.endswith(".pkl") and "model" not in loaded:  # Caffe2, Detectron1
            weights = loaded.get("blobs", loaded)
            weights = {k: v for k, v in weights.items() if not k.endswith("_momentum")}
            return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        heuristics = heuristics or bool(loaded.get("matching_heuristics"))
        if "model" in loaded and "state_dict" not in loaded:
            self._description = loaded.get(INFO_KEY)
            return {**loaded, "matching_heuristics": heuristics}
        # of another framework: nothing else of it is ours
        return {"model": loaded, "matching_heuristics": heuristics}

    def _load_model(self, checkpoint: Dict[str, Any]):
        model = self.model.state_dict()
        left_out: List[str] = []
        what = "weights to be matched by their names"
        heuristics = bool(checkpoint.get("matching_heuristics"))
        purpose = "evaluate" if self.complete else "start"
        purpose = "resume" if self._resuming else purpose
        residual = residual_of(self._description)
        if not heuristics:
            chosen, of_average = self._choose(checkpoint)
            if self.complete:
                self._require_task(chosen["model"], model)
            found = find_weights(chosen, model)
            self._convert_ndarray_to_tensor(found.state_dict)
            recognized = recognize(found.state_dict, model)
            checkpoint["model"], what = recognized.state_dict, recognized.what
            what += f" ({found})" if str(found) else ""
            what += of_average
            if recognized.architecture is not None:
                if not self.partly:
                    require_fit(recognized, model, path=self._path)
                residual = False  # as all published models
            left_out = leave_out_classes(
                recognized.state_dict,
                model,
                path=self._path,
                skip=self.skip_classes,
                purpose=purpose,
            )
            self._compare_classes(checkpoint.get(INFO_KEY), purpose)
        in_file = set(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        self._check(incompatible, model, heuristics, left_out)
        loading = Loading(self._path, model.keys() - _absent(incompatible), self.complete, purpose)
        compare_stages(residual, self.model, loading)
        self._compare_blocks(incompatible)
        compare_silent_keys(self._description, getattr(self.model, "info", None), loading)
        self._report(incompatible, model, what, left_out)
        if self._resuming and "trainer" in self.checkpointables:
            self._require_all(in_file)
            if hasattr(self.model, "info"):
                compare_keys(self._description, self.model.info.cfg)
        return incompatible

    def _choose(self, checkpoint: Dict[str, Any]) -> Tuple[Dict[str, Any], str]:
        """What to look for weights in, and what is told of averaged ones in a training's file.

        A training that goes on takes both; else MODEL_EMA.ENABLED tells which are taken.
        """
        averaged = averaged_in(checkpoint)
        if averaged is None:
            return checkpoint, ""
        own = {"model": checkpoint["model"]}
        if self._resuming and "trainer" in self.checkpointables:
            return own, ""
        info = getattr(self.model, "info", None)
        if info is not None and info.cfg.MODEL_EMA.ENABLED:
            return {"model": averaged}, ", its averaged weights (MODEL_EMA.ENABLED True)"
        return own, ", without its averaged weights (MODEL_EMA.ENABLED False)"

    def _compare_classes(self, plain: Any, purpose: str) -> None:
        """Does each row of the class weights mean the same class in the file and in the model?

        Args:
            plain: see :meth:`.model_file.ModelInfo.to_plain`; None if the file tells none.
            purpose: see :func:`leave_out_classes`.

        Raises:
            UsageError: a class has another row, and nothing would be learned anew.
        """
        info = getattr(self.model, "info", None)
        try:
            theirs = read_classes(plain["classes"], self._path)
        except (KeyError, TypeError, UsageError):  # weights alone are enough here
            return
        if info is None or len(theirs) != len(info.classes):
            return
        names = [_names_by_row(classes, info.cfg) for classes in (theirs, info.classes)]
        different = [(a, b) for a, b in zip(*names) if a and b and a != b]
        if not different:
            return
        example = "class '{}' of the file is '{}' here".format(*different[0])
        if self.complete and {a for a, _ in different} & {b for _, b in different}:
            raise UsageError(
                f"{self._path} has its classes in another order than the data sets ({example}): "
                f"{OTHER_CLASSES[purpose]}"
            )
        logger.warning(
            f"{self._path} calls {len(different)} of {len(theirs)} classes otherwise than the data "
            f"sets: {example}"
        )

    def _compare_blocks(self, incompatible) -> None:
        """Has the file blocks before its semantic classifier, where this model has none?

        Raises:
            UsageError: it has, and nothing would be learned anew.
        """
        ours = getattr(getattr(self.model, "kernel_head", None), "semantic_conv", None)
        left_over = "kernel_head.semantic_conv.weight" in incompatible.unexpected_keys
        if not (left_over and isinstance(ours, nn.Identity)):
            return
        difference = (
            f"{self._path} has blocks before the classifier of its semantic branch, this model has "
            "none (MODEL.KNET.SEMANTIC_BLOCKS False)"
        )
        if self.complete:
            raise UsageError(f"{difference}: set MODEL.KNET.SEMANTIC_BLOCKS to True")
        logger.warning(f"{difference}: the classifier must be learned anew")

    def _check(self, incompatible, model, heuristics: bool, left_out: List[str]) -> None:
        wrong_shape = [name for name, *_ in incompatible.incorrect_shapes]
        taken = set(model) - set(incompatible.missing_keys) - set(wrong_shape)
        # Detectron2's FrozenBatchNorm2d makes up the statistics that a file lacks
        made_up = (".running_mean", ".running_var")
        if all(is_computed(name) or name.endswith(made_up) for name in taken):
            raise UsageError(
                f"{self._path} holds no weight that this model has: it is of another model, set "
                "MODEL.WEIGHTS to one of this"
            )
        for keys in (incompatible.missing_keys, incompatible.unexpected_keys):
            keys[:] = [name for name in keys if not is_computed(name)]
        absent = wrong_shape + incompatible.missing_keys
        if not self.partly:
            self._require_backbone(incompatible, model, heuristics)
        if self.complete and absent:
            require_iou_branch(absent, self._path)
            raise UsageError(
                f"{self._path} holds the weights of another model: {absent[0]} is missing or of "
                "another shape; set MODEL.WEIGHTS, OUTPUT_DIR (--resume) or MODEL.KNET.* to fit"
            )
        if not self.complete:
            self._measure(incompatible, model, left_out)

    def _require_task(self, content, model) -> None:
        """
        Args:
            content: of the file, under the names that it has there; nothing is known of what lies
                deeper in it.

        Raises:
            UsageError: a K-Net's file, and of another task than the model.
        """
        if not isinstance(content, Mapping):
            return
        in_file = {name: each for name, each in content.items() if hasattr(each, "shape")}
        theirs, ours = describe(in_file), describe(model)
        if theirs is not None and ours is not None and theirs.task != ours.task:
            raise UsageError(
                f"{self._path} holds the weights of another model: it is for {theirs.task}, the "
                f"config's is for {ours.task}; set MODEL.WEIGHTS, OUTPUT_DIR (--resume) or the "
                "config to fit"
            )

    def _require_all(self, in_file: Iterable[str]) -> None:
        """An optimizer knows the parameters that there were, none that loading made up since.

        Raises:
            UsageError: the file lacks a parameter.
        """
        added = [name for name, _ in self.model.named_parameters() if name not in in_file]
        if added:
            raise UsageError(
                f"{self._path} was written by an older version, whose model had no {added[0]}, so "
                "that its optimizer does not fit and its run cannot go on: leave out --resume and "
                "start a run in another OUTPUT_DIR with this file as its MODEL.WEIGHTS"
            )

    def _measure(self, incompatible, model, left_out: List[str]) -> None:
        """Is there enough to start from? A table tells what of each part, if not all is wanted.

        Raises:
            UsageError: there is not.
        """
        coverage = measure_coverage(
            {name: tensor for name, tensor in model.items() if not is_computed(name)},
            absent=_absent(incompatible),
            other_shape=[name for name, *_ in incompatible.incorrect_shapes],
            left_out=left_out,
            left_over=incompatible.unexpected_keys,
        )
        if not self.partly:
            coverage.require_whole(self._path)
        elif not coverage.is_whole:
            logger.warning(
                f"{self._path} is taken in part (MODEL.KNET.WEIGHTS_PARTLY):\n{coverage.table()}"
            )

    def _require_backbone(self, incompatible, model, heuristics: bool) -> None:
        require_backbone(
            model,
            wrong_shape=[name for name, *_ in incompatible.incorrect_shapes],
            missing=incompatible.missing_keys if heuristics else (),
            left_over=incompatible.unexpected_keys if heuristics else (),
            path=self._path,
        )

    def _report(self, incompatible, model, what: str, left_out: List[str]) -> None:
        """One line of what was taken; Detectron2 lists what is missing and left over."""
        missing, left_over = incompatible.missing_keys, incompatible.unexpected_keys
        absent = _absent(incompatible)
        taken = sum(name not in absent and not is_computed(name) for name in model)
        logger.info(
            f"{self._path} is {what}: {taken} tensors taken, {len(missing)} of the model's are "
            f"not in it, {len(left_over)} are left over"
        )
        if left_out:
            logger.warning(
                "Left out, as they are of other classes (MODEL.KNET.WEIGHTS_SKIP_CLASSES): "
                + ", ".join(left_out)
            )
        first = first_convolution(model)
        if first in absent and model[first].shape[1] != 3:
            frozen = not self.model.get_parameter(first).requires_grad
            logger.warning(
                f"{first} starts from random numbers: it is for images of "
                f"{model[first].shape[1]} channels (MODEL.PIXEL_MEAN), that of {self._path} is not"
                + ("; set MODEL.BACKBONE.FREEZE_AT 0, or it stays as it is" if frozen else "")
            )


def _absent(incompatible) -> Set[str]:
    """The model's names of what was not taken from a file."""
    return {*incompatible.missing_keys, *(name for name, *_ in incompatible.incorrect_shapes)}


def _names_by_row(classes: Sequence[ModelClass], cfg) -> List[str]:
    """The names of classes in the order of a model's rows; "" where a number stands for it."""
    if cfg.MODEL.META_ARCHITECTURE == "KNet":  # things first
        classes = sorted(classes, key=lambda each: not each.isthing)
    return ["" if each.name == str(each.id) else each.name for each in classes]
