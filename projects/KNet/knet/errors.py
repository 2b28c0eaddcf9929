"""The errors that a user can cause, each told in one sentence that says what to change."""

from typing import Callable

# Told of a fault in data: its kind (see :mod:`knet.data.checks.kinds`), and one sentence.
Tell = Callable[[str, str], None]


# What to do where files of a data set are not
MEND_PATHS = (
    "set the environment variable DETECTRON2_DATASETS to the folder that holds the data, or mend "
    "the data set's paths"
)


class UsageError(ValueError):
    """A configuration that cannot work: the message names the key and what to set it to."""


class DatasetError(ValueError):
    """Data that cannot be used as it is: the message names the file and what is wrong in it."""


def refuse(kind: str, sentence: str) -> None:
    """The usual :data:`Tell`: the first fault ends the reading.

    Raises:
        DatasetError: always.
    """
    raise DatasetError(sentence)
