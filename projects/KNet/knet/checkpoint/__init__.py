"""Files of weights: reading them safely, recognising them, and the official names and ours."""

from .convert import convert_file
from .official_names import from_official, to_official
from .recognize import recognize
from .safe_load import load_file

__all__ = ["convert_file", "from_official", "load_file", "recognize", "to_official"]
