"""Pictures of results: predictions beside the truth, and the losses of a training."""

from .loss_curve import draw_losses
from .pictures import draw_contact_sheet, draw_predictions
from .results import KINDS

__all__ = ["KINDS", "draw_contact_sheet", "draw_losses", "draw_predictions"]
