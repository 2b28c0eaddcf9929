"""Pictures of results: panoptic predictions beside the truth, and the losses of a training."""

from .loss_curve import draw_losses
from .panoptic_pictures import draw_contact_sheet, draw_predictions

__all__ = ["draw_contact_sheet", "draw_losses", "draw_predictions"]
