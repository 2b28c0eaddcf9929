"""What each cell of a map should be: the kernel that should win it, its class.

Shape shorthand: B images, N kernels (instance, then stuff), T things, h x w the mask stride's map.
"""

import torch

from .structures import Pairs, Targets

__all__ = [
    "largest_share",
    "rank_target",
    "semantic_target",
    "top_matched_kernel",
    "top_stuff_class",
]


def top_matched_kernel(matched: Pairs, targets: Targets) -> torch.Tensor:
    """The highest-index matched instance kernel whose object has a share in the cell.

    Returns:
        (B, h, w) kernel index, -1 where no matched object is.
    """
    # 16 bits: this (B, T, h, w) temporary is the criterion's largest
    rank = torch.zeros_like(targets.thing_classes, dtype=torch.int16)
    rank[matched.image, matched.target] = (matched.kernel + 1).to(torch.int16)
    covered = (targets.thing_masks > 0) * rank[:, :, None, None]
    return covered.amax(1).long() - 1


def top_stuff_class(targets: Targets) -> torch.Tensor:
    """The highest stuff class with a share in the cell: (B, h, w), -1 for none."""
    masks = targets.stuff_masks
    if masks.shape[1] == 0:  # a maximum over no classes is undefined
        return masks.new_full((len(masks), *masks.shape[2:]), -1, dtype=torch.long)
    rank = torch.arange(1, masks.shape[1] + 1, device=masks.device, dtype=torch.int16)
    return ((masks > 0) * rank[:, None, None]).amax(1).long() - 1


def rank_target(
    top_kernel: torch.Tensor, top_stuff: torch.Tensor, num_kernels: int
) -> torch.Tensor:
    """The kernel that should win each cell: stuff kernels stand behind the instance kernels.

    Args:
        top_kernel, top_stuff: (B, h, w) of the two functions above.
        num_kernels: instance kernels.

    Returns:
        (B, h, w) kernel index, -1 for none.
    """
    return torch.where(top_stuff >= 0, top_stuff + num_kernels, top_kernel)


def semantic_target(
    top_kernel: torch.Tensor,
    top_stuff: torch.Tensor,
    thing_class_of_kernel: torch.Tensor,
    num_thing_classes: int,
) -> torch.Tensor:
    """Class of each cell: stuff first, matched things over it by rising kernel index.

    Args:
        top_kernel, top_stuff: (B, h, w) of the functions above.
        thing_class_of_kernel: (B, N) class of the object that each kernel is matched with.
        num_thing_classes: stuff classes stand behind them.

    Returns:
        (B, h, w) model class, -1 for a cell without label.
    """
    index = top_kernel.clamp(min=0).flatten(1)
    thing = thing_class_of_kernel.gather(1, index).view_as(top_kernel)
    stuff = torch.where(top_stuff >= 0, top_stuff + num_thing_classes, -1)
    return torch.where(top_kernel >= 0, thing, stuff)


def largest_share(targets: Targets, num_thing_classes: int) -> torch.Tensor:
    """Class of each cell: that of the object or stuff with the largest share, matched or not.

    Returns:
        (B, h, w) model class, -1 for a cell without label; things win a draw.
    """
    share, thing = targets.thing_masks.max(1)
    label = targets.thing_classes.gather(1, thing.flatten(1)).view_as(thing)
    label = torch.where(share > 0, label, -1)
    if targets.stuff_masks.shape[1] == 0:
        return label
    stuff_share, stuff = targets.stuff_masks.max(1)
    return torch.where(stuff_share > share, stuff + num_thing_classes, label)
