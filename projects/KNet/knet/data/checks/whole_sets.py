"""What only all images together tell: classes that never occur, images in training and test."""

from collections import Counter, defaultdict
from typing import Callable, Dict, List, Sequence

from ...errors import Tell
from .one_image import Findings
from .report import SetStatistics
from .sources import CheckedSet

__all__ = ["check_set", "check_together", "statistics_of"]


def statistics_of(checked: CheckedSet, findings: Sequence[Findings]) -> SetStatistics:
    """Counts of what is learned from, or measured with."""
    found = SetStatistics(" and ".join(checked.splits))
    found.sizes = [each.size for each in findings if each.size is not None]
    numbers, images = _class_counts(checked, findings)
    if checked.label_maps:
        found.unit = "pixels"
    else:
        found.unit = "segments" if len(checked.things) < len(checked.classes) else "objects"
        things = set(checked.things)
        areas = [[area for i, area in each.segments if i in things] for each in findings]
        found.objects = [len(each) for each in areas]
        found.areas = [area for each in areas for area in each]
    found.classes = {name: (numbers[i], images[i]) for i, name in checked.classes.items()}
    return found


def _class_counts(checked: CheckedSet, findings: Sequence[Findings]) -> "tuple[Counter, Counter]":
    """Objects, segments or pixels of each class, and images with it."""
    numbers, images = Counter(), Counter()
    for each in findings:
        if checked.label_maps:
            numbers.update(each.labels)
            images.update(each.labels.keys())
        else:
            classes = [i for i, _ in each.segments]
            numbers.update(classes)
            images.update(set(classes))
    return numbers, images


def check_set(
    checked: CheckedSet, findings: Sequence[Findings], num_kernels: int, tell: Tell
) -> None:
    """
    Args:
        checked: a data set.
        findings: of its images, in their order.
        num_kernels: of a model with that many objects an image at most; 0: without a bound.
        tell: told of each fault.
    """
    counts, _ = _class_counts(checked, findings)
    has_truth = any(each.segments or each.left_out or each.labels for each in findings)
    if checked.label_maps:
        _check_labels(checked, counts, tell)
    elif has_truth and not any(i in checked.things for i in counts):
        left_out = sum(each.left_out for each in findings)
        tell(
            "nothing",
            f"'{checked.name}' has no object that can be learned from ({left_out} are crowd, "
            "without a mask or out of their image)",
        )
    if "TRAIN" in checked.splits and has_truth:
        for i, name in checked.classes.items():
            if not counts[i]:
                tell("absent class", f"'{name}' in {len(findings)} images of '{checked.name}'")
    if num_kernels:
        _check_kernels(checked, findings, num_kernels, tell)


def _check_labels(checked: CheckedSet, counts: Counter, tell: Tell) -> None:
    if not counts:
        return
    classes = [i for i in checked.classes if counts[i]]
    unknown = counts.keys() - checked.classes.keys() - {checked.ignore_label}
    if unknown == {len(checked.classes)} and not counts[0]:
        last = len(checked.classes)
        tell("labels from 1", f"'{checked.name}' has the labels 1 to {last}, and none is 0")
    if not classes:
        tell("nothing", f"every pixel of '{checked.name}' is ignored or of no class")
    if len(checked.classes) == 1:
        tell("one class", f"'{checked.name}' has the class {checked.classes[0]!r} alone")


def _check_kernels(
    checked: CheckedSet, findings: Sequence[Findings], num_kernels: int, tell: Tell
) -> None:
    things = set(checked.things)
    for d, each in zip(checked.dicts, findings):
        number = sum(i in things for i, _ in each.segments)
        if number > num_kernels:
            tell("kernels", f"{d['file_name']} has {number} objects, the model {num_kernels}")


def check_together(
    sets: Sequence[CheckedSet],
    findings: Dict[str, List[Findings]],
    tell_of: Callable[[str], Tell],
) -> None:
    """What the data sets have in common: images by their pixels, and classes."""
    same = defaultdict(list)  # digest -> (data set, file)
    for each in sets:
        for d, found in zip(each.dicts, findings[each.name]):
            if found.digest is not None:
                same[found.digest].append((each, d["file_name"]))
    for copies in same.values():
        _check_copies(copies, tell_of)
    for other in sets[1:]:
        _check_classes(sets[0], other, tell_of(other.name))


def _check_copies(copies: List, tell_of: Callable[[str], Tell]) -> None:
    train = [(s, path) for s, path in copies if s.splits == ("TRAIN",)]
    test = [(s, path) for s, path in copies if s.splits == ("TEST",)]
    for each, path in test if train else ():
        tell_of(each.name)("shared image", f"{path} is {train[0][1]} of '{train[0][0].name}'")
    first = {}
    for each, path in copies:
        other = first.setdefault(each.name, path)
        if other != path:
            tell_of(each.name)("same picture", f"{path} and {other}")


def _check_classes(first: CheckedSet, other: CheckedSet, tell: Tell) -> None:
    if not first.classes or not other.classes:
        return
    names = f"'{first.name}' and '{other.name}'"
    kinds = [{c: i in s.things for i, c in s.classes.items()} for s in (first, other)]
    if not first.label_maps and not other.label_maps:
        for name in kinds[0].keys() & kinds[1].keys():
            if kinds[0][name] != kinds[1][name]:
                tell("isthing", f"'{name}' is a thing in one of {names} and stuff in the other")
    if len(first.things) == len(first.classes) and len(other.things) < len(other.classes):
        return  # things alone beside things and stuff: the config decides
    if len(other.things) == len(other.classes) and len(first.things) < len(first.classes):
        return
    if first.label_maps == other.label_maps and first.classes != other.classes:
        lists = [list(s.classes.values()) for s in (first, other)]
        position = next(
            (i for i, pair in enumerate(zip(*lists)) if pair[0] != pair[1]), min(map(len, lists))
        )
        shown = " and ".join(repr(c[position]) if position < len(c) else "none" for c in lists)
        tell("classes differ", f"the class {position} of {names} is {shown}")
