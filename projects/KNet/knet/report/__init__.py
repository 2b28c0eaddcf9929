"""A page that tells how good a trained model is, and where it fails."""

from .write import write_run_report

__all__ = ["write_run_report"]
