"""What the service may be told, by environment variables."""

import os
import re
from dataclasses import dataclass, fields
from typing import Mapping, Tuple, get_type_hints

PREFIX = "KNET_"
OTHERS = re.compile("_SERVICE_|_PORT")  # Kubernetes tells of a service "knet" by such variables


@dataclass(frozen=True)
class Settings:
    """Each attribute is the variable ``KNET_<NAME>``.

    Attributes:
        model: the exported file, ``knet_runtime.py`` beside it.
        result: "panoptic", "instance" or "semantic"; "": the first that the model makes.
        score_threshold: instances below it are left out of an instance result.
        listen: address and port.
        max_bytes: of a request's body.
        max_pixels: width times height of a picture, known before it is decoded.
        max_requests: accepted at a time; the next one is told to come again (503).
        timeout: seconds that a request may take, to be received and to be answered (504).
        max_batch: pictures of one size that the network gets together.
        max_wait: seconds that a picture waits for others of its size.
        threads: of the network, 0: as many as there are cores.
        stop_seconds: that accepted requests have after SIGTERM.
    """

    model: str = "model.onnx"
    result: str = ""
    score_threshold: float = 0.0
    listen: str = "127.0.0.1:8000"
    max_bytes: int = 20_000_000
    max_pixels: int = 20_000_000
    max_requests: int = 64
    timeout: float = 30.0
    max_batch: int = 8
    max_wait: float = 0.01
    threads: int = 0
    stop_seconds: int = 60

    @property
    def address(self) -> Tuple[str, int]:
        """Host and port.

        Raises:
            ValueError: ``listen`` is not of that form.
        """
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"KNET_LISTEN is {self.listen!r}: give ADDRESS:PORT")
        return host.strip("[]"), int(port)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """
        Raises:
            ValueError: a variable is no number, too small, or none of these.
        """
        types, given = get_type_hints(cls), {}
        names = {f"{PREFIX}{field.name.upper()}": field.name for field in fields(cls)}
        for variable in sorted(set(environment)):
            if not variable.startswith(PREFIX) or OTHERS.search(variable):
                continue
            if variable not in names:
                raise ValueError(f"{variable} is unknown: known are {', '.join(sorted(names))}")
            name, text = names[variable], environment[variable]
            given[name] = _read(variable, text, types[name])
        return cls(**given)


def _read(variable: str, text: str, kind: type):
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}: give a number") from None
    can_be_0 = variable in ("KNET_MAX_WAIT", "KNET_SCORE_THRESHOLD", "KNET_THREADS")
    if not (value > 0 or (value == 0 and can_be_0)):
        raise ValueError(f"{variable} is {text}: give a number above 0")
    return value
