#!/usr/bin/env python
"""The command ``knet draw-losses`` from a checkout."""

import sys

from knet.commands.draw_losses import main

if __name__ == "__main__":
    sys.exit(main())
