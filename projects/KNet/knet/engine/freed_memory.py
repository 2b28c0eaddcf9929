"""What a training step frees on a CPU is kept for the next one, which asks for the same again."""

import ctypes
import os

__all__ = ["keep_freed_memory"]

# of glibc's malloc.h; the largest block that it lets lie among the others
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST_BLOCK = -1, -3, 32 * 2**20


def keep_freed_memory() -> bool:
    """Let the C library hand free memory out again, not back to the system.

    The system clears each page that it gives. Blocks of more than 32 MiB go back as they did.
    Of the whole process, and of loaders' workers that it forks.

    Returns:
        whether it was set: by glibc alone, and not where the environment says otherwise.
    """
    asked = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if any(name in os.environ for name in asked):  # the user has
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; no library of the process
        return False
    never = -1  # as a size it is the largest
    return bool(set_option(_MMAP_THRESHOLD, _LARGEST_BLOCK) and set_option(_TRIM_THRESHOLD, never))
