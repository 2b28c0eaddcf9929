"""Pictures of results: predictions beside the truth, and the curves of trainings."""

from .drawing import VideoDrawer, draw_result
from .loss_curve import draw_losses
from .pictures import draw_contact_sheet, draw_predictions
from .results import KINDS
from .run_curves import draw_runs

__all__ = [
    "KINDS",
    "VideoDrawer",
    "draw_contact_sheet",
    "draw_losses",
    "draw_predictions",
    "draw_result",
    "draw_runs",
]
