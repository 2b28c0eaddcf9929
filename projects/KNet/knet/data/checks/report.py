"""What a check has found: every fault, the table of them, the same for a json."""

import dataclasses
import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Dict, List, NamedTuple

from tabulate import tabulate

from ...errors import Tell
from .kinds import ERROR, KINDS, SEVERITIES

__all__ = ["Fault", "Report", "SetStatistics"]

_EXAMPLES = 3
_WIDTHS = [None, 26, None, 62, 30]  # letters


class Fault(NamedTuple):
    """One occurrence; ``kind`` is a key of :data:`KINDS`."""

    kind: str
    dataset: str
    sentence: str


@dataclass
class SetStatistics:
    """What a data set holds.

    Attributes:
        split: of the config: "TRAIN", "TEST" or "TRAIN and TEST".
        sizes: (H, W) of each image.
        objects: things used of each image; [] for label maps.
        areas: pixels of each thing.
        classes: {name: (objects, segments or pixels; images with it)}.
        unit: what ``classes`` counts.
    """

    split: str = ""
    sizes: List = field(default_factory=list)
    objects: List[int] = field(default_factory=list)
    areas: List[int] = field(default_factory=list)
    classes: Dict = field(default_factory=dict)
    unit: str = "objects"


@dataclass
class Report:
    """
    Attributes:
        faults: all of them, in the order of the data sets and their images.
        statistics: {data set: what it holds}.
        root: the folder that has all the data; paths are shown below it.
        inputs: the files that were read.
    """

    faults: List[Fault] = field(default_factory=list)
    statistics: Dict[str, SetStatistics] = field(default_factory=dict)
    root: str = ""
    inputs: List[str] = field(default_factory=list)

    def of(self, dataset: str) -> Tell:
        """What adds a fault of a data set."""
        return lambda kind, sentence: self.faults.append(
            Fault(kind, dataset, " ".join(sentence.split()))
        )

    @property
    def has_errors(self) -> bool:
        return any(KINDS[fault.kind].severity == ERROR for fault in self.faults)

    def by_kind(self) -> Dict[str, List[Fault]]:
        """Faults by their kind, errors first, each severity in the order of :data:`KINDS`."""
        found = defaultdict(list)
        for fault in self.faults:
            found[fault.kind].append(fault)
        kinds = sorted(KINDS, key=lambda kind: SEVERITIES.index(KINDS[kind].severity))
        return {kind: found[kind] for kind in kinds if kind in found}

    def table(self) -> str:
        """A row for each kind of fault, with its first occurrences."""
        rows = []
        for kind, faults in self.by_kind().items():
            severity, title, remedy = KINDS[kind]
            first = [f"- {self.shown(fault.sentence)}" for fault in faults[:_EXAMPLES]]
            if len(faults) > _EXAMPLES:
                first.append("- ...")
            rows.append((severity, title, len(faults), "\n".join(first), remedy))
        headers = ("", "what", "count", "first of them", "what to do")
        return tabulate(rows, headers, tablefmt="grid", maxcolwidths=_WIDTHS)

    def summary(self) -> str:
        """How many of each severity, in one line."""
        numbers = [
            sum(KINDS[fault.kind].severity == severity for fault in self.faults)
            for severity in SEVERITIES
        ]
        images = sum(len(each.sizes) for each in self.statistics.values())
        counted = ", ".join(f"{n} {s}{'' if n == 1 else 's'}" for n, s in zip(numbers, SEVERITIES))
        return f"{images} images of {', '.join(self.statistics)}: {counted}"

    def shown(self, sentence: str) -> str:
        """A sentence with its paths below ``root``."""
        return sentence.replace(self.root + os.sep, "") if self.root else sentence

    def as_json(self) -> Dict:
        """For ``report.json``: every occurrence."""
        return {
            "root": self.root,
            "errors": self.has_errors,
            "data_sets": {name: dataclasses.asdict(each) for name, each in self.statistics.items()},
            "faults": [
                {
                    "kind": kind,
                    **KINDS[kind]._asdict(),
                    "count": len(faults),
                    "occurrences": [
                        {"data_set": f.dataset, "sentence": f.sentence} for f in faults
                    ],
                }
                for kind, faults in self.by_kind().items()
            ],
        }
