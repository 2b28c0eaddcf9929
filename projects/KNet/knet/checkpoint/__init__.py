"""Weights of other implementations, under this model's names."""

from .official_names import from_official, to_official

__all__ = ["from_official", "to_official"]
