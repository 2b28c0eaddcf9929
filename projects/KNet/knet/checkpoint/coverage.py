"""How much of a model a file of weights has, part by part, and whether it is enough to train from.

A training starts from a whole model, or from a whole backbone (and its feature pyramid): a backbone
of which a few tensors fit is random, and no loss tells.
"""

import re
from dataclasses import dataclass, field
from typing import Collection, Dict, Iterable, List, Mapping, Optional

import torch
from tabulate import tabulate

from ..errors import UsageError
from .fit import first_convolution

__all__ = ["Coverage", "Part", "measure_coverage", "require_iou_branch"]

# The first pattern that a tensor's name starts with says what it is part of
_PARTS = (
    (re.compile(r"backbone\.(fpn_|top_block\.)"), "feature pyramid"),
    (re.compile(r"backbone\."), "backbone"),
    (re.compile(r"neck\."), "neck"),
    (re.compile(r"kernel_head\."), "kernel head"),
    (re.compile(r"(sem_seg_head\.)?kernel_update_heads\."), "update stages"),
    (re.compile(r"sem_seg_head\.base_head\."), "base head"),
    (re.compile(r"sem_seg_head\.auxiliary_head\."), "auxiliary head"),
)
# Of a backbone, what pretrained ones lack and the published models learn from their start values:
# the norms behind Swin's stages, and the offsets of deformable convolutions
_LEARNED_ANEW = re.compile(r"backbone\.(bottom_up\.)?(norm\d+|.+\.conv2_offset)\.(weight|bias)")
# Files whose norms are folded into scale and shift have none, and Detectron2 makes some up
_STATISTICS = (".running_mean", ".running_var")
_BACKBONE_PREFIXES = (
    "",
    "backbone.",
    "backbone.model.",
    "backbone.bottom_up.",
    "backbone.bottom_up.model.",
)
_ADVICE = (
    "set MODEL.WEIGHTS to a whole model of this config or to a whole backbone of its kind and "
    "depth, or MODEL.KNET.WEIGHTS_PARTLY True to take what fits and learn the rest from nothing"
)


@dataclass
class Part:
    """A part of a model, as far as its tensors are loaded.

    Attributes:
        name: in words.
        taken: names of the tensors that the file has.
        lacking: of those that it has not, or in another shape; what may be lacking left out.
        other_shape: those of ``lacking`` that it has in another shape.
        deeper: tensors of the file, of further layers of this part, that the model has not.
    """

    name: str
    taken: List[str] = field(default_factory=list)
    lacking: List[str] = field(default_factory=list)
    other_shape: List[str] = field(default_factory=list)
    deeper: List[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether it is there as a whole; other parts than the backbone may be absent."""
        if self.name == "backbone" or self.taken or self.other_shape:
            return not self.lacking and not self.deeper
        return True

    def __str__(self) -> str:
        total = len(self.taken) + len(self.lacking)
        if not self.lacking:
            return f"{self.name}: the file has further layers, as {self.deeper[0]}"
        first, how = self.lacking[0], "is not in the file"
        if self.other_shape:
            first, how = self.other_shape[0], "has another shape"
        return f"{self.name}: {len(self.taken)} of {total} tensors, {first} {how}"


def require_iou_branch(lacking: Collection[str], path: str, otherwise: str = "") -> None:
    """
    Args:
        lacking: names of the tensors that a file has not.
        path: of the file, for the sentence.
        otherwise: what else can be done, for its end.

    Raises:
        UsageError: they are those of an IoU branch alone, which no file of before has.
    """
    if lacking and all(".iou_branch." in name for name in lacking):
        raise UsageError(
            f"{path} is of a model without IoU branch: set MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH to "
            f"False{otherwise}"
        )


@dataclass
class Coverage:
    """The parts of a model, in the order of its tensors."""

    parts: List[Part]

    def require_whole(self, path: str) -> None:
        """
        Args:
            path: of the file, for the sentence.

        Raises:
            UsageError: some part is loaded in part, or the backbone not as a whole.
        """
        wrong = [part for part in self.parts if not part.fits]
        lacking = [name for part in wrong for name in part.lacking]
        if not any(part.deeper for part in wrong):
            require_iou_branch(
                lacking, path, ", or MODEL.KNET.WEIGHTS_PARTLY to True to learn it from nothing"
            )
        if wrong:
            raise UsageError(
                f"{path} fits this model only in part ({'; '.join(map(str, wrong))}): {_ADVICE}"
            )

    @property
    def is_whole(self) -> bool:
        return not any(part.lacking for part in self.parts)

    def table(self) -> str:
        """What is taken and what is learned from nothing, as lines of text."""
        rows = [(part.name, len(part.taken), len(part.lacking)) for part in self.parts]
        return tabulate(rows, headers=("part", "tensors taken", "learned from nothing"))


def measure_coverage(
    model: Mapping[str, torch.Tensor],
    *,
    absent: Iterable[str],
    other_shape: Iterable[str],
    left_out: Iterable[str] = (),
    left_over: Iterable[str] = (),
) -> Coverage:
    """Sort a model's tensors into its parts, by what became of them when a file was loaded.

    Args:
        model: its state dict, without what needs no loading.
        absent: the model's names that were not taken, those of another shape among them.
        other_shape: the model's names that the file has in another shape.
        left_out: the model's names that were left out on demand, as they are of other classes.
        left_over: the file's names that the model has not.
    """
    absent, other_shape, left_out = set(absent), set(other_shape), set(left_out)
    excused = left_out | _excused(model, absent, other_shape)
    parts: Dict[str, Part] = {}
    names = [name for name in model if not name.endswith(_STATISTICS)]
    for name in names:
        part = parts.setdefault(_part_of(name), Part(_part_of(name)))
        if name not in absent:
            part.taken.append(name)
        elif name not in excused:
            part.lacking.append(name)
            if name in other_shape:
                part.other_shape.append(name)
    layers = {_layer_kind(name): name for name in names}
    for name in left_over:
        like = _like(name, layers)
        if like is not None:
            parts[_part_of(like)].deeper.append(name)
    return Coverage(list(parts.values()))


def _excused(model: Mapping[str, torch.Tensor], absent: set, other_shape: set) -> set:
    """Tensors that a whole file may lack."""
    excused = {n for n in absent - other_shape if _LEARNED_ANEW.fullmatch(n)}
    first = first_convolution(model)
    if first in absent and model[first].shape[1] != 3:  # images of other than three channels
        excused.add(first)
    return excused


def _part_of(name: str) -> str:
    for pattern, part in _PARTS:
        if pattern.match(name):
            return part
    return name.split(".")[0]


def _layer_kind(name: str) -> str:
    """``backbone.res4.5.conv1.weight`` -> ``backbone.res4.*.conv1.weight``: the last number."""
    words = name.split(".")
    for i in reversed(range(len(words))):
        if words[i].isdigit():
            words[i] = "*"
            break
    return ".".join(words)


def _like(name: str, layers: Mapping[str, str]) -> Optional[str]:
    """A tensor of the model that is of a further layer's kind, if there is one."""
    kind = _layer_kind(name)
    if "*" not in kind:
        return None
    return next((layers[p + kind] for p in _BACKBONE_PREFIXES if p + kind in layers), None)
