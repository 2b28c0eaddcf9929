"""The images that an evaluator is given: their ids, and whether there is something to measure."""

from typing import Any, Dict, List, Sequence

from ..data.ground_truth import is_annotated

__all__ = ["ImageIds", "is_measured"]


def is_measured(dicts: Sequence[Dict]) -> bool:
    """Has any image of a data set ground truth? If none, it is there to be predicted on."""
    return any(map(is_annotated, dicts))


class ImageIds:
    """The id of each image: its own; without ground truth its number, where some have none.

    Attributes:
        all: by the position in the data set.
    """

    def __init__(self, dicts: Sequence[Dict]):
        """
        Args:
            dicts: of the data set, with ``file_name`` and perhaps ``image_id``.
        """
        self.all: List[Any] = [d.get("image_id") for d in dicts]
        self._numbers: Dict[str, int] = {}
        lacking = None in self.all or len(set(self.all)) < len(dicts)
        if lacking and not is_measured(dicts):
            self.all = list(range(1, len(dicts) + 1))
            self._numbers = {d["file_name"]: i for d, i in zip(dicts, self.all)}

    def of(self, x: Dict) -> Any:
        """The id of a model's input."""
        return self._numbers[x["file_name"]] if self._numbers else x["image_id"]
