"""The most memory that a process has held, as its system counts it."""

import sys
from typing import Optional

__all__ = ["peak_bytes"]


def peak_bytes() -> Optional[int]:
    """Of this process since it began; None where the system does not tell, as Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on a Mac, KB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
